"""Sliding windows: no minute, wherever it is laid, holds more than the limit."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.sell.rate_limits import Gate, Window

STEPS = st.lists(st.tuples(st.floats(0, 30, allow_nan=False), st.integers(1, 8)), max_size=120)


@given(st.integers(1, 40), STEPS)
def test_no_minute_ever_holds_more_than_the_limit(limit: int, steps: list[tuple[float, int]]) -> None:
    window, now = Window(limit), 0.0
    taken: list[tuple[float, int]] = []
    for pause, amount in steps:
        now += pause
        if window.left(now) >= amount:
            window.take(now, amount)
            taken.append((now, amount))
    for start, _ in taken:
        assert sum(amount for when, amount in taken if start <= when < start + 60) <= limit


@given(st.integers(1, 40), STEPS, st.integers(1, 40))
def test_waiting_as_long_as_told_is_enough(limit: int, steps: list[tuple[float, int]], amount: int) -> None:
    window, now = Window(limit), 0.0
    for pause, wanted in steps:
        now += pause
        if window.left(now) >= wanted:
            window.take(now, wanted)
    if amount <= limit:
        now += window.wait_s(now, amount) + 1e-6
        assert window.left(now) >= amount


def test_a_limit_is_served_in_full() -> None:
    window = Window(10)
    served = sum(1 for _ in range(200) if window.left(5.0) >= 1 and window.take(5.0, 1))
    assert served == 10


def test_a_correction_gives_back_what_was_taken_too_much() -> None:
    window = Window(100)
    ticket = window.take(0.0, 100)
    assert window.left(1.0) == 0
    window.correct(ticket, -70)
    assert window.left(1.0) == 70
    assert window.left(61.0) == 100


def test_a_correction_of_a_forgotten_second_changes_nothing() -> None:
    window = Window(100)
    ticket = window.take(0.0, 100)
    window.left(70.0)
    window.take(70.0, 5)
    window.correct(ticket, -90)
    assert window.left(70.0) == 95


def test_a_gate_says_what_stands_in_the_way() -> None:
    gate = Gate(rpm=1, tpm=50, concurrency=1)
    assert gate.refusal(0.0, 10) is None
    assert gate.refusal(0.0, 51) == ("50 tokens per minute", 60.0)
    gate.running = 1
    assert gate.refusal(0.0, 10) == ("1 calls at once", 1.0)
    gate.running = 0
    assert gate.rpm is not None
    gate.rpm.take(0.0, 1)
    assert gate.refusal(1.0, 10) == ("1 requests per minute", 60.0)


def test_new_limits_keep_what_was_taken() -> None:
    gate = Gate(rpm=10, tpm=None, concurrency=None)
    assert gate.rpm is not None
    gate.rpm.take(0.0, 8)
    gate.adopt(rpm=5, tpm=7, concurrency=3)
    assert gate.rpm.left(1.0) == -3
    assert gate.tpm is not None and gate.tpm.left(1.0) == 7
    gate.adopt(rpm=None, tpm=None, concurrency=None)
    assert gate.refusal(1.0, 10**9) is None
