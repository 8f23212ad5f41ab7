"""Why the model answered as it did, asked of the running replica: every perturbed row goes through the lanes when they
have nothing else to do, so that explaining does not slow down answering."""

import importlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from tollway.inference import Arrays, Features, masking
from tollway.kit.errors import BadRequest, Unavailable
from tollway.serve.engines.rows.beside import Ask, Beside
from tollway.serve.engines.rows.lanes import BACKGROUND, Lanes
from tollway.serve.engines.rows.rack import Answers, Row

_PORTION_ROWS: Final = 256
_PORTION_CHARACTERS: Final = 64 * 1024
SAMPLES = 400  # how often the model is asked for one explanation, unless the caller says


class InBackground:
    """The face of a Predictor, answered by the lanes' background queue as long as somebody waits for the explanation: what was
    given up would keep the next one waiting."""

    def __init__(
        self, features: Features, lanes: Lanes, until: float = math.inf, clock: Callable[[], float] = time.monotonic,
        call_id: str = "",
    ) -> None:  # fmt: skip
        self.features, self._call_id = features, call_id
        self._lanes, self._until, self._clock = lanes, until, clock

    def predict(self, rows: Sequence[Row]) -> Answers:
        """One answer per row. Raises Unavailable (code "late") when the time is over."""
        answers: Answers = []
        for some in _portions(rows):
            left_s = self._until - self._clock()
            if left_s <= 0:
                raise Unavailable("The time for this explanation was over before it was found.", code="late")
            left_ms = 0.0 if left_s == math.inf else left_s * 1000
            turn = msgspec.structs.replace(BACKGROUND, left_ms=left_ms)
            answers += self._lanes.answer_blocking(some, turn, self._call_id)
        return answers

    def tokens(self, rows: Sequence[Row]) -> list[int]:
        """As the predictor counts them."""
        return [self.features.length(one) for one in self.features.encode(rows)]

    def run(self, arrays: Arrays) -> Arrays:
        """Not offered: what explains through a service sees answers, not tensors."""
        raise BadRequest("This method needs the model itself.", code="unsupported_parameter", param="method")


def _portions(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Rows in portions: thousands of long texts take seconds to be encoded, and half a gigabyte to be held."""
    start = size = 0
    for at, row in enumerate(rows):
        size += sum(len(value) for value in row.values() if isinstance(value, str | bytes))
        if size >= _PORTION_CHARACTERS or at - start + 1 == _PORTION_ROWS:
            yield rows[start : at + 1]
            start, size = at + 1, 0
    if start < len(rows):
        yield rows[start:]


def explained(
    predictor: InBackground, beside: Beside, rows: Sequence[Row], method: str, target: str | None, samples: int | None,
    until: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """One note per row. Raises BadRequest for a method that this model does not have."""
    try:
        explain: Any = importlib.import_module("tollway.inference.explain")
    except ImportError as error:
        raise BadRequest("This model cannot be explained here.", code="unsupported_operation", param="model") from error
    if method in explain.INSIDE:
        return [_inside(explain, predictor, beside, row, method, target, samples, until) for row in rows]
    budget = samples or SAMPLES
    return [explain.explain(predictor, row, method or "shap", target=target, budget=budget).to_json() for row in rows]


def _inside(
    explain: Any, predictor: InBackground, beside: Beside, row: Row, method: str, target: str | None, samples: int | None,
    until: float,
) -> dict[str, Any]:  # fmt: skip
    """What is found inside comes from the process beside; how true it is of what is served, the lanes say."""
    game = explain.Game(predictor, masking.cut(predictor, row), target)
    ask = Ask(row, method, game.target) if samples is None else Ask(row, method, game.target, samples)
    seen = beside.ask(ask, until)
    return dict(explain.from_inside(game, method, seen.weights, seen.checks, seen.extra).to_json())
