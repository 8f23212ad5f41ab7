"""Boxes as arrays of [left, top, right, bottom]: how far two overlap, which of many to keep, which of them hit.

For features that find objects (`detection.py`), and for whoever measures how well. numpy only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


def overlaps(one: Floats, two: Floats) -> Floats:
    """Intersection over union of n boxes with m boxes: [n, m]. Edges are lines, not pixels: 0 to 1 is one wide."""
    shared = np.minimum(one[:, None, 2:], two[None, :, 2:]) - np.maximum(one[:, None, :2], two[None, :, :2])
    inner = np.clip(shared, 0, None).prod(axis=2)
    whole = _areas(one)[:, None] + _areas(two)[None, :] - inner
    return np.asarray(np.divide(inner, whole, out=np.zeros_like(inner), where=whole > 0))


def _areas(boxes: Floats) -> Floats:
    return np.asarray(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1))


def suppressed(boxes: Floats, labels: np.ndarray, most: float) -> list[int]:
    """Non-maximum suppression: the places of boxes, given surest first, that overlap no surer one of their own label by
    more than `most`."""
    near = (overlaps(boxes, boxes) > most) & (labels[:, None] == labels[None, :])
    kept: list[int] = []
    gone = np.zeros(len(boxes), dtype=bool)
    for place in range(len(boxes)):
        if not gone[place]:
            kept.append(place)
            gone |= near[place]
    return kept


def peaks(heat: Floats, most: int, least: float) -> tuple[np.ndarray, np.ndarray, Floats]:
    """(label, cell, score) of the local maxima of a heat map [labels, height, width] of logits, surest first: at most
    `most`, none below the score `least`."""
    wide = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    _, height, width = heat.shape
    around = [wide[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    floor = np.log(least / (1 - least))
    flat = np.flatnonzero((heat >= np.maximum.reduce(around)) & (heat >= floor))
    values = heat.reshape(-1)[flat]
    order = np.argsort(-values, kind="stable")[:most]
    labels, cells = np.divmod(flat[order], height * width)
    return labels, cells, 1 / (1 + np.exp(-values[order].astype(np.float64)))


def hits(found: Floats, wanted: Floats, thresholds: Sequence[float]) -> np.ndarray:
    """Whether each found box (surest first) is one of those that were wanted, at each threshold of overlap: [thresholds,
    found]. As COCO has it: a box takes the one it overlaps most among those that no surer box has taken."""
    right = np.zeros((len(thresholds), len(found)), dtype=bool)
    if not len(found) or not len(wanted):
        return right
    shared = overlaps(found, wanted)
    for row, threshold in enumerate(thresholds):
        free = np.ones(len(wanted), dtype=bool)
        for place in np.flatnonzero(shared.max(axis=1) >= threshold):
            best = int(np.where(free, shared[place], -1.0).argmax())
            if free[best] and shared[place, best] >= threshold:
                free[best], right[row, place] = False, True
    return right
