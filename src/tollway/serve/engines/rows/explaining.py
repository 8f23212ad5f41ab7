"""Why the model answered as it did, asked of the running replica: every perturbed row goes through the lanes when they
have nothing else to do, so that explaining does not slow down answering."""

import importlib
from collections.abc import Sequence
from typing import Any

from tollway.inference import Arrays, Features, masking
from tollway.kit.errors import BadRequest
from tollway.serve.engines.rows.beside import Ask, Beside
from tollway.serve.engines.rows.lanes import Lanes
from tollway.serve.engines.rows.rack import Answers, Row

SAMPLES = 400  # how often the model is asked for one explanation, unless the caller says


class InBackground:
    """The face of a Predictor, answered by the lanes' background queue."""

    def __init__(self, features: Features, lanes: Lanes) -> None:
        self.features = features
        self._lanes = lanes

    def predict(self, rows: Sequence[Row]) -> Answers:
        """One answer per row."""
        return self._lanes.answer_blocking(rows)

    def tokens(self, rows: Sequence[Row]) -> list[int]:
        """As the predictor counts them."""
        return [self.features.length(one) for one in self.features.encode(rows)]

    def run(self, arrays: Arrays) -> Arrays:
        """Not offered: what explains through a service sees answers, not tensors."""
        raise BadRequest("This method needs the model itself.", code="unsupported_parameter", param="method")


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
