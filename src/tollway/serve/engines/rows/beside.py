"""The process beside a replica that looks inside its model: integrated gradients and attention, by torch on the `.pt2` file.

    beside = Beside(folder, cores=2)
    beside.ask(Ask(row={"text": "a lovely film"}, method="attention", target="good"), until=clock() + 60)

Torch and gradients take memory and time that a replica needs for answering: they are kept out of it. The process starts with
the first such question, gives way to everything else, and is gone again when none has come for a while. It is ended by its
time limit; what it cannot do, it says as an error of the caller's, and the replica goes on as if nothing had been asked.
"""

import functools
import importlib.util
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import msgspec

from tollway.kit.errors import BadRequest, NotFound, TollwayError, Unavailable
from tollway.serve.engines import child

IDLE_S: Final = 300.0
_FORMAT: Final = "pt2"
_NICE: Final = 10
_POINTS: Final = 1280


class Spec(msgspec.Struct, frozen=True):
    """What the process has to know."""

    folder: str
    cores: int
    idle_s: float
    parent: int


class Ask(msgspec.Struct, frozen=True):
    """What is explained, and how. `points`: how many on the way to the input gradients may be taken at."""

    row: Mapping[str, Any]
    method: str
    target: str
    points: int = _POINTS


class Seen(msgspec.Struct, omit_defaults=True):
    """One weight per unit; or why there are none."""

    weights: list[float] = []
    checks: dict[str, float] = {}
    extra: dict[str, Any] = {}
    wrong: str = ""
    param: str | None = None
    code: str = ""
    hint: str = ""


class Beside:
    """The process as the replica sees it. For one thread, which must live as long as the replica does: the process ends
    with the thread that started it."""

    def __init__(
        self, folder: Path, cores: int, *, idle_s: float = IDLE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._cores, self._idle_s, self._clock = folder, cores, idle_s, clock
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, what: Ask, until: float) -> Seen:
        """The answer. Raises BadRequest for what cannot be looked into, and Unavailable (code "late")."""
        self._refuse_impossible(what.method)
        known = self.process is not None
        answer = self._exchange(what, until)
        if not answer and known:  # it had nothing to do and was just leaving
            answer = self._exchange(what, until)
        if not answer:
            raise _failed(what.method)
        seen = msgspec.json.decode(answer, type=Seen)
        if seen.wrong:
            raise BadRequest(seen.wrong, param=seen.param, code=seen.code or None, hint=seen.hint)
        return seen

    def close(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _refuse_impossible(self, method: str) -> None:
        from tollway.inference import runners  # lazy: numpy

        try:
            runners.find(self._folder, _FORMAT)
        except NotFound as error:
            raise _other_method(
                f"{method} looks inside the model, and this version holds nothing to look into.", str(error)
            ) from error
        if importlib.util.find_spec("torch") is None:
            raise _other_method(
                f"{method} needs torch, which is not installed here.", "pip install 'tollway[factory]'."
            )

    def _exchange(self, what: Ask, until: float) -> bytes:
        """A line there and a line back; nothing, when the process is gone."""
        process = self.process = self.process or self._started()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(what) + b"\n")
            process.stdin.flush()
            told, _, _ = select.select([process.stdout], [], [], max(0.0, until - self._clock()))
            answer = process.stdout.readline() if told else b""
        except BrokenPipeError:
            told, answer = [process.stdout], b""
        if not answer:
            self.close()
        if not told:
            raise Unavailable("The time for this explanation was over before it was found.", code="late")
        return answer

    def _started(self) -> "subprocess.Popen[bytes]":
        spec = Spec(str(self._folder.absolute()), self._cores, self._idle_s, os.getpid())
        # not by standard input: what is read there ahead of its turn would not be seen to wait
        orders = msgspec.json.encode(spec).decode()
        return subprocess.Popen(  # noqa: S603 - our own interpreter and our own orders
            [sys.executable, "-P", "-m", "tollway.serve.engines.rows.beside", orders],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip


def _other_method(why: str, hint: str) -> BadRequest:
    others = "shap, permutation, lime and occlusion need nothing of the kind."
    return BadRequest(why, param="method", code="unsupported_parameter", hint=f"{hint} {others}")


def _failed(method: str) -> BadRequest:
    return _other_method(
        f"{method} failed on this input: it may be too large to be looked into here.", "Try a smaller one."
    )


# -- in the process


def main() -> int:
    """Answer line by line until nothing is asked any more, or the replica is gone."""
    spec = msgspec.json.decode(sys.argv[1], type=Spec)
    child.settle(spec.parent)
    out = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what libraries print can quote an input
    os.nice(_NICE)
    look = functools.cache(functools.partial(_looking, Path(spec.folder), spec.cores))
    while select.select([sys.stdin], [], [], spec.idle_s)[0]:
        asked = sys.stdin.buffer.readline()
        if not asked:
            break
        out.write(msgspec.json.encode(_answered(look, msgspec.json.decode(asked, type=Ask))) + b"\n")
        out.flush()
    return 0


def _answered(look: Callable[[], Callable[[Ask], Seen]], ask: Ask) -> Seen:
    try:
        return look()(ask)
    except TollwayError as error:
        wrong = error
    except (MemoryError, RuntimeError):  # torch says so when there is no memory left
        wrong = _failed(ask.method)
    return Seen(wrong=wrong.message, param=wrong.param, code=wrong.code, hint=wrong.hint)


def _looking(folder: Path, cores: int) -> Callable[[Ask], Seen]:
    from tollway import inference  # lazy here and below: torch is heavy, and only this process has it
    from tollway.inference import graph, inside, masking, runners

    features = inference.load_features(folder)
    opened = graph.opened(runners.find(folder, _FORMAT)[1], cores)

    def look(ask: Ask) -> Seen:
        pieces = masking.cut(SimpleNamespace(features=features), ask.row)
        if ask.method == "attention":
            weights, extra = inside.attention(opened, features, pieces)
            return Seen(weights.tolist(), {}, extra)
        weights, checks = inside.by_gradients(opened, features, pieces, ask.target, ask.points)
        return Seen(weights.tolist(), checks)

    return look


if __name__ == "__main__":
    sys.exit(main())
