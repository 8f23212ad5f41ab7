"""When a call may be tried again, and how long one try may take before another replica is asked.

A budget keeps second tries from turning a fault into a flood: every call puts a tenth of a try into it, every second try
takes a whole one out. It starts with a small reserve, so that the first fault of a quiet service is not the caller's.
"""

from tollway.serve.stats import Histogram

TRIES_MAX = 3
_SHARE = 0.1
_RESERVE = 10.0
_SEEN_LEAST = 30
_TIMES_P99 = 3.0
_AND_S = 0.5
_WINDOW_S = 60


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


class Patience:
    """How long to wait for a try when there is somebody else to ask: well above what was usual in the last minutes, at most
    `most_s`. What was given up counts as having taken that long, or patience could never grow when calls do."""

    def __init__(self, most_s: float) -> None:
        self.most_s = self.within_s = most_s
        self._given_up = Histogram()
        self._ticks = 0
        self._before: list[int] = []  # the counts of two minutes ago, and of one
        self._then: list[int] = []

    def give_up(self, waited_s: float) -> None:
        """A try was given up after so long."""
        self._given_up.add(waited_s)

    def tick(self, times: Histogram) -> None:
        """A second has passed; `times` of all that were answered."""
        counts = [a + b for a, b in zip(times.buckets, self._given_up.buckets, strict=True)]
        if self._ticks % _WINDOW_S == 0:
            self._before, self._then = self._then or counts, counts
        self._ticks += 1
        lately = Histogram(buckets=[now - before for now, before in zip(counts, self._before, strict=True)])
        lately.count = sum(lately.buckets)
        if lately.count >= _SEEN_LEAST:
            self.within_s = min(self.most_s, _TIMES_P99 * lately.quantile_ms(0.99) / 1e3 + _AND_S)

    def within(self, left_s: float) -> float:
        """The same for a call that has only so much time left: half of it, but not less than what is usual."""
        return min(self.within_s, max(left_s / 2, self.within_s / _TIMES_P99))
