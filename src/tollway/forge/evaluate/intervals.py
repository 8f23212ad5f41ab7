"""Bootstrap confidence intervals: how far a figure, or the difference of two on the same rows, is from luck.

Percentile method (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13): rows are drawn with replacement,
the figure is computed on each draw, the middle 95 % of the draws is the interval. Both sides of a comparison see the same
draws (paired), so shared difficulty of rows cancels.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tollway.forge.evaluate.measures import Floats, Measure
from tollway.forge.evaluate.scores import Difference, Figure

CHUNK_CELLS = 2_000_000  # weights held at once: 16 MB


class Draws:
    """The resamples of n rows; the same seed gives the same draws, so every figure of a report uses the same ones."""

    def __init__(self, rows: int, replicates: int = 1000, seed: int = 0, groups: NDArray[Any] | None = None) -> None:
        self.rows, self.replicates, self.seed, self.groups = rows, replicates if rows > 1 else 0, seed, groups

    def __iter__(self) -> Iterator[Floats]:
        rng = np.random.default_rng(self.seed)
        step = max(1, CHUNK_CELLS // max(1, self.rows))
        for start in range(0, self.replicates, step):
            yield np.stack([self._one(rng) for _ in range(min(step, self.replicates - start))])

    def _one(self, rng: np.random.Generator) -> Floats:
        if self.groups is None:
            return np.bincount(rng.integers(0, self.rows, self.rows), minlength=self.rows).astype(np.float64)
        kinds = int(self.groups.max()) + 1  # rows of one group (a user, a document) stay together
        drawn = np.bincount(rng.integers(0, kinds, kinds), minlength=kinds).astype(np.float64)
        return np.asarray(drawn[self.groups])


def figures(measures: Iterable[Measure], draws: Draws) -> dict[str, Figure]:
    """Each measure with its interval."""
    listed = list(measures)
    replicates = _replicates(listed, draws)
    return {one.name: _figure(one, one.value(draws.rows), replicates[one.name]) for one in listed}


def within(measure: Measure, mask: NDArray[np.bool_], draws: Draws) -> Figure:
    """One measure over a slice: the draws are masked, so the slice's own size varies as it does in life."""
    keep = mask.astype(np.float64)
    values = [measure.at(weights * keep) for weights in draws] if measure.resamples else []
    return _figure(measure, measure.among(mask), np.concatenate(values) if values else np.empty(0))


def paired(ours: Measure, theirs: Measure, draws: Draws) -> Difference:
    """Ours against theirs on the same rows and the same draws."""
    sign = 1.0 if ours.higher else -1.0
    value = _plain(sign * (ours.value(draws.rows) - theirs.value(draws.rows)))
    parts = [sign * (ours.at(weights) - theirs.at(weights)) for weights in draws] if ours.resamples else []
    low, high, known = bounds(np.concatenate(parts) if parts else np.empty(0))
    if value is None or known.size == 0:
        return Difference(value)
    return Difference(value, low, high, float((known > 0).mean()))


def _replicates(measures: list[Measure], draws: Draws) -> dict[str, Floats]:
    found: dict[str, list[Floats]] = {one.name: [] for one in measures}
    for weights in draws:
        for one in measures:
            if one.resamples:
                found[one.name].append(one.at(weights))
    return {name: np.concatenate(parts) if parts else np.empty(0) for name, parts in found.items()}


def _figure(measure: Measure, value: float, replicates: Floats) -> Figure:
    low, high, _ = bounds(replicates)
    return Figure(_plain(value), low, high, measure.higher)


def bounds(replicates: Floats) -> tuple[float | None, float | None, Floats]:
    known = replicates[np.isfinite(replicates)]
    if known.size < 20:
        return None, None, known
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high), known


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
