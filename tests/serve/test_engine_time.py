"""Engine time: shares add up to the time that passed, to the microsecond's rounding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.serve.engine_time import EngineTime

STEPS = st.lists(
    st.tuples(st.floats(0.0001, 5, allow_nan=False), st.sampled_from(["enter", "first", "leave"])), max_size=80
)


@given(STEPS)
def test_shares_and_idle_time_are_the_time_that_passed(steps: list[tuple[float, str]]) -> None:
    now, time, inside = 100.0, EngineTime(100.0), []
    shares = 0
    for pause, what in steps:
        now += pause
        if what == "enter":
            inside.append(time.enter(now))
        elif inside and what == "first":
            time.first_token(inside[0], now)
        elif inside:
            prefill, decode = time.leave(inside.pop(0), now)
            time.book(prefill + decode, billed=len(inside) % 2 == 0)
            shares += prefill + decode
    for stint in inside:
        prefill, decode = time.leave(stint, now)
        time.book(prefill + decode, billed=False)
        shares += prefill + decode
    totals = time.take_totals(now)
    assert totals.busy_us + totals.failed_us == shares
    assert totals.busy_us + totals.failed_us + totals.idle_us == pytest.approx(
        (now - 100.0) * 1e6, abs=len(steps) * 2 + 2
    )


def test_a_call_alone_has_the_engine_to_itself() -> None:
    time = EngineTime(0.0)
    stint = time.enter(1.0)
    time.first_token(stint, 1.5)
    assert time.leave(stint, 3.5) == (500_000, 2_000_000)


def test_two_calls_share_the_steps_they_were_both_in() -> None:
    time = EngineTime(0.0)
    first = time.enter(0.0)
    time.first_token(first, 0.0)
    second = time.enter(1.0)
    assert time.leave(first, 3.0) == (0, 2_000_000)  # 1 s alone, half of 2 s
    assert time.leave(second, 4.0) == (2_000_000, 0)  # half of 2 s, 1 s alone; never got a token


def test_a_replica_that_is_down_costs_nothing() -> None:
    time = EngineTime(0.0)
    dying = time.enter(0.5)
    time.pause(1.0)
    assert time.leave(dying, 2.0) == (500_000, 0)
    assert time.take_totals(6.0).idle_us == 500_000  # a look at the books meanwhile lets no time pass either
    time.resume(11.0)
    assert time.take_totals(12.0).idle_us == 1_000_000
