"""How well two answers of a detector agree, and how much of what is there it finds: the figures beside each conversion.

For `measure` and `convert`, and for the training step, which chooses the threshold; what a model is judged by (mAP) is
`forge.evaluate`'s.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from tollway.inference import Arrays, Features, boxes_of
from tollway.inference.boxes import hits

ENOUGH: Final = 0.5  # of overlap, for a box to be the object's
LEAST, MOST = 0.05, 0.95  # a threshold is chosen between them: few validation rows can make any other look best


def found(
    outputs: Sequence[Arrays], features: Features, rows: Sequence[Mapping[str, Any]], encoded: Sequence[Any]
) -> float:
    """F1 of the boxes at the package's threshold: right label, overlap of at least a half."""
    together = {name: np.stack([one[name] for one in outputs]) for name in outputs[0]}
    answers = features.decode(together, rows, encoded)
    scores, right, wanted = _judged(answers, rows)
    shown = scores >= float(features.options["threshold"])
    return float(2 * right[shown].sum() / max(1, int(shown.sum()) + wanted))


def best_threshold(answers: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """The score from which boxes are worth showing: where F1 over these rows is best, and that F1. It lies halfway to the
    next box below, so that another rounding of the same weights shows the same boxes. None where nothing is found."""
    scores, right, wanted = _judged(answers, rows)
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], right[order]
    f1 = 2 * np.cumsum(right) / (np.arange(1, len(scores) + 1) + wanted)
    ends = np.append(scores[1:] < scores[:-1], True)[: len(scores)]  # of boxes that are equally sure, all are shown or none
    f1 = np.where(ends, f1, -1.0)
    if not len(f1) or f1.max() <= 0:
        return None
    at = int(f1.argmax())
    below = float(scores[at + 1]) if at + 1 < len(scores) else LEAST
    return round(min(MOST, max(LEAST, (float(scores[at]) + below) / 2)), 3), float(f1[at])


def _judged(
    answers: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Of all boxes of these answers the score and whether each is right, and how many objects there are. A surer box is
    judged first, so what lies below a threshold changes nothing above it."""
    scores, right, wanted = [np.zeros(0)], [np.zeros(0, dtype=bool)], 0
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        truth = boxes_of(row, number)
        wanted += len(truth)
        for label in {one["label"] for one in answer["detections"]}:
            mine = [one for one in answer["detections"] if one["label"] == label]
            theirs = np.asarray([box for name, box in truth if name == label]).reshape(-1, 4)
            scores.append(np.asarray([one["score"] for one in mine], dtype=float))
            right.append(hits(np.asarray([one["box"] for one in mine]).reshape(-1, 4), theirs, [ENOUGH])[0])
    return np.concatenate(scores), np.concatenate(right), wanted


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """The share of cells in which two heat maps of logits both see an object, among those where either does."""
    left, right = one > 0, other > 0
    either = int((left | right).sum())
    return float((left & right).sum() / either) if either else 1.0
