"""The spans of time a page can show, each named in the URL (`?range=24h`) and cut into buckets for its charts."""

from dataclasses import dataclass
from typing import Final

from tollway.kit.clock import day_of

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Range:
    """A named span and the width of one bucket."""

    name: str
    span_ms: int
    step_ms: int

    @property
    def by_day(self) -> bool:
        """Are the buckets whole UTC days, so that the daily rollup can answer?"""
        return self.step_ms == DAY_MS

    def window(self, now_ms: int) -> tuple[int, int]:
        """Start and end (exclusive): whole UTC days, or sliding by the minute so that the last bucket is a full one."""
        border_ms = DAY_MS if self.by_day else MINUTE_MS
        end_ms = (now_ms // border_ms + 1) * border_ms
        return end_ms - self.span_ms, end_ms

    def starts(self, now_ms: int) -> list[int]:
        """Where each bucket begins."""
        from_ms, to_ms = self.window(now_ms)
        return list(range(from_ms, to_ms, self.step_ms))

    def days(self, now_ms: int) -> tuple[str, str]:
        """First and last UTC day, both inclusive."""
        from_ms, to_ms = self.window(now_ms)
        return day_of(from_ms), day_of(to_ms - 1)


RANGES: Final = {
    found.name: found
    for found in (
        Range("1h", HOUR_MS, MINUTE_MS),
        Range("24h", DAY_MS, HOUR_MS),
        Range("7d", 7 * DAY_MS, DAY_MS),
        Range("30d", 30 * DAY_MS, DAY_MS),
    )
}
DEFAULT: Final = RANGES["24h"]


def named(name: str | None, default: Range = DEFAULT) -> Range:
    """The range of that name, or the default: a mistyped URL shows something sensible."""
    return RANGES.get(name or "", default)
