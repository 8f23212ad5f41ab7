"""What all requests share: an engine call, the limits of a call, the refusal that names a parameter."""

from typing import Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta

from tollway.kit.errors import BadRequest
from tollway.serve.engines import Caps

INPUTS_MAX = 256
INPUTS_AT_ONCE: Final = 16
"""What an engine that reads inputs one after the other gets of a call before somebody else's turn."""
Name = Annotated[str, Meta(min_length=1, max_length=120)]


class EngineCall(msgspec.Struct):
    """One engine call: where to and with which body, of which content type. `sound`: what is answered is no JSON but a
    file of this type."""

    path: str
    body: bytes
    kind: str = "application/json"
    sound: str = ""


class OnePiece(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """A request that is answered by one engine call, in one piece. `shapes`: the engine's answer is not yet the caller's."""

    model: Name
    user: str | None = None  # accepted, and without effect on the answer

    operation: ClassVar[str]
    generates: ClassVar[bool] = False
    constrained: ClassVar[bool] = False
    stream: ClassVar[bool] = False
    output_max: ClassVar[int] = 0
    choices: ClassVar[int] = 1
    shapes: ClassVar[bool] = False

    @property
    def count(self) -> int:
        """How many inputs it has."""
        return 1

    def input_bytes(self) -> int:
        """An upper bound on tokens: no tokenizer makes more tokens than bytes."""
        return 0

    def counted(self, caps: Caps) -> tuple[str, int]:
        """The meter that is used instead of tokens, and its units; ("", 0): tokens are counted."""
        return "", 0

    def refuse_unsupported(self, caps: Caps) -> None:
        """Raise BadRequest for what this engine cannot honour."""

    def engine_calls(
        self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]
    ) -> list[EngineCall]:
        """The one engine call."""
        raise NotImplementedError

    def shaped(self, answer: bytes, call_id: str, at_s: int) -> bytes:
        """The engine's answer as the caller reads it."""
        return answer


def embedding(model: str, inputs: list[str], encoding: str, caps: Caps) -> list[EngineCall]:
    """The calls that embed these texts: one, or several to be made one after the other."""
    each = INPUTS_AT_ONCE if caps.one_by_one else len(inputs)
    return [
        EngineCall("/embeddings", msgspec.json.encode({"model": model, "input": some, "encoding_format": encoding}))
        for some in (inputs[start : start + each] for start in range(0, len(inputs), each))
    ]


def text_bytes(given: Any) -> int:
    """Bytes of all text in an input."""
    if isinstance(given, str):
        return len(given.encode())
    if isinstance(given, dict):
        return sum(text_bytes(value) for value in given.values())
    if isinstance(given, list):
        return sum(text_bytes(value) + 1 for value in given)
    return 8


def unsupported(param: str, why: str) -> BadRequest:
    """A refusal that names a parameter."""
    return BadRequest(
        f"The parameter {param!r} cannot be used like this: {why}.", param=param, code="unsupported_parameter"
    )
