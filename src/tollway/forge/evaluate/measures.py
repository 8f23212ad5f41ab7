"""What a measure is: one figure as a function of weights over the judged rows.

All ones give the figure itself, a 0/1 mask gives it for a slice, resampled counts give a bootstrap replicate, and the same
counts on two models give a paired difference. So there is one implementation of each metric and it is used everywhere.
For whoever adds a metric: build it from per-row sums (`of_sums`) and it is fast for a thousand replicates at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measure:
    """A named figure over n rows. `at` takes weights (replicates, n) and gives one value per replicate; nan = undefined."""

    name: str
    higher: bool
    at: Callable[[Floats], Floats]
    resamples: bool = True  # False: a replicate would be biased (distances of distributions), so no interval is given

    def value(self, rows: int) -> float:
        """The figure over all rows, each counted once."""
        return float(self.at(np.ones((1, rows)))[0])

    def among(self, mask: NDArray[np.bool_]) -> float:
        """The figure over the rows of a mask only."""
        return float(self.at(mask[None, :].astype(np.float64))[0])


def of_sums(name: str, stats: NDArray[Any], combine: Callable[[Floats], Floats], higher: bool = True) -> Measure:
    """A measure that is a function of sums over rows: `stats` (n, m), `combine` (replicates, m) -> (replicates,)."""
    table = np.asarray(stats, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    return Measure(name, higher, lambda weights: combine(weights @ table))


def mean(name: str, values: Sequence[float] | NDArray[Any], higher: bool = True) -> Measure:
    """The weighted mean of one value per row; a row whose value is nan does not count."""
    array = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(array)
    stats = np.stack([np.where(known, array, 0.0), known.astype(np.float64)], axis=1)
    return of_sums(name, stats, lambda sums: divide(sums[:, 0], sums[:, 1]), higher)


def ratio(name: str, above: NDArray[Any], below: NDArray[Any], higher: bool = True) -> Measure:
    """Sum over sum, e.g. a corpus-level share."""
    return of_sums(name, np.stack([above, below], axis=1), lambda sums: divide(sums[:, 0], sums[:, 1]), higher)


def divide(above: NDArray[Any], below: NDArray[Any], otherwise: float = float("nan")) -> Floats:
    """Elementwise quotient; `otherwise` where the divisor is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    out = np.full(above.shape, otherwise, dtype=np.float64)
    np.divide(above, below, out=out, where=below != 0)
    return out
