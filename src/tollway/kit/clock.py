"""Time as an argument: everything that needs "now" takes a Clock, so that tests (and later the test clock) own it.

Wall time is UTC and leaves the kit as epoch milliseconds; durations are measured on the monotonic side.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What the house asks of time."""

    def now_ms(self) -> int:
        """Wall time, UTC, in milliseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards; only differences mean something."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told to: for tests and simulations."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now_ms = to_ms(start)
        self._monotonic = 0.0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, **by: float) -> None:
        """Move both sides forward: `clock.advance(days=1, seconds=0.5)`, the arguments of timedelta."""
        step = timedelta(**by)
        if step < timedelta(0):
            raise ValueError("a clock only moves forward")
        self._now_ms += round(step.total_seconds() * 1000)
        self._monotonic += step.total_seconds()


def to_ms(moment: datetime) -> int:
    """An aware datetime as epoch milliseconds. Naive ones are refused: a time without a zone is a bug."""
    if moment.tzinfo is None:
        raise ValueError("a datetime without a time zone cannot be stored")
    return round(moment.timestamp() * 1000)


def from_ms(moment_ms: int) -> datetime:
    """Epoch milliseconds as an aware UTC datetime."""
    return datetime.fromtimestamp(moment_ms / 1000, tz=UTC)


def day_of(moment_ms: int) -> str:
    """The UTC day as `2026-01-31`."""
    return from_ms(moment_ms).strftime("%Y-%m-%d")


def month_of(moment_ms: int) -> str:
    """The UTC month as `2026-01`; the name of a billing period."""
    return from_ms(moment_ms).strftime("%Y-%m")


def month_bounds_ms(month: str) -> tuple[int, int]:
    """Start (inclusive) and end (exclusive) of a month such as `2026-01`, in epoch milliseconds UTC."""
    start = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    after = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    return to_ms(start), to_ms(after)
