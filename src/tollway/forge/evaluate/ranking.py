"""Metrics of a list in order: recall@k, NDCG@k, MRR, MAP@k of recommendations, and mAP of detected boxes.

NDCG with binary relevance: Jarvelin and Kekalainen 2002. Average precision of detections: every-point interpolation of the
precision-recall curve (PASCAL VOC since 2010) or the 101 points of COCO; boxes are matched greedily by confidence.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tollway.forge.evaluate.measures import Floats, Measure, divide, mean

DEPTHS = (5, 10, 20)


def measures(
    relevant: Sequence[set[Any]], listed: Sequence[Sequence[Any]], depths: Sequence[int] = DEPTHS
) -> list[Measure]:
    """One row a user (or query): the relevant items and the list shown, best first. NDCG@10 comes first."""
    hits = [
        np.array([item in wanted for item in shown], dtype=bool) for wanted, shown in zip(relevant, listed, strict=True)
    ]
    counts = [len(wanted) for wanted in relevant]
    found = [
        mean(f"ndcg@{k}", [_ndcg(hit[:k], min(n, k)) for hit, n in zip(hits, counts, strict=True)]) for k in depths
    ]
    found.sort(key=lambda one: one.name != "ndcg@10")
    for k in depths:
        found.append(
            mean(f"recall@{k}", [hit[:k].sum() / n if n else np.nan for hit, n in zip(hits, counts, strict=True)])
        )
        found.append(
            mean(f"precision@{k}", [hit[:k].sum() / k if n else np.nan for hit, n in zip(hits, counts, strict=True)])
        )
        found.append(
            mean(f"map@{k}", [_average_precision(hit[:k], min(n, k)) for hit, n in zip(hits, counts, strict=True)])
        )
    firsts = [1 / (int(np.argmax(hit)) + 1) if hit.any() else 0.0 for hit in hits]
    found.append(mean("mrr", [first if n else np.nan for first, n in zip(firsts, counts, strict=True)]))
    return found


def _ndcg(hit: NDArray[np.bool_], possible: int) -> float:
    if not possible:
        return float("nan")
    discount = 1 / np.log2(np.arange(2, max(len(hit), possible) + 2))
    return float((hit * discount[: len(hit)]).sum() / discount[:possible].sum())


def _average_precision(hit: NDArray[np.bool_], possible: int) -> float:
    if not possible:
        return float("nan")
    precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    return float((precision * hit).sum() / possible)


Box = tuple[float, float, float, float]  # left, top, right, bottom


def overlap(one: Box, two: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = (one[2] - one[0]) * (one[3] - one[1]) + (two[2] - two[0]) * (two[3] - two[1])
    return shared / (areas - shared)


def detection(
    truth: Sequence[Sequence[Mapping[str, Any]]], given: Sequence[Sequence[Mapping[str, Any]]], threshold: float = 0.5,
    points: int = 0,
) -> list[Measure]:  # fmt: skip
    """mAP over the labels that occur in the truth; rows are images, boxes {"label", "box", "score"}. points 0: every point."""
    labels: list[Hashable] = sorted({box["label"] for row in truth for box in row})
    matched = {label: _matched(truth, given, label, threshold) for label in labels}
    each = [Measure(f"ap.{label}", True, _area_of(*matched[label], points)) for label in labels]

    def at(weights: Floats) -> Floats:
        values = np.stack([one.at(weights) for one in each], axis=1) if each else np.full((len(weights), 1), np.nan)
        known = ~np.isnan(values)
        return divide(np.where(known, values, 0).sum(axis=1), known.sum(axis=1))

    return [Measure(f"map@{threshold:g}", True, at), *each]


def _matched(
    truth: Sequence[Sequence[Mapping[str, Any]]], given: Sequence[Sequence[Mapping[str, Any]]], label: Hashable, threshold: float
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:  # fmt: skip
    """Detections of a label, surest first: (image of each, whether it hit), and how many boxes each image has."""
    boxes = np.array([sum(box["label"] == label for box in row) for row in truth], dtype=np.float64)
    flat = [
        (float(box["score"]), image, box) for image, row in enumerate(given) for box in row if box["label"] == label
    ]
    flat.sort(key=lambda one: -one[0])
    taken: set[tuple[int, int]] = set()
    images, hits = np.zeros(len(flat), dtype=np.int64), np.zeros(len(flat))
    for at, (_, image, box) in enumerate(flat):
        images[at] = image
        wanted = [
            (overlap(box["box"], one["box"]), place) for place, one in enumerate(truth[image]) if one["label"] == label
        ]
        best, place = max(wanted, default=(0.0, -1))
        if best >= threshold and (image, place) not in taken:
            taken.add((image, place))
            hits[at] = 1
    return images, hits, boxes


def _area_of(images: NDArray[Any], hits: NDArray[Any], boxes: NDArray[Any], points: int) -> Callable[[Floats], Floats]:
    return lambda weights: _area(weights, images, hits, boxes, points)


def _area(weights: Floats, images: NDArray[Any], hits: NDArray[Any], boxes: NDArray[Any], points: int) -> Floats:
    total = weights @ boxes
    if not len(images):
        return np.where(total > 0, 0.0, np.nan)
    shown = weights[:, images]
    right = np.cumsum(shown * hits, axis=1)
    recall = divide(right, total[:, None])
    precision = divide(right, np.cumsum(shown, axis=1), 0.0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    if points:
        levels = np.linspace(0, 1, points)
        values = [[envelope[row, at] if (at := int(np.searchsorted(recall[row], level - 1e-12))) < recall.shape[1] else 0.0
                   for level in levels] for row in range(len(weights))]  # fmt: skip
        area = np.mean(values, axis=1)
    else:
        area = (np.diff(recall, axis=1, prepend=0.0) * envelope).sum(axis=1)
    return np.where(total > 0, area, np.nan)
