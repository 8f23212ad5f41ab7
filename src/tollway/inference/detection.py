"""Pictures to pixels, and heat maps to boxes: object detection.

A picture is scaled to fit a square and padded at its right or bottom, so that one factor leads from pixels of the picture to
pixels of the model and back. The model says for each cell of a grid how sure it is that an object of each label has its
middle there (`heat`, logits) and where that object's edges are (`boxes`, pixels of the model). What is shown of it (peaks,
then non-maximum suppression, thresholds) is decided here and nowhere else, by options that travel with the package.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Self

import numpy as np

from tollway.inference import boxes
from tollway.inference.encoding import IGNORE, Arrays, Encoded, Row, Table, Target, column, wrong
from tollway.inference.image import ImageFeatures, opened
from tollway.kit.errors import BadRequest

STRIDE: Final = 16  # the side of the square is a multiple of it
LEAST: Final = 0.01  # a score below is no answer at any threshold


class DetectionFeatures(ImageFeatures):
    """`image` to `pixel_values` [rows, channels, size, size]; `boxes` of a training row, a list of {"label", "box": [left,
    top, right, bottom]} in its pixels, to `true_boxes` and `true_labels`."""

    kind: ClassVar[str] = "detection"
    defaults: ClassVar[dict[str, Any]] = {**ImageFeatures.defaults, "fit": "pad", "threshold": 0.4, "overlap": 0.5,
                                          "most": 100}  # fmt: skip

    @classmethod
    def fit(cls, task: str, table: Table, options: Mapping[str, Any] | None = None) -> Self:
        given = dict(options or {})
        if not given.get("threshold"):
            given.pop("threshold", None)  # training chooses it; until then, and without validation rows, the usual one
        images = column(table, "image")
        if images:
            size = int(given.get("size") or 0) or min(224, max(opened(images[0], 0).size))
            given["size"] = -(-size // STRIDE) * STRIDE
        return super().fit(task, table, given)

    @staticmethod
    def _target(task: str, options: Mapping[str, Any], table: Table) -> Target:
        return DetectionFeatures.fit_target(task, table)

    @classmethod
    def fit_target(cls, task: str, table: Table) -> Target:
        rows = column(table, "boxes")
        labels = sorted({label for number, one in enumerate(rows) for label, _ in boxes_of({"boxes": one}, number)})
        if not labels:
            raise BadRequest("No picture of the training rows has a box: there is nothing to learn.", param="boxes")
        return Target("label", labels)

    def _one(self, row: Row, number: int) -> Encoded:
        picture = opened(row.get("image"), number)
        return {"_size": np.asarray(picture.size, dtype=np.int64), "pixel_values": self._square(picture, number)}

    def _pixels(self, row: Row, number: int) -> np.ndarray:
        return self._square(opened(row.get("image"), number), number)

    def _square(self, picture: Any, number: int) -> np.ndarray:
        """The picture in the upper left of a square, the rest in the usual brightness."""
        from PIL import Image

        scale = self.size / max(picture.size)
        fitting = tuple(max(1, round(side * scale)) for side in picture.size)
        try:
            picture = picture.convert("L" if self.channels == 1 else "RGB")
            if picture.size != fitting:
                picture = picture.resize(fitting, Image.Resampling.BILINEAR)
        except (OSError, ValueError, SyntaxError) as error:  # a picture that breaks off in the middle
            raise wrong(number, "image", f"the picture is damaged ({error}).") from error
        pixels = np.asarray(picture, dtype=np.uint8).reshape(fitting[1], fitting[0], self.channels)
        usual = np.clip(np.asarray(self.mean) * 255, 0, 255).astype(np.uint8)
        square = np.tile(usual, (self.size, self.size, 1))
        square[: fitting[1], : fitting[0]] = pixels
        return np.ascontiguousarray(square.transpose(2, 0, 1))

    def targets(self, rows: Sequence[Row]) -> Arrays:
        """`true_boxes` [rows, most, 4] in pixels of the model and `true_labels` [rows, most], padded with 0 and -100."""
        known = {name: number for number, name in enumerate(self.labels)}
        found = [boxes_of(row, number) for number, row in enumerate(rows)]
        width = max(1, *(len(one) for one in found)) if found else 1
        corners = np.zeros((len(rows), width, 4), dtype=np.float32)
        labels = np.full((len(rows), width), IGNORE, dtype=np.int64)
        for number, (row, mine) in enumerate(zip(rows, found, strict=True)):
            scale = self.size / max(opened(row.get("image"), number).size) if mine else 1.0
            for place, (label, box) in enumerate(mine):
                if label in known:  # one that training has never seen cannot be found: only missed
                    corners[number, place], labels[number, place] = np.asarray(box) * scale, known[label]
        return {"true_boxes": corners, "true_labels": labels}

    def decode(
        self, outputs: Arrays, rows: Sequence[Row] = (), encoded: Sequence[Encoded] = ()
    ) -> list[dict[str, Any]]:
        """Of each picture its size and `detections`, surest first, each with label, score and box in the picture's pixels;
        those below the package's threshold too: whoever shows them cuts."""
        sizes = [one["_size"] for one in encoded] or [np.asarray((self.size, self.size))] * len(outputs["heat"])
        return [self._found(*one) for one in zip(outputs["heat"], outputs["boxes"], sizes, strict=True)]

    def _found(self, heat: np.ndarray, edges: np.ndarray, size: np.ndarray) -> dict[str, Any]:
        width, height = (int(side) for side in size)
        labels, cells, scores = boxes.peaks(heat, int(self.options["most"]), LEAST)
        corners = edges.reshape(4, -1)[:, cells].T.astype(np.float64) * (max(width, height) / self.size)
        corners = np.clip(corners, 0, (width, height, width, height))
        there = np.flatnonzero((corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1]))
        labels, scores, corners = labels[there], scores[there], corners[there]
        kept = boxes.suppressed(corners, labels, float(self.options["overlap"]))
        detections = [
            {"label": self.labels[labels[at]], "score": float(scores[at]), "box": corners[at].tolist()} for at in kept
        ]
        return {"width": width, "height": height, "detections": detections}


def boxes_of(row: Row, number: int) -> list[tuple[str, tuple[float, float, float, float]]]:
    """The (label, box) of a row's objects. Raises BadRequest for what is no box."""
    found = []
    for one in row.get("boxes") or ():
        try:
            left, top, right, bottom = (float(side) for side in one["box"])
            label = str(one["label"])
        except (KeyError, TypeError, ValueError) as error:
            raise wrong(number, "boxes", 'each box is {"label": …, "box": [left, top, right, bottom]}.') from error
        if not (np.isfinite((left, top, right, bottom)).all() and right > left and bottom > top):
            raise wrong(number, "boxes", f"{one['box']} is no box: right and bottom come after left and top.")
        found.append((label, (left, top, right, bottom)))
    return found
