"""Examples for the report: what the model gets right, what wrong, and where it is wrong and sure."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tollway.forge.evaluate.tasks import TARGETS, Case

EACH = 6
TEXT_MAX = 400
Row = Mapping[str, Any]


def pick(task: str, case: Case, rows: Sequence[Row], each: int = EACH) -> dict[str, list[dict[str, Any]]]:
    """Rows with their truth and answer, as plain JSON: `right`, `wrong` and, for classifiers, `sure_and_wrong`."""
    if case.row_score is None:
        return {}
    order = np.argsort(case.row_score, kind="stable")
    sign = case.row_score
    if case.judged is None:
        best, worst = order[::-1][:each], order[:each]
        return {"best": [_shown(case, rows, at) for at in best], "worst": [_shown(case, rows, at) for at in worst]}
    wrong = [at for at in order if sign[at] < 0]
    right = [at for at in order if sign[at] >= 0]
    rng = np.random.default_rng(0)
    some_right = rng.choice(right, min(each, len(right)), replace=False).tolist() if right else []
    rest = wrong[each:]
    some_wrong = rng.choice(rest, min(each, len(rest)), replace=False).tolist() if rest else []
    return {
        "sure_and_wrong": [_shown(case, rows, at) for at in wrong[:each]],
        "wrong": [_shown(case, rows, at) for at in some_wrong],
        "right": [_shown(case, rows, at) for at in some_right],
    }


def _shown(case: Case, rows: Sequence[Row], at: int) -> dict[str, Any]:
    row = rows[int(case.unit_rows[at])]
    inputs = {name: plain(value) for name, value in row.items() if name not in TARGETS and not name.startswith("x_")}
    truth = {
        name: plain(row[name]) for name in ("label", "target", "tags", "answer", "rating", "boxes") if row.get(name) is not None
    }
    answer = {name: plain(value) for name, value in case.answers[at].items() if name != "embedding"}
    if len(answer.get("scores") or {}) > 5:
        best = sorted(answer["scores"].items(), key=lambda one: -one[1])[:5]
        answer["scores"] = dict(best)
    return {"input": inputs, "truth": truth, "answer": answer}


def plain(value: Any) -> Any:
    """A value as JSON: pictures become data URLs, long texts are cut, numpy becomes Python."""
    if isinstance(value, bytes):
        kind = "png" if value[:4] == b"\x89PNG" else "jpeg"
        return (
            f"data:image/{kind};base64,{base64.b64encode(value).decode()}"
            if len(value) <= 200_000
            else "(a large picture)"
        )
    if isinstance(value, str):
        return value if len(value) <= TEXT_MAX else value[:TEXT_MAX] + " …"
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value[:60]]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)
