"""Detectors that hardly look: what a model that learnt must beat.

`usual-boxes` names the boxes that training pictures usually have, wherever they are. `blobs+logistic` is what was done before
networks: what stands out of the background is one object each (Otsu's threshold, connected parts), and a logistic regression
on its pixels says which.
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tollway.inference import boxes_of
from tollway.inference.boxes import overlaps
from tollway.inference.image import opened

Row = Mapping[str, Any]
_ROWS_MAX: Final = 1500  # pictures learnt from
_SIDE: Final = 12  # a cut-out's pixels a side, for the regression
_SMALLEST: Final = 0.04  # of the picture's side: what is smaller is grain
_NOTHING: Final = ""
_APART: Final = 0.3  # a blob that overlaps every object by less shows none


class UsualBoxes:
    """Of each label the middle one of all its boxes, as sure as the label is frequent; the same for every picture."""

    def __init__(self, train: Sequence[Row]) -> None:
        shares: dict[str, list[NDArray[np.float64]]] = {}
        seen: Counter[str] = Counter()
        for number, row in enumerate(train[:_ROWS_MAX]):
            size = np.asarray(opened(row["image"], number).size * 2, dtype=np.float64)
            for label, box in boxes_of(row, number):
                shares.setdefault(label, []).append(np.asarray(box) / size)
            seen.update({label for label, _ in boxes_of(row, number)})
        self.usual = {label: np.median(np.stack(mine), axis=0) for label, mine in shares.items()}
        self.sure = {label: count / max(1, min(len(train), _ROWS_MAX)) for label, count in seen.items()}

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        answers = []
        for number, row in enumerate(rows):
            width, height = opened(row["image"], number).size
            found = [
                {"label": label, "score": self.sure[label], "box": (box * (width, height, width, height)).tolist()}
                for label, box in self.usual.items()
            ]
            answers.append({"width": width, "height": height, "detections": found})
        return answers


class Blobs:
    """What stands out, and what it most likely is."""

    def __init__(self, train: Sequence[Row]) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        cuts, names = [], []
        for number, row in enumerate(train[:_ROWS_MAX]):
            grey, truth = _grey(row["image"], number), boxes_of(row, number)
            for label, box in truth:
                cuts.append(_cut(grey, box))
                names.append(label)
            blobs = blobs_of(grey)
            if len(blobs) and truth:
                apart = overlaps(blobs, np.asarray([box for _, box in truth])).max(axis=1) < _APART
                cuts += [_cut(grey, box) for box in blobs[apart]]
                names += [_NOTHING] * int(apart.sum())
        self.only = names[0] if len(set(names)) == 1 else None
        self.model = LogisticRegression(max_iter=60, C=0.1)
        if self.only is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a yardstick need not be the best of its kind
                self.model.fit(np.stack(cuts), names)

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        answers = []
        for number, row in enumerate(rows):
            grey = _grey(row["image"], number)
            blobs = blobs_of(grey)
            found = self._named(grey, blobs) if len(blobs) else []
            found.sort(key=lambda one: -one["score"])
            answers.append({"width": grey.shape[1], "height": grey.shape[0], "detections": found})
        return answers

    def _named(self, grey: NDArray[np.float64], blobs: NDArray[np.float64]) -> list[dict[str, Any]]:
        if self.only is not None:
            return [{"label": self.only, "score": 0.5, "box": box.tolist()} for box in blobs]
        shares = self.model.predict_proba(np.stack([_cut(grey, box) for box in blobs]))
        named = [(str(name), at) for at, name in enumerate(self.model.classes_) if name != _NOTHING]
        best = [max(named, key=lambda one: share[one[1]]) for share in shares]
        return [
            {"label": name, "score": float(share[at]), "box": box.tolist()}
            for (name, at), share, box in zip(best, shares, blobs, strict=True)
        ]


def blobs_of(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """The boxes of what is far from the picture's middle brightness."""
    from scipy import ndimage

    away = ndimage.gaussian_filter(np.abs(grey - np.median(grey)), 1.0)
    parts, _ = ndimage.label(away > _otsu(away))
    least = max(3.0, _SMALLEST * max(grey.shape))
    found = [
        (across.start, down.start, across.stop, down.stop)
        for down, across in ndimage.find_objects(parts)
        if across.stop - across.start >= least and down.stop - down.start >= least
    ]
    return np.asarray(found, dtype=np.float64).reshape(-1, 4)


def _otsu(values: NDArray[np.float64]) -> float:
    """The threshold that parts the values into the two most different groups (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=64)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    low = sums / np.maximum(below, 1)
    high = (sums[-1] - sums) / np.maximum(above, 1)
    return float(middles[int((below * above * (low - high) ** 2).argmax())])


def _grey(picture: Any, number: int) -> NDArray[np.float64]:
    return np.asarray(opened(picture, number).convert("L"), dtype=np.float64)


def _cut(grey: NDArray[np.float64], box: Any) -> NDArray[np.float64]:
    from PIL import Image

    height, width = grey.shape
    left, top = min(width - 1, int(box[0])), min(height - 1, int(box[1]))
    part = grey[top : max(top + 1, round(box[3])), left : max(left + 1, round(box[2]))]
    small = Image.fromarray(part.astype(np.uint8)).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.float64).reshape(-1) / 255.0
