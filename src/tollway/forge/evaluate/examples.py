"""Examples: for the report what the model gets right and wrong, and for buyers one input to copy (`to_call`)."""

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tollway.forge.evaluate.tasks import TARGETS, Case
from tollway.guard import masking
from tollway.inference import image as images

EACH = 6
TEXT_MAX = 400
CALL_FILE = "example.json"
_NO_ROW = ("image-generation", "language-modeling", "chat", "preference", "sentence-embedding")
CALL_TEXT_MAX = 200
CALL_PICTURE_BYTES, CALL_PICTURE_SIDE = 3_000, 64
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


def to_call(task: str, rows: Sequence[Row], fields: Collection[str]) -> Any:
    """A real input of the test rows as a caller would send it: short, personal data covered, pictures small enough to
    paste; None where a call carries no row. The first row that lacks nothing, else the first."""
    wanted = ["user"] if task == "recommendation" else [name for name in fields if name not in TARGETS]
    if not rows or task in _NO_ROW:
        return None
    whole = (row for row in rows if all(row.get(name) is not None for name in wanted))
    row = next(whole, rows[0])
    shown = {name: _to_send(row[name]) for name in wanted if row.get(name) is not None}
    return next(iter(shown.values())) if set(shown) in ({"text"}, {"source"}, {"user"}) else shown or None


def _to_send(value: Any) -> Any:
    if isinstance(value, str):
        covered = masking.Masker(style="kind").mask(value).text
        short = covered[:CALL_TEXT_MAX]
        return short if len(covered) <= CALL_TEXT_MAX else short.rpartition(" ")[0] or short
    if isinstance(value, (bytes, np.ndarray)) or (isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes)):
        return plain(_small(value))
    return plain([_to_send(one) for one in value] if isinstance(value, list) else value)


def _small(picture: Any) -> bytes:
    """The picture itself when it is short, else a small copy of it."""
    if isinstance(picture, bytes) and len(picture) <= CALL_PICTURE_BYTES:
        return picture
    copy = images.opened(picture, 0).convert("RGB")
    copy.thumbnail((CALL_PICTURE_SIDE, CALL_PICTURE_SIDE))
    out = io.BytesIO()
    copy.save(out, format="JPEG", quality=70)
    return out.getvalue()


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
