"""How well two answers of a detector agree, and how much of what is there it finds: the figures beside each conversion.

For `measure` and `convert`; what a model is judged by (mAP) is `forge.evaluate`'s.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from tollway.inference import Arrays, Features, boxes_of
from tollway.inference.boxes import hits

ENOUGH: Final = 0.5  # of overlap, for a box to be the object's


def found(
    outputs: Sequence[Arrays], features: Features, rows: Sequence[Mapping[str, Any]], encoded: Sequence[Any]
) -> float:
    """F1 of the boxes at the package's threshold: right label, overlap of at least a half."""
    together = {name: np.stack([one[name] for one in outputs]) for name in outputs[0]}
    answers = features.decode(together, rows, encoded)
    least = float(features.options["threshold"])
    right = shown = wanted = 0
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        given = [one for one in answer["detections"] if one["score"] >= least]
        truth = boxes_of(row, number)
        shown, wanted = shown + len(given), wanted + len(truth)
        for label in {name for name, _ in truth}:
            mine = np.asarray([one["box"] for one in given if one["label"] == label]).reshape(-1, 4)
            theirs = np.asarray([box for name, box in truth if name == label])
            right += int(hits(mine, theirs, [ENOUGH]).sum())
    return 2 * right / max(1, shown + wanted)


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """The share of cells in which two heat maps of logits both see an object, among those where either does."""
    left, right = one > 0, other > 0
    either = int((left | right).sum())
    return float((left & right).sum() / either) if either else 1.0
