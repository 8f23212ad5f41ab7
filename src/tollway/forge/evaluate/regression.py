"""Metrics of a number: RMSE, MAE, R2, and rank and linear correlation where the scale does not matter.

R2 as scikit-learn defines it: 1 - sum of squares left / sum of squares about the mean of the same rows.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tollway.forge.evaluate.measures import Floats, Measure, divide, mean, of_sums


def measures(truth: NDArray[Any], given: NDArray[Any]) -> list[Measure]:
    """RMSE first: in the unit of the target, and the one gates use by default."""
    truth, given = np.asarray(truth, np.float64), np.asarray(given, np.float64)
    error = truth - given
    return [
        of_sums("rmse", np.stack([error**2, np.ones_like(error)], axis=1), _root, higher=False),
        mean("mae", np.abs(error), higher=False),
        of_sums("r2", np.stack([error**2, truth, truth**2, np.ones_like(error)], axis=1), _r2),
        mean("bias", given - truth, higher=False),
    ]


def correlation(truth: NDArray[Any], given: NDArray[Any]) -> list[Measure]:
    """Pearson's r, and Spearman's (r of the ranks over all rows; a replicate re-weights those ranks)."""
    x, y = np.asarray(truth, np.float64), np.asarray(given, np.float64)
    return [_pearson("spearman", _ranks(x), _ranks(y)), _pearson("pearson", x, y)]


def _root(sums: Floats) -> Floats:
    return np.sqrt(divide(sums[:, 0], sums[:, 1]))


def _r2(sums: Floats) -> Floats:
    left, total, squares, rows = sums.T
    about = squares - divide(total**2, rows, 0.0)
    about = np.where(about > 1e-12 * np.maximum(squares, 1e-300), about, 0.0)
    return 1 - divide(left, about)


def _pearson(name: str, x: Floats, y: Floats) -> Measure:
    x, y = x - x.mean() if len(x) else x, y - y.mean() if len(y) else y  # for the sums' precision only
    stats = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def combine(sums: Floats) -> Floats:
        rows, sx, sy, sxx, syy, sxy = sums.T
        top = sxy - divide(sx * sy, rows, 0.0)
        spread = np.maximum(sxx - divide(sx**2, rows, 0.0), 0) * np.maximum(syy - divide(sy**2, rows, 0.0), 0)
        return divide(top, np.sqrt(spread))

    return of_sums(name, stats, combine)


def _ranks(values: NDArray[Any]) -> Floats:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), dtype=np.float64)
