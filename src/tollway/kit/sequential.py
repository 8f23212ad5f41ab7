"""What a share may truly be, after so many trials, however often one has looked: for deciding while the counts still grow.

The usual interval (Wilson's) is meant for one look at a number of trials fixed beforehand. Whoever looks every second and
acts on the first alarm is wrong far more often than it says. `bounds` holds for all moments together: the chance that
the truth is ever outside, from the first trial to the last, is at most `chance`.

It is the beta-binomial mixture: averaged over a prior on the share, the likelihood ratio against the truth is a
martingale, which by Ville's inequality exceeds 1/chance with at most that chance. H. Robbins, Statistical methods related
to the law of the iterated logarithm, Annals of Mathematical Statistics 41 (1970); S. R. Howard, A. Ramdas, J. McAuliffe,
J. Sekhon, Time-uniform, nonparametric, nonasymptotic confidence sequences, Annals of Statistics 49 (2021). Exact for
small numbers: nothing in it is an approximation.
"""

from collections.abc import Callable
from math import inf, lgamma, log
from typing import Final

_PRIOR: Final = 0.5  # Jeffreys': sharp near 0 and 1, where shares of errors live
_STEPS: Final = 48


def bounds(hits: int, trials: int, chance: float) -> tuple[float, float]:
    """The least and the most the true share may be after `hits` of `trials`; (0, 1) before the first."""
    if trials <= 0:
        return 0.0, 1.0
    hits = min(max(hits, 0), trials)
    misses, seen, limit = trials - hits, hits / trials, -log(chance)
    mixture = _log_beta(_PRIOR + hits, _PRIOR + misses) - _log_beta(_PRIOR, _PRIOR)

    def excluded(share: float) -> bool:
        return mixture - _times_log(hits, share) - _times_log(misses, 1.0 - share) >= limit

    return _edge(excluded, 0.0, seen), _edge(excluded, 1.0, seen)


def _edge(excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where what is excluded ends, between a point that may be and one that is not; the outer side of it."""
    if not excluded(outside):
        return outside
    for _ in range(_STEPS):
        middle = (outside + inside) / 2
        if excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _times_log(count: int, share: float) -> float:
    if count == 0:
        return 0.0
    return count * log(share) if share > 0.0 else -inf


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
