"""Which meters the calls of a model use, known before one is made: so that a plan can be asked for a price of each.

Call by call the same is said by `counted` in `serve/requests`.
"""

from typing import Final

from tollway.kit.formats import ROWS
from tollway.serve.models import Model

Use = tuple[str, ...]
"""The meters of one kind of call, besides `requests`: a call of that kind uses all of them."""

_TOKENS: Final[Use] = ("input_tokens", "output_tokens")
OF_KIND: Final[dict[str, Use]] = {
    "chat": _TOKENS,
    "translation": _TOKENS,
    "embedding": ("input_tokens",),
    "rerank": ("input_tokens",),
    "moderation": ("input_tokens",),
    "recommendation": ("rows",),
    "image-generation": ("images",),
    "transcription": ("audio_seconds",),
    "speech": ("characters",),
}
"""Of the kinds whose name says it; of the others their input does."""
_OF_INPUT: Final[dict[str, Use]] = {"": ("input_tokens",), "text": ("input_tokens",), "image": ("images",)}
_NOT_EXPLAINED: Final = (
    *("embedding", "image-generation", "object-detection", "translation", "question-answering", "token-classification"),
)


def uses_of(model: Model, input: str = "") -> tuple[Use, ...]:
    """The kinds of call that a model answers, by their meters. `input`: what one input of its package is (text, image or
    row). An adapter is priced as its base is."""
    if model.base:
        return ()
    uses = [OF_KIND.get(model.kind) or _OF_INPUT.get(input, ("rows",))]
    if model.engine in ROWS and model.kind not in _NOT_EXPLAINED:
        uses.append(("explanations",))
    if model.engine == "llama_cpp" and model.kind == "chat":
        uses.append(("training_tokens",))
    return tuple(uses)
