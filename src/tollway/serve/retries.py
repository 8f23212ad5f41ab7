"""When a call may be tried again, and how long one try may take before another replica is asked.

A budget keeps second tries from turning a fault into a flood: every call puts a tenth of a try into it, every second try
takes a whole one out. It starts with a small reserve, so that the first fault of a quiet service is not the caller's.
"""

import math

from tollway.serve.stats import Histogram

TRIES_MAX = 3
_SHARE = 0.1
_RESERVE = 10.0
_SEEN_LEAST = 30
_TIMES_P99 = 3.0
_AND_S = 0.5


class Budget:
    """What second tries one version has left. Use it from one event loop."""

    __slots__ = ("left", "most")

    def __init__(self, reserve: float = _RESERVE) -> None:
        self.left = self.most = reserve

    def reserve(self, most: float) -> None:
        """Hold at least so many: calls that one replica takes along when it dies may all be tried again."""
        if most > self.most:
            self.left += most - self.most
            self.most = most

    def earn(self) -> None:
        """A call begins."""
        if self.left < self.most:
            self.left += _SHARE

    def take(self) -> bool:
        """Whether one more try may be made; it counts."""
        if self.left < 1:
            return False
        self.left -= 1
        return True


def patience_s(times: Histogram) -> float:
    """How long to wait for a try when there is somebody else to ask: well above what is usual; infinite while that is not
    known."""
    return _TIMES_P99 * times.quantile_ms(0.99) / 1e3 + _AND_S if times.count >= _SEEN_LEAST else math.inf
