"""What a line foresees before it has seen anything, and how what it sees takes the place of that."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tollway.artifacts import signing, store
from tollway.forge.convert import starter
from tollway.kit.clock import SystemClock
from tollway.kit.errors import Unavailable
from tollway.kit.settings import Settings
from tollway.serve.fleet import Fleet
from tollway.serve.forecast import Forecast, Held
from tollway.serve.line import Line, Seat, Turn
from tollway.serve.models import Model
from tollway.serve.packages import Packages
from tollway.serve.wire import Pool


class Clock:
    """Seconds as a test sets them."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def started(clock: Clock, rate: float, slots: int = 8) -> Line:
    """A line whose replica has just become ready, and showed so much a second."""
    made = Line("m", 100, 60.0, clock)
    made.seats.append(Seat(Pool("http://127.0.0.1:1"), slots, 0, "1"))
    made.forecast.expect(rate)
    return made


def burst(one: Line, clock: Clock, calls: int, tokens: int, left_s: float) -> tuple[list[tuple[Seat, Turn]], list[float]]:
    """So many calls in the same moment: those that have a seat, and what the others were told to wait. The engine counts the
    prompts of those that are let in; none has a seat before all have come."""
    seated, waits, let_in = [], [], []
    turns = [Turn("a", clock.now + left_s) for _ in range(calls)]
    with ExitStack() as counting:
        for turn in turns:
            try:
                one.require(tokens, turn)
                counting.enter_context(one.expecting(tokens, turn))
                let_in.append(turn)
            except Unavailable as refusal:
                assert refusal.retry_after_s is not None
                waits.append(refusal.retry_after_s)
    for turn in let_in:
        seat = one.take_at_once(tokens, turn=turn)
        assert seat is not None, "who is let in finds a seat"
        seated.append((seat, turn))
    return seated, waits


def test_who_is_only_being_counted_has_a_place_and_gives_it_back() -> None:
    clock = Clock()
    one = started(clock, rate=100)
    late, early = Turn("late", clock.now + 8), Turn("early", clock.now + 8)
    with pytest.raises(ZeroDivisionError), one.expecting(500, early):
        with pytest.raises(Unavailable), one.expecting(500, late):
            one.require(100, late)  # 500 of its own before it
        with pytest.raises(Unavailable):
            one.require(500, late)  # as many of the other
        raise ZeroDivisionError
    one.require(500, late)
    assert not any(one._members), "nothing is left of who was refused after all"


def test_the_first_burst_is_judged_by_what_the_replica_showed() -> None:
    clock = Clock()
    one = started(clock, rate=100)
    seated, waits = burst(one, clock, 30, tokens=200, left_s=8)
    assert len(seated) == 2, "400 tokens take 4 s, 600 more than 0.65 of 8 s"
    assert waits == [pytest.approx(600 / 100 - 0.65 * 8)] * 28
    clock.now += 4
    for seat, turn in seated:
        one.leave(seat, 200, turn=turn, cost=200)
    clock.now += waits[0]
    one.require(200, Turn("a", clock.now + 8))  # it comes back when it was told to


def test_without_a_word_of_the_replica_nobody_is_refused() -> None:
    clock = Clock()
    seated, waits = burst(started(clock, rate=0), clock, 8, tokens=200, left_s=8)
    assert (len(seated), waits) == (8, [])


def test_a_whole_context_that_is_held_is_not_taken_for_what_will_be_written() -> None:
    """Nobody named `max_tokens`: each holds 1,064 tokens, ten seconds' worth, and will write an answer of usual length."""
    clock = Clock()
    one = started(clock, rate=100)
    seated, waits = burst(one, clock, 30, tokens=1064, left_s=8)
    assert len(seated) == 2, "256 tokens each"
    assert waits == [pytest.approx(3 * 256 / 100 - 0.65 * 8)] * 28


def test_the_first_call_that_is_over_shows_what_one_costs() -> None:
    clock = Clock()
    one = started(clock, rate=100)
    seated, _ = burst(one, clock, 30, tokens=1064, left_s=8)
    seat, turn = seated[0]
    clock.now += 1
    one.leave(seat, 1064, turn=turn, cost=53.2)
    assert (one.forecast.share, one.forecast.usual) == (pytest.approx(0.05), pytest.approx(53.2))
    one.require(1064, Turn("a", clock.now + 8))
    assert one.forecast.share == pytest.approx(0.05), "from now on it is not supposed any more"


def test_a_call_that_was_cut_off_shows_what_one_costs_at_least() -> None:
    """Stories without end: those that are cut off are all there are, and else every burst would be taken for short ones."""
    clock = Clock()
    one = started(clock, rate=100)
    seated, _ = burst(one, clock, 30, tokens=1064, left_s=8)
    clock.now += 8
    for (seat, turn), cost in zip(seated, (400, 100), strict=True):
        one.leave(seat, 1064, turn=turn, cost=cost, cut_off=True)
    assert one.forecast.usual == 400, "the other one may have been left by its caller"


def test_a_few_calls_are_averaged_and_many_followed() -> None:
    forecast = Forecast()
    for cost in (10, 90, 20):
        forecast.learn(forecast.habit("a"), 100, cost)
    assert (forecast.share, forecast.usual) == (pytest.approx(0.4), pytest.approx(40))
    for _ in range(200):
        forecast.learn(forecast.habit("a"), 100, 80)
    assert forecast.share == pytest.approx(0.8, abs=0.01)


def test_what_calls_turn_out_to_cost_is_known_of_each_organization_and_kind() -> None:
    forecast = Forecast()
    assert forecast.habit("a").cost_of(1000) == 1000, "nothing is known"
    for name, tokens, cost in 10 * [("a", 1064, 50), ("a", 100, 90), ("b", 1064, 1000)]:
        forecast.learn(forecast.habit(name), tokens, cost)
    a, b, new = (forecast.habit(name) for name in ("a", "b", "new"))
    assert (a.cost_of(1064), a.cost_of(100), b.cost_of(1064)) == (pytest.approx(50), pytest.approx(90), pytest.approx(1000))
    assert a.cost_of(1100) == pytest.approx(50 * 1100 / 1064), "calls that hold about as much are of one kind"
    assert forecast.usual <= new.cost_of(1064) <= 2 * forecast.usual, "who is not known costs what calls usually do"
    assert new.cost_of(8) < 8, "and never more than is held"
    held = Held()
    for tokens in (1064, 1064, 100):
        held.add(tokens)
    assert a.cost(held) == pytest.approx(50 + 50 + 90)
    for tokens in (1064, 100, 1064):
        held.drop(tokens)
    assert not held and a.cost(held) == 0


def test_what_is_known_of_organizations_is_bounded_and_who_was_forgotten_is_learnt_again() -> None:
    forecast = Forecast()
    for name in ("first", *(f"org-{number}" for number in range(20_000)), "first"):
        forecast.learn(forecast.habit(name), 1000, 10 if name == "first" else 900)
    assert len(forecast._habits) <= 4096
    assert forecast.habit("first").cost_of(1000) == pytest.approx(10)


def test_the_first_look_at_full_seats_replaces_what_was_expected() -> None:
    clock = Clock()
    for expected in (10.0, 1000.0):
        one = started(clock, expected, slots=2)
        turns = [Turn("a", clock.now + 300) for _ in range(2)]
        seats = [one.take_at_once(100, turn=turn) for turn in turns]
        clock.now += 2
        for seat, turn in zip(seats, turns, strict=True):
            assert seat is not None
            one.leave(seat, 100, turn=turn, cost=100)
        assert one.forecast.rate == pytest.approx(100), "200 in two seconds, whatever was expected"
        one.forecast.expect(5000.0)
        assert one.forecast.rate == pytest.approx(100), "a replica that comes later does not undo it"


def test_expecting_too_little_keeps_callers_out_for_one_call() -> None:
    """The replica started in a bad moment: five tokens a second, where it writes a hundred."""
    clock = Clock()
    one = started(clock, rate=5)
    seated, waits = burst(one, clock, 30, tokens=100, left_s=8)
    assert (len(seated), len(waits)) == (1, 29), "into an idle line one goes to look"
    (seat, turn), clock.now = seated[0], clock.now + 1
    one.leave(seat, 100, turn=turn, cost=100)
    assert one.forecast.rate == pytest.approx(100), "what was done alone can be done"
    seated, _ = burst(one, clock, 30, tokens=100, left_s=8)
    assert len(seated) == 5


def test_replicas_that_come_later_add_what_they_showed() -> None:
    forecast = Forecast()
    forecast.expect(100)
    forecast.expect(100 + 80)
    assert forecast.rate == 180
    forecast.expect(80)  # one is lost: what was believed is put right by the first look
    assert forecast.rate == 180


def test_a_call_that_takes_long_itself_does_not_wait_long() -> None:
    """What bounds waiting in line (`queue_timeout_s`, 60 s) does not bound how long an answer is written."""
    clock = Clock()
    one = started(clock, rate=0, slots=2)
    seated, _ = burst(one, clock, 2, tokens=200, left_s=600)
    clock.now += 200
    for seat, turn in seated:
        one.leave(seat, 200, turn=turn, cost=200)
    assert one.forecast.rate == pytest.approx(2)
    clock.now += 1
    seated, waits = burst(one, clock, 3, tokens=200, left_s=600)
    assert len(seated) == 1, "100 s of work in front of the second"
    assert waits == [pytest.approx(200 / 2 - 60)] * 2


def test_who_has_time_is_not_refused_for_what_is_only_expected() -> None:
    """The replica started in a bad moment, and a call may wait for minutes: it is not the line's impatience that decides."""
    clock = Clock()
    seated, waits = burst(started(clock, rate=2), clock, 4, tokens=200, left_s=600)
    assert len(seated) == 3, "300 s of work, of 390 that there are"
    assert waits == [pytest.approx(400 - 390)]


@pytest.mark.engine
async def test_a_language_model_is_known_when_its_first_burst_comes(tmp_path: Path) -> None:
    """The real engine: before it had a call its line says at once who cannot be in time."""
    shelf = store.Store(tmp_path / "packages", signing.Signer(b"k" * 32), SystemClock())
    package = starter.import_smollm2(shelf)
    chosen = Settings(tmp_path, {"queue_timeout_s": 3600.0}, environment={})
    fleet = Fleet(Packages(shelf, chosen), chosen, SystemClock(), lambda served, replica, state: None)
    try:
        fleet.offer([Model("chat", "chat", "", "llama_cpp", "1", None, 0, package=package.manifest.name)])
        await fleet.wait_ready()
        line = fleet.find("chat").line
        assert line.forecast.rate > 0
        deadline = time.monotonic() + 2.5 * 256 / line.forecast.rate / 0.65  # two answers' time, and half of one
        seated, refused = 0, 0
        for _ in range(30):
            turn = Turn("a", deadline)
            try:
                line.require(1064, turn)
                seated += line.take_at_once(1064, turn=turn) is not None
            except Unavailable as refusal:
                assert refusal.retry_after_s is not None
                refused += 1
        assert (seated, refused) == (2, 28)
    finally:
        await fleet.close()
