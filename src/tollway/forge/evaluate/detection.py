"""Metrics of detected boxes, by COCO's definition: average precision over ten thresholds of overlap, 101 points of recall.

`map` is the mean over labels and the thresholds .5, .55 … .95; `map@50` and `map@75` are those of one threshold; `ap.LABEL`
and `ap50.LABEL` one label's. Boxes of a label are taken surest first, at most a hundred a picture; each takes the object it
overlaps most among those that no surer one has taken. `precision`, `recall` and `f1` are what a caller meets: boxes above
the package's threshold, right when they overlap an object of their label by a half. pycocotools gives the same figures
(tests hold ours against it); a weight for each picture makes the bootstrap of them possible.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tollway.forge.evaluate.measures import Floats, Measure, divide, of_sums
from tollway.inference.boxes import hits

Objects = Sequence[Mapping[str, Any]]
"""Of one picture: {"label", "box"}, found ones with a "score" too."""
THRESHOLDS: Final = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
POINTS: Final = 101
EACH_MOST: Final = 100  # boxes of a label in one picture
HALF: Final = 0.5


def measures(
    truth: Sequence[Objects], given: Sequence[Objects], least: float = 0.3, labels: Collection[str] = ()
) -> list[Measure]:
    """All of them; rows are pictures. `least`: the score from which a box is shown to callers. `labels`: those that there
    are besides the ones in the truth."""
    named = sorted({*labels, *(one["label"] for row in truth for one in row)})
    curves = {label: Curve.of(label, truth, given) for label in named}
    listed = list(curves.values())
    shown = at_threshold(truth, given, least)
    return [
        Measure("map", True, lambda weights: _mean(listed, weights, slice(None))),
        Measure("map@50", True, lambda weights: _mean(listed, weights, slice(0, 1))),
        Measure("map@75", True, lambda weights: _mean(listed, weights, slice(5, 6))),
        of_sums("precision", shown, lambda sums: divide(sums[:, 0], sums[:, 1])),
        of_sums("recall", shown, lambda sums: divide(sums[:, 0], sums[:, 2])),
        of_sums("f1", shown, lambda sums: divide(2 * sums[:, 0], sums[:, 1] + sums[:, 2])),
        *(Measure(f"ap.{label}", True, _part(one, slice(None))) for label, one in curves.items()),
        *(Measure(f"ap50.{label}", True, _part(one, slice(0, 1))) for label, one in curves.items()),
    ]


def at_threshold(truth: Sequence[Objects], given: Sequence[Objects], least: float) -> NDArray[np.float64]:
    """Of each picture: boxes that are right, boxes shown, objects there."""
    sums = np.zeros((len(truth), 3))
    for place, (wanted, found) in enumerate(zip(truth, given, strict=True)):
        shown = [one for one in found if one["score"] >= least]
        right = sum(int(_hits(label, wanted, shown, [HALF]).sum()) for label in {one["label"] for one in wanted})
        sums[place] = right, len(shown), len(wanted)
    return sums


@dataclass
class Curve:
    """The boxes of one label, surest first: the picture of each and whether it hit, at each threshold; and how many objects
    each picture has. `areas` is the average precision at each threshold."""

    pictures: NDArray[np.int64]
    right: NDArray[np.bool_]
    objects: NDArray[np.float64]
    points: int = POINTS
    _last: tuple[Floats, Floats] | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, label: str, truth: Sequence[Objects], given: Sequence[Objects], thresholds: Sequence[float] = THRESHOLDS,
        points: int = POINTS,
    ) -> "Curve":  # fmt: skip
        """The curve of a label. `points` 0: every point of the curve, as PASCAL VOC has it since 2010."""
        objects = np.array([sum(one["label"] == label for one in row) for row in truth], dtype=np.float64)
        found = [_of(label, row) for row in given]
        right = [_hits(label, wanted, mine, thresholds) for wanted, mine in zip(truth, found, strict=True)]
        scores = np.array([one["score"] for row in found for one in row], dtype=np.float64)
        pictures = np.repeat(np.arange(len(found)), [len(row) for row in found])
        order = np.argsort(-scores, kind="stable")
        together = np.concatenate(right, axis=1) if right else np.zeros((len(thresholds), 0), dtype=bool)
        return cls(pictures[order], together[:, order], objects, points)

    def areas(self, weights: Floats) -> Floats:
        """[replicates, thresholds]; nan where the weighted pictures have no such object."""
        if self._last is None or self._last[0] is not weights:
            self._last = (weights, self._areas(weights))
        return self._last[1]

    def _areas(self, weights: Floats) -> Floats:
        total = weights @ self.objects
        found = np.zeros((len(weights), len(self.right)))
        shown = weights[:, self.pictures]
        seen = np.cumsum(shown, axis=1)
        for at, right in enumerate(self.right):
            places = np.flatnonzero(right)  # a curve has its peaks where a box is right
            if len(places):
                hit = np.cumsum(shown[:, places], axis=1)
                recall, precision = divide(hit, total[:, None], 0.0), divide(hit, seen[:, places], 0.0)
                highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
                found[:, at] = _interpolated(recall, highest, self.points)
        return np.where(total[:, None] > 0, found, np.nan)


def _interpolated(recall: Floats, highest: Floats, points: int) -> Floats:
    if not points:
        return np.asarray((np.diff(recall, axis=1, prepend=0.0) * highest).sum(axis=1))
    levels = np.linspace(0, 1, points)
    wide = np.concatenate([highest, np.zeros((len(highest), 1))], axis=1)  # beyond the last recall: 0
    return np.array([row[np.searchsorted(mine, levels)].mean() for mine, row in zip(recall, wide, strict=True)])


def _of(label: str, row: Objects) -> list[Mapping[str, Any]]:
    return sorted((one for one in row if one["label"] == label), key=lambda one: -one["score"])[:EACH_MOST]


def _hits(label: str, wanted: Objects, found: Objects, thresholds: Sequence[float]) -> NDArray[np.bool_]:
    mine = np.array([one["box"] for one in found if one["label"] == label], dtype=np.float64).reshape(-1, 4)
    theirs = np.array([one["box"] for one in wanted if one["label"] == label], dtype=np.float64).reshape(-1, 4)
    return hits(mine, theirs, thresholds)


def _part(curve: Curve, thresholds: slice) -> Any:
    return lambda weights: curve.areas(weights)[:, thresholds].mean(axis=1)


def _mean(curves: Sequence[Curve], weights: Floats, thresholds: slice) -> Floats:
    """Over the labels that the weighted pictures have."""
    if not curves:
        return np.full(len(weights), np.nan)
    each = np.stack([one.areas(weights)[:, thresholds].mean(axis=1) for one in curves], axis=1)
    known = ~np.isnan(each)
    return divide(np.where(known, each, 0.0).sum(axis=1), known.sum(axis=1))
