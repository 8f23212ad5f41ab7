"""The line in front of a model: slots, tokens, fairness between organizations, bounded waiting."""

import asyncio
from contextlib import ExitStack

import pytest

from tollway.kit.errors import Unavailable
from tollway.serve.line import Line, Seat, Turn
from tollway.serve.wire import Pool


def seat(slots: int = 2, context_tokens: int = 0) -> Seat:
    return Seat(Pool("http://127.0.0.1:1"), slots, context_tokens, "1")


def line(*seats: Seat, queue_max: int = 100, timeout_s: float = 5.0) -> Line:
    made = Line("m", queue_max, timeout_s)
    made.seats.extend(seats)
    return made


async def test_a_seat_takes_as_many_calls_as_it_has_slots() -> None:
    one = line(seat(slots=2))
    first, _second = await one.take("a", 10), await one.take("a", 10)
    third = asyncio.ensure_future(one.take("a", 10))
    await asyncio.sleep(0)
    assert not third.done() and one.waiting == 1
    one.leave(first, 10)
    assert (await third).running == 2
    assert one.waiting == 0


class Clock:
    """Seconds as a test sets them."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def lonely(clock: Clock, one: Line, *, takes_s: float, pause_s: float) -> None:
    """A call of 100 tokens, refused or answered, and nobody for a while."""
    turn = Turn("a", clock.now + 300)
    one.require(100, turn)
    found = one.take_at_once(100, turn=turn)
    assert found is not None
    clock.now += takes_s
    one.leave(found, 100, turn=turn, cost=100)
    clock.now += pause_s


def test_a_seat_for_one_that_is_asked_now_and_then_is_not_taken_for_slow() -> None:
    """What it did not do while nobody asked says nothing about its speed: a model that hears one recording at a time."""
    clock = Clock()
    one = Line("m", 100, 30.0, clock)
    one.seats.append(seat(slots=1))
    for pause_s in (1.0, 300.0, 3600.0, 1.0, 86_400.0, 1.0):
        lonely(clock, one, takes_s=1.2, pause_s=pause_s)
    assert one.forecast.rate == 0 and one.refused == {}, "nobody ever waited: its full speed was not seen"


async def test_a_seat_for_one_learns_its_speed_from_those_who_wait() -> None:
    clock = Clock()
    one = Line("m", 100, 30.0, clock)
    one.seats.append(seat(slots=1))
    turns = [Turn("a", clock.now + 300) for _ in range(5)]
    waiting = [asyncio.ensure_future(one.take_turn(100, turn)) for turn in turns]
    for turn, place in zip(turns, waiting, strict=True):
        found = await place
        clock.now += 2.0
        one.leave(found, 100, turn=turn, cost=100)
    assert one.forecast.rate == pytest.approx(50)


def test_a_rate_of_a_bad_moment_keeps_nobody_out_of_an_idle_line_for_ever() -> None:
    clock = Clock()
    one = Line("m", 100, 30.0, clock)
    one.seats.append(seat(slots=4))
    one.forecast.sat(clock.now, pressed=True)
    clock.now += 10
    one.forecast.left(clock.now, 1, pressed=True, turn=1)  # the machine stood still: a token in ten seconds
    with pytest.raises(Unavailable) as refused:
        one.require(100, Turn("a", clock.now + 300))
    assert refused.value.retry_after_s
    clock.now += 6
    with pytest.raises(Unavailable):
        one.require(100, Turn("a", clock.now + 0.1))  # who has no time proves nothing
    turn = Turn("a", clock.now + 300)
    one.require(100, turn)
    with pytest.raises(Unavailable), one.expecting(100, turn):
        clock.now += 6
        one.require(100, turn)  # one goes to look, not everybody, however long it is counted
    found = one.take_at_once(100, turn=turn)
    assert found is not None
    clock.now += 1
    one.leave(found, 100, turn=turn, cost=100)
    one.require(100, Turn("a", clock.now + 30))
    assert one.forecast.rate == pytest.approx(100, rel=0.7), "what it did is what can be done"


def test_a_rate_of_a_bad_moment_is_put_right_though_somebody_always_runs() -> None:
    """Short calls, two at a time, that never press the engine and never leave it idle."""
    clock = Clock()
    one = Line("m", 100, 30.0, clock)
    one.seats.append(seat(slots=8))
    one.forecast.rate = 1.0
    turn = Turn("a", clock.now + 1000)
    first = one.take_at_once(20, turn=turn)
    assert first is not None
    for _ in range(80):
        clock.now += 0.5
        second = one.take_at_once(20, turn=turn)
        assert second is not None
        one.leave(second, 20, turn=turn, cost=20)
    assert 40 <= one.forecast.rate <= 60, "forty a second were done"


async def test_calls_that_come_and_end_together_show_the_speed_of_all_of_them() -> None:
    """An engine that runs eight side by side: all end at their deadline, in the same moment."""
    clock = Clock()
    one = line(seat(slots=8))
    one._now = clock
    turns = [Turn("a", clock.now + 8) for _ in range(30)]
    for turn in turns:
        one.require(200, turn)
    places = [asyncio.ensure_future(one.take_turn(200, turn)) for turn in turns]
    await asyncio.sleep(0)
    clock.now += 8
    for turn, place in zip(turns[:8], places, strict=False):
        one.leave(await place, 200, turn=turn, cost=150, cut_off=True)
    assert one.forecast.rate == pytest.approx(150) and one.forecast.share == 1.0
    for place in places[8:]:
        place.cancel()
    await asyncio.gather(*places[8:], return_exceptions=True)
    clock.now += 1
    counted = 0
    with ExitStack() as counting:  # while they are counted nobody runs yet
        for turn in (Turn("a", clock.now + 8) for _ in range(30)):
            try:
                one.require(200, turn)
            except Unavailable as refusal:
                assert refusal.retry_after_s and 0 < refusal.retry_after_s < 8
            else:
                counting.enter_context(one.expecting(200, turn))
                counted += 1
    assert counted == 3, "200 tokens each at 150 a second: these end in 4 of their 8 s, with room for error"


async def test_tokens_bound_what_runs_together_but_never_a_call_alone() -> None:
    only = seat(slots=8, context_tokens=100)
    one = line(only)
    await one.take("a", 70)
    second = asyncio.ensure_future(one.take("a", 40))
    await asyncio.sleep(0)
    assert not second.done()
    one.leave(only, 70)
    await second
    one.leave(only, 40)
    await one.take("a", 1000)


async def test_a_flood_from_one_does_not_bury_another() -> None:
    only = seat(slots=1)
    one = line(only)
    await one.take("flood", 1)
    order: list[str] = []

    async def call(org_id: str) -> None:
        taken = await one.take(org_id, 1)
        order.append(org_id)
        await asyncio.sleep(0)
        one.leave(taken, 1)

    calls = [asyncio.ensure_future(call("flood")) for _ in range(20)]
    await asyncio.sleep(0)
    calls += [asyncio.ensure_future(call("quiet")) for _ in range(3)]
    await asyncio.sleep(0)
    one.leave(only, 1)
    await asyncio.gather(*calls)
    assert [place for place, org in enumerate(order) if org == "quiet"][-1] <= 6
    assert only.running == 0 and only.tokens == 0 and one.waiting == 0


async def test_a_full_line_refuses_at_once_and_a_wait_ends() -> None:
    one = line(seat(slots=1), queue_max=1, timeout_s=0.02)
    await one.take("a", 1)
    waiting = asyncio.ensure_future(one.take("a", 1))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="too many calls waiting"):
        await one.take("b", 1)
    with pytest.raises(Unavailable, match="no replica free"):
        await waiting
    assert one.waiting == 0


async def test_a_caller_who_leaves_takes_no_seat_along() -> None:
    only = seat(slots=1)
    one = line(only)
    await one.take("a", 5)
    leaver = asyncio.ensure_future(one.take("b", 5))
    await asyncio.sleep(0)
    one.leave(only, 5)  # the seat is given to the leaver ...
    leaver.cancel()  # ... who goes in the same moment
    with pytest.raises(asyncio.CancelledError):
        await leaver
    assert only.running == 0 and only.tokens == 0
    await asyncio.wait_for(one.take("c", 5), 30)


async def test_a_seat_that_is_not_ready_is_waited_for() -> None:
    only = seat(slots=1)
    only.ready = False
    one = line(only)
    waiting = asyncio.ensure_future(one.take("a", 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    only.ready = True
    one.seat_next()
    assert (await waiting) is only


async def test_the_least_busy_seat_comes_first() -> None:
    busy, free = seat(slots=4), seat(slots=4)
    busy.running = 3
    assert await line(busy, free).take("a", 1) is free


async def test_a_full_line_has_room_for_who_waits_least() -> None:
    only = seat(slots=1)
    one = line(only, queue_max=4)
    await one.take("flood", 1)
    flood = [asyncio.ensure_future(one.take("flood", 1)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await one.take("flood", 1)
    quiet = [asyncio.ensure_future(one.take("quiet", 1)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await one.take("quiet", 1)  # both have two now
    await asyncio.sleep(0)
    assert [call.done() and call.exception() is not None for call in flood] == [False, False, True, True]
    for _ in range(5):
        one.leave(only, 1)
        await asyncio.sleep(0)
    await asyncio.gather(*flood[:2], *quiet)
    await asyncio.sleep(0)
    assert one.waiting == 0 and only.running == 0 and only.tokens == 0


async def test_a_large_call_is_not_passed_for_ever() -> None:
    only, passed_s = seat(slots=4, context_tokens=100), [0.0]
    one = Line("m", 100, 60.0, clock=lambda: passed_s[0])
    one.seats.append(only)
    await one.take("many", 40)
    await one.take("many", 40)
    large = asyncio.ensure_future(one.take("large", 90))
    await asyncio.sleep(0)
    passed_s[0] = 16.0
    small = [asyncio.ensure_future(one.take("many", 40)) for _ in range(2)]
    await asyncio.sleep(0)
    one.leave(only, 40)
    await asyncio.sleep(0)
    assert not small[0].done()
    one.leave(only, 40)
    await large
    one.leave(only, 90)
    await asyncio.gather(*small)
    assert only.running == 2 and one.waiting == 0


async def test_nobody_waits_beside_a_free_seat() -> None:
    only = seat(slots=2)
    one = line(only)
    first, second = await one.take("a", 1), await one.take("a", 1)
    waiting = asyncio.ensure_future(one.take("b", 1))
    await asyncio.sleep(0)
    one.leave(first, 1)  # seats b, who has not woken yet ...
    one.leave(second, 1)  # ... and this seat is free
    await asyncio.wait_for(one.take("c", 1), 30)
    await waiting
    assert only.running == 2 and one.waiting == 0
