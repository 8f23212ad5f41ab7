"""Metrics of a classifier: accuracy, precision, recall, F1, AUC, log loss, Brier score, calibration.

Definitions follow scikit-learn's (macro averages over the classes that occur, 0 where nothing was predicted); they are
computed from per-row sums so that a thousand bootstrap replicates cost one matrix product. scikit-learn is the oracle in
the tests. Expected calibration error and temperature: Guo et al., "On Calibration of Modern Neural Networks", 2017.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tollway.forge.evaluate.measures import Floats, Measure, divide, mean, of_sums

BINS = 15
TINY = 1e-15


@dataclass(frozen=True)
class Judged:
    """True and given labels as positions in `labels`; `probabilities` (n, k) or None when the answers carry none."""

    labels: tuple[str, ...]
    truth: NDArray[np.int64]
    given: NDArray[np.int64]
    confidence: Floats
    probabilities: Floats | None

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.truth == self.given)


def judge(truth: Sequence[str], answers: Sequence[Mapping[str, Any]], labels: Sequence[str] = ()) -> Judged:
    """Lay true labels beside answers. A true label that the model does not know is one more class it never gives."""
    names = list(dict.fromkeys([*labels, *(name for answer in answers for name in answer.get("scores") or ())]))
    extra = sorted({*map(str, truth), *(str(answer["label"]) for answer in answers)} - set(names))
    names = names + extra if names else extra
    place = {name: at for at, name in enumerate(names)}
    given = np.array([place[str(answer["label"])] for answer in answers], dtype=np.int64)
    confidence = np.array([float(answer.get("score", np.nan)) for answer in answers])
    probabilities = None
    if answers and all(answer.get("scores") for answer in answers):
        probabilities = np.zeros((len(answers), len(names)))
        for at, answer in enumerate(answers):
            for name, score in answer["scores"].items():
                probabilities[at, place[str(name)]] = score
    return Judged(
        tuple(names), np.array([place[str(one)] for one in truth], dtype=np.int64), given, confidence, probabilities
    )


def measures(judged: Judged) -> list[Measure]:
    """Every classification measure these answers allow; the first is the one gates and comparisons use by default."""
    classes, rows = len(judged.labels), len(judged.truth)
    hit = np.zeros((rows, 3 * classes))
    at = np.arange(rows)
    hit[at[judged.right], judged.truth[judged.right]] = 1
    hit[at, classes + judged.given] = 1
    hit[at, 2 * classes + judged.truth] = 1
    found = [
        mean("accuracy", judged.right),
        of_sums("balanced_accuracy", hit, lambda sums: _nanmean(_recall(sums, absent=float("nan")))),
        of_sums("precision", hit, lambda sums: _macro(sums, _precision(sums))),
        of_sums("recall", hit, lambda sums: _macro(sums, _recall(sums))),
        of_sums("f1", hit, lambda sums: _macro(sums, _f1(sums))),
    ]
    for place, label in enumerate(judged.labels):
        one = hit[:, [place, classes + place, 2 * classes + place]]
        found.append(of_sums(f"precision.{label}", one, lambda sums: _precision(sums)[:, 0]))
        found.append(of_sums(f"recall.{label}", one, lambda sums: _recall(sums)[:, 0]))
        found.append(of_sums(f"f1.{label}", one, lambda sums: _f1(sums)[:, 0]))
    return found + _probability_measures(judged)


def _probability_measures(judged: Judged) -> list[Measure]:
    found: list[Measure] = []
    rows = np.arange(len(judged.truth))
    if not np.isnan(judged.confidence).any():
        found.append(calibration_error(judged.confidence, judged.right))
    if judged.probabilities is None:
        return found
    shares = judged.probabilities / np.maximum(judged.probabilities.sum(axis=1, keepdims=True), TINY)
    target = np.zeros_like(shares)
    target[rows, judged.truth] = 1
    found.append(mean("log_loss", -np.log(np.clip(shares[rows, judged.truth], TINY, 1.0)), higher=False))
    found.append(mean("brier", ((shares - target) ** 2).sum(axis=1), higher=False))
    if len(judged.labels) == 2:
        found.append(_auc("auc", [(shares[:, 1], judged.truth == 1)]))
    elif len(judged.labels) > 2:
        found.append(_auc("auc", [(shares[:, k], judged.truth == k) for k in range(len(judged.labels))]))
    if len(judged.labels) > 5:
        best = np.argsort(-shares, axis=1, kind="stable")[:, :5]
        found.append(mean("top5_accuracy", (best == judged.truth[:, None]).any(axis=1)))
    return found


def _precision(sums: Floats) -> Floats:
    hit, given, _ = np.split(sums, 3, axis=1)
    return divide(hit, given, 0.0)


def _recall(sums: Floats, absent: float = 0.0) -> Floats:
    hit, _, truth = np.split(sums, 3, axis=1)
    return divide(hit, truth, absent)


def _f1(sums: Floats) -> Floats:
    hit, given, truth = np.split(sums, 3, axis=1)
    return divide(2 * hit, given + truth, 0.0)


def _macro(sums: Floats, per_class: Floats) -> Floats:
    """Mean over the classes that occur in the truth or in the answers."""
    _, given, truth = np.split(sums, 3, axis=1)
    occurs = given + truth > 0
    return divide((per_class * occurs).sum(axis=1), occurs.sum(axis=1))


def _nanmean(values: Floats) -> Floats:
    known = ~np.isnan(values)
    return divide(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1))


def _auc(name: str, pairs: Sequence[tuple[Floats, NDArray[np.bool_]]]) -> Measure:
    """Area under the ROC curve (one against the rest, unweighted mean over classes that have both sides)."""
    prepared = [_tied(scores, positive) for scores, positive in pairs]
    return Measure(name, True, lambda weights: _nanmean(np.stack([_area(weights, *one) for one in prepared], axis=1)))


def _tied(scores: Floats, positive: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    order = np.argsort(scores, kind="stable")
    _, starts = np.unique(scores[order], return_index=True)
    return order, positive[order].astype(np.float64), starts


def _area(weights: Floats, order: NDArray[Any], positive: Floats, starts: NDArray[Any]) -> Floats:
    """Mann-Whitney: the share of (positive, negative) pairs in the right order, ties count half."""
    sorted_weights = weights[:, order]
    above = np.add.reduceat(sorted_weights * positive, starts, axis=1)
    below = np.add.reduceat(sorted_weights * (1 - positive), starts, axis=1)
    lower = np.cumsum(below, axis=1) - below
    pairs = above.sum(axis=1) * below.sum(axis=1)
    return divide((above * (lower + below / 2)).sum(axis=1), pairs)


def calibration_error(confidence: Floats, right: NDArray[np.bool_], bins: int = BINS) -> Measure:
    """ECE: sum over equal-width bins of the bin's share times |accuracy - mean confidence|."""
    place = _bin(confidence, bins)
    stats = np.zeros((len(confidence), 3 * bins))
    rows = np.arange(len(confidence))
    stats[rows, place] = 1
    stats[rows, bins + place] = confidence
    stats[rows, 2 * bins + place] = right

    def combine(sums: Floats) -> Floats:
        count, sure, correct = np.split(sums, 3, axis=1)
        return divide(np.abs(correct - sure).sum(axis=1), count.sum(axis=1))

    return of_sums("ece", stats, combine, higher=False)


def _bin(confidence: Floats, bins: int) -> NDArray[np.int64]:
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def reliability(confidence: Floats, right: NDArray[np.bool_], bins: int = BINS) -> list[dict[str, float]]:
    """The points of a reliability curve: per occupied bin its rows, mean confidence and accuracy."""
    place, found = _bin(confidence, bins), []
    for at in range(bins):
        inside = place == at
        if inside.any():
            found.append({
                "low": at / bins, "high": (at + 1) / bins, "rows": int(inside.sum()),
                "confidence": float(confidence[inside].mean()), "accuracy": float(right[inside].mean()),
            })  # fmt: skip
    return found


def warmed(probabilities: Floats, temperature: float) -> Floats:
    """Probabilities as they would be with logits divided by the temperature."""
    logits = np.log(np.clip(probabilities, TINY, 1.0)) / temperature
    logits -= logits.max(axis=1, keepdims=True)
    raised = np.exp(logits)
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def temperature(judged: Judged) -> float | None:
    """The temperature that minimises the log loss of these answers; None when they do not determine one."""
    from scipy.optimize import minimize_scalar

    if judged.probabilities is None or len(judged.truth) < 20 or judged.right.all():
        return None
    rows, shares = np.arange(len(judged.truth)), judged.probabilities

    def loss(log_t: float) -> float:
        return float(-np.log(np.clip(warmed(shares, float(np.exp(log_t)))[rows, judged.truth], TINY, 1)).mean())

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))


def confusion(judged: Judged) -> list[list[int]]:
    """Rows: the truth; columns: the answer."""
    classes = len(judged.labels)
    flat = np.bincount(judged.truth * classes + judged.given, minlength=classes * classes)
    return flat.reshape(classes, classes).tolist()
