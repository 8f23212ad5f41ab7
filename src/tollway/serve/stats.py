"""What one version of a model did since it came into service: what a rollout judges by.

Counted for each engine call, a retry included: a caller who was answered on a second try still met a fault.
"""

from bisect import bisect_left

import msgspec

BOUNDS_MS = tuple(round(2 ** (step / 2), 3) for step in range(40))
"""Upper bounds of the histogram's buckets: 1 ms to 12 minutes, each 1.41 times the one before."""


class Histogram(msgspec.Struct):
    """How long things took."""

    count: int = 0
    sum_ms: float = 0.0
    square_ms: float = 0.0  # sum of squares, for the spread
    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))

    def add(self, seconds: float) -> None:
        """One more."""
        took_ms = seconds * 1e3
        self.count += 1
        self.sum_ms += took_ms
        self.square_ms += took_ms * took_ms
        self.buckets[bisect_left(BOUNDS_MS, took_ms)] += 1

    def quantile_ms(self, share: float) -> float:
        """The time within which `share` (0 to 1) of them were done, between two bounds by proportion; 0 without any."""
        wanted, passed = share * self.count, 0
        for number, inside in enumerate(self.buckets):
            if inside and passed + inside >= wanted:
                low = BOUNDS_MS[number - 1] if number else 0.0
                high = BOUNDS_MS[number] if number < len(BOUNDS_MS) else low
                return low + (high - low) * (wanted - passed) / inside
            passed += inside
        return 0.0


class Stats(msgspec.Struct):
    """One version's calls into its engine."""

    since_ms: int = 0
    calls: int = 0
    errors: int = 0  # the engine's fault: went away, failed, or did not end in time
    refused: int = 0  # the engine called the request bad
    left: int = 0  # the caller went away
    engine_us: int = 0
    engine_s2: float = 0.0  # sum of squared engine seconds, for the spread
    latency: Histogram = msgspec.field(default_factory=Histogram)  # of calls that were answered
    first_token: Histogram = msgspec.field(default_factory=Histogram)
