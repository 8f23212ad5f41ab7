"""Time: UTC, injected, months that meet without a gap."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.kit import clock

MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC))


@given(MOMENTS)
def test_every_moment_lies_in_exactly_its_own_month(moment: datetime) -> None:
    now_ms = clock.to_ms(moment)
    start, end = clock.month_bounds_ms(clock.month_of(now_ms))
    assert start <= now_ms < end
    assert clock.month_of(start) == clock.month_of(end - 1) == clock.month_of(now_ms)
    assert clock.month_bounds_ms(clock.month_of(end))[0] == end


@given(MOMENTS)
def test_milliseconds_come_back(moment: datetime) -> None:
    rounded = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    assert clock.from_ms(clock.to_ms(rounded)) == rounded


def test_a_leap_february_has_29_days() -> None:
    start, end = clock.month_bounds_ms("2028-02")
    assert (end - start) == 29 * 86_400_000


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        clock.to_ms(datetime(2026, 1, 1))


def test_a_manual_clock_moves_both_sides_forward_only() -> None:
    manual = clock.ManualClock()
    before = manual.now_ms()
    manual.advance(days=1, seconds=0.5)
    assert manual.now_ms() - before == 86_400_500
    assert manual.monotonic() == 86_400.5
    with pytest.raises(ValueError, match="forward"):
        manual.advance(seconds=-1)
