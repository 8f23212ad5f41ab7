"""Boxes of objects in pictures, as `prepare` reads and looks at them: [{"label": "bag", "box": [left, top, right, bottom]}]."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tollway.forge.data.problems import Problems
from tollway.kit.errors import BadRequest

if TYPE_CHECKING:
    import pyarrow as pa

SLACK: Final = 1.0  # pixels: a box may be so far outside of its picture before it is wrong; it is cut then


def arrow() -> "pa.DataType":
    """How a row's boxes are stored."""
    import pyarrow as pa

    return pa.list_(pa.struct([("label", pa.string()), ("box", pa.list_(pa.float64()))]))


def read(value: Any) -> list[dict[str, Any]]:
    """A row's boxes from JSON. Raises ValueError saying what is none."""
    if not isinstance(value, list):
        raise ValueError("a list of boxes is expected")
    return [_one(each) for each in value]


def _one(given: Any) -> dict[str, Any]:
    label = given.get("label") if isinstance(given, Mapping) else None
    box = given.get("box") if isinstance(given, Mapping) else None
    if not isinstance(label, str) or not label.strip():
        raise ValueError("a box has no label")
    reason = wrong(box)
    if reason:
        raise ValueError(f"the box {box!r:.60} of {label!r:.40} {reason}")
    assert box is not None
    return {"label": label.strip(), "box": [float(side) for side in box]}


def wrong(box: Any) -> str:
    """What is wrong with [left, top, right, bottom]; "" when nothing is."""
    numbers = isinstance(box, (list, tuple)) and len(box) == 4 and all(type(side) in (int, float) for side in box)
    if not numbers or not all(_finite(side) for side in box):
        return "is not four numbers: left, top, right, bottom"
    return "" if box[2] > box[0] and box[3] > box[1] else "has no area: right and bottom come after left and top"


def _finite(side: float) -> bool:
    try:
        return math.isfinite(side)
    except OverflowError:  # a whole number that no float is as large as
        return False


def outside(box: list[float], width: float, height: float) -> bool:
    """Whether a box leaves its picture by more than the slack."""
    return min(box[0], box[1]) < -SLACK or box[2] > width + SLACK or box[3] > height + SLACK


def examined(tables: "Mapping[str, pa.Table]", desk: Any) -> dict[str, Any]:
    """The labels there are, and how many boxes each has, by split. Raises BadRequest with every box that leaves its
    picture, and where there is nothing to learn."""
    problems, counts = Problems("The dataset"), {}
    for split, table in tables.items():
        counts[split] = Counter(one["label"] for row in table["boxes"].to_pylist() for one in row)
        for number, row in enumerate(table.to_pylist(), 1):
            width, height = _size(row["image"])
            for one in row["boxes"]:
                if outside(one["box"], width, height):
                    shown = f"{split}, row {number:,}: {one['label']} {one['box']} in {width} x {height}"
                    problems.add("box", "a box leaves its picture", shown=shown)
    problems.require(hint="Correct the boxes (pixels: left, top, right, bottom) and import the dataset again.")
    train = counts["train"]
    if not train:
        raise BadRequest(
            "No training picture has a box: there is nothing to learn.",
            code="no_boxes",
            hint="Check the annotations and the split.",
        )
    everything = sum(counts.values(), Counter())
    unseen = sorted(set(everything) - set(train))
    if unseen:
        desk.warn(f"No training picture has {', '.join(map(repr, unseen[:10]))}: it cannot be learned.")
    empty = sum(not len(row) for row in tables["train"]["boxes"])
    if empty:
        desk.note(
            f"{empty:,} of {tables['train'].num_rows:,} training pictures have no object: they teach what is none."
        )
    return {
        "labels": sorted(everything),
        "classes": {split: dict(sorted(one.items())) for split, one in counts.items()},
    }


def _size(picture: bytes) -> tuple[int, int]:
    """Width and height from a PNG's header: pictures on the shelf are PNG."""
    return int.from_bytes(picture[16:20], "big"), int.from_bytes(picture[20:24], "big")
