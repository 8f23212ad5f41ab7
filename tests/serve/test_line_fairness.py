"""The line over minutes of virtual time: shares by weight, tiers, deadlines, honest refusals, nobody forgotten."""

import asyncio
import contextlib
import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serve.virtual_time import VirtualLoop, run
from tollway.kit.errors import Unavailable
from tollway.serve.line import Line, Seat, Turn
from tollway.serve.wire import Pool

TIMEOUT_S = 60.0
SPEED = 1000.0  # cost per second of the whole engine


class Engine:
    """Seats of one engine that shares its speed among the calls inside."""

    def __init__(self, loop: VirtualLoop, slots: int = 2, seats: int = 1, queue_max: int = 10_000) -> None:
        self.loop, self.slots = loop, slots
        self.line = Line("m", queue_max, TIMEOUT_S, clock=loop.time)
        self.line.seats.extend(Seat(Pool("http://127.0.0.1:1"), slots, 0, "1") for _ in range(seats))
        self.served: Counter[str] = Counter()
        self.order: list[str] = []
        self.end = float("inf")  # what is served after it does not count

    async def call(self, turn: Turn, tokens: int, cost: int | None = None) -> None:
        """One call: its seat, its time in the engine, its end."""
        real = tokens if cost is None else cost
        self.line.require(tokens, turn)
        seat = await self.line.take_turn(tokens, turn)
        self.order.append(turn.org_id)
        done = 0
        try:
            await asyncio.sleep(real * self.slots * len(self.line.seats) / SPEED)
            done = real
        finally:
            self.served[turn.org_id] += done * (self.loop.time() <= self.end)
            self.line.leave(seat, tokens, turn=turn, cost=done)

    async def keep_asking(self, turn: Turn, tokens: tuple[int, int], until: float, seed: int) -> None:
        chance = random.Random(seed)
        while self.loop.time() < until:
            await self.call(turn, chance.randint(*tokens))


@pytest.mark.parametrize("same_size", [True, False])
def test_weights_are_kept_in_what_is_served(same_size: bool) -> None:
    weights = {"a": 1, "b": 2, "c": 4}
    sizes = (
        {"a": (50, 150), "b": (50, 150), "c": (50, 150)}
        if same_size
        else {"a": (200, 400), "b": (10, 30), "c": (50, 150)}
    )

    async def main(loop: VirtualLoop) -> Counter[str]:
        engine = Engine(loop)
        until = engine.end = loop.time() + 100
        await asyncio.gather(
            *(
                engine.keep_asking(Turn(name, weight=weight), sizes[name], until, seed)
                for name, weight in weights.items()
                for seed in range(12)
            )
        )
        return engine.served

    served = run(main)
    whole = sum(served.values())
    for name, weight in weights.items():
        assert served[name] / whole == pytest.approx(weight / 7, rel=0.1)


def test_a_model_quicker_than_its_callers_is_divided_by_weight_too() -> None:
    """64 seats that are all answered within a moment sort nobody: while one is to have more than another, fewer are given."""

    async def shares(loop: VirtualLoop, weight: float, sorted_at: int) -> tuple[float, int]:
        engine = Engine(loop, slots=64)
        engine.line.seats[0].slots_sorted = sorted_at
        until = engine.end = loop.time() + 50
        calls = [engine.keep_asking(Turn(name, weight=its), (1, 1), until, seed)
                 for name, its in (("gold", weight), ("one", 1.0)) for seed in range(48)]  # fmt: skip
        asking = asyncio.gather(*calls)
        await asyncio.sleep(25)
        most = engine.line.running
        await asking
        assert not engine.line._ranks, "nobody is here any more"
        return engine.served["gold"] / engine.served["one"], most

    ratio, inside = run(lambda loop: shares(loop, 4.0, 20))
    assert ratio == pytest.approx(4, rel=0.1)
    assert inside == 20
    ratio, inside = run(lambda loop: shares(loop, 1.0, 20))
    assert ratio == pytest.approx(1, rel=0.1)
    assert inside == 64, "who are all alike need no sorting, and larger batches are quicker"


def test_an_organization_that_gets_another_weight_is_one_of_its_new_rank() -> None:
    line = Line("m", 100, 30.0, lambda: 1000.0)
    line.seats.append(Seat(Pool("http://127.0.0.1:1"), 4, 0, "1", slots_sorted=2))
    changed = [Turn("a"), Turn("a", weight=2.0), Turn("b", weight=2.0)]
    seats = [line.take_at_once(1, turn=turn) for turn in changed]
    assert None not in seats, "a's calls are all of its new weight, and b's too"
    line.leave(line.seats[0], 1, turn=changed[0])
    other = Turn("c", weight=3.0)
    assert line.take_at_once(1, turn=other) is not None, "who comes first of another rank finds a seat"
    line.leave(line.seats[0], 1, turn=changed[1])
    assert line.take_at_once(1, turn=changed[2]) is None, "from then on two are enough"
    line.leave(line.seats[0], 1, turn=other)
    assert line.take_at_once(1, turn=changed[2]) is not None


def test_a_seat_on_trial_takes_one_call_whoever_is_here() -> None:
    line = Line("m", 100, 30.0, lambda: 1000.0)
    line.seats.append(Seat(Pool("http://127.0.0.1:1"), 64, 0, "1", slots_sorted=20))
    assert line.take_at_once(1, turn=Turn("a")) is not None
    assert line.take_at_once(1, turn=Turn("b", weight=2.0)) is not None
    line.leave(line.seats[0], 1, turn=Turn("a"))
    line.leave(line.seats[0], 1, turn=Turn("b", weight=2.0))
    line.seats[0].slots = 1
    assert line.take_at_once(1, turn=Turn("a")) is not None
    assert line.take_at_once(1, turn=Turn("b", weight=2.0)) is None


def test_what_counts_is_what_it_really_cost() -> None:
    """One holds ten times what it uses; both get half."""

    async def main(loop: VirtualLoop) -> Counter[str]:
        engine = Engine(loop)
        until = engine.end = loop.time() + 100

        async def ask(name: str, held: int) -> None:
            while loop.time() < until:
                await engine.call(Turn(name), held, cost=100)

        await asyncio.gather(*(ask(name, held) for name, held in (("vast", 1000), ("exact", 100)) for _ in range(8)))
        return engine.served

    served = run(main)
    assert served["vast"] / served["exact"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("begins_after_s", [0.0, 20.0])
def test_who_names_no_max_tokens_is_not_refused_for_what_is_never_written(begins_after_s: float) -> None:
    """Two organizations whose answers are alike; one holds ten times what it uses. It may also be the first of its kind, beside
    a flood that goes on."""

    async def main(loop: VirtualLoop) -> Counter[str]:
        engine, chance = Engine(loop, slots=8), random.Random(5)
        answered: Counter[str] = Counter()
        start, seconds = loop.time(), 60.0

        async def one(name: str, held: int) -> None:
            with contextlib.suppress(Unavailable):
                await engine.call(Turn(name, loop.time() + 1.5), held, cost=chance.randint(14, 26))
                answered[name] += loop.time() - start > begins_after_s

        async def stream(name: str, held: int, wait_s: float) -> None:
            await asyncio.sleep(wait_s)
            tasks = []
            while loop.time() < start + seconds:
                await asyncio.sleep(chance.expovariate(SPEED / 20))  # as many as could be served alone
                tasks.append(asyncio.ensure_future(one(name, held)))
            await asyncio.gather(*tasks)

        await asyncio.gather(stream("exact", 30, 0.0), stream("vast", 1030, begins_after_s))
        return answered

    answered = run(main)
    assert answered["vast"] / answered["exact"] == pytest.approx(1, abs=0.25)


def test_who_comes_back_has_saved_nothing_and_owes_nothing() -> None:
    async def main(loop: VirtualLoop) -> tuple[Counter[str], Counter[str]]:
        engine = Engine(loop)
        start = loop.time()
        busy = [asyncio.ensure_future(engine.keep_asking(Turn("busy"), (50, 150), start + 60, n)) for n in range(8)]
        await asyncio.sleep(30)
        before = engine.served.copy()
        late = [asyncio.ensure_future(engine.keep_asking(Turn("late"), (50, 150), start + 60, n)) for n in range(8)]
        await asyncio.gather(*busy, *late)
        return before, engine.served

    before, after = run(main)
    assert (after["busy"] - before["busy"]) / after["late"] == pytest.approx(1, abs=0.15)


def overloaded(times: float, seconds: float = 30) -> tuple[dict[str, int], list[float], list[float]]:
    """Poisson arrivals at so many times the engine's speed, each with a second; (counts, times of the served, Retry-Afters)."""

    async def main(loop: VirtualLoop) -> tuple[dict[str, int], list[float], list[float]]:
        engine, chance = Engine(loop, slots=8), random.Random(3)
        took: list[float] = []
        settled: list[float] = []  # of those who came when it had gone on for a while
        waits: list[float] = []
        counts = {"in time": 0, "late": 0, "refused": 0, "refused late": 0, "cost": 0}

        async def one() -> None:
            began, tokens = loop.time(), chance.randint(5, 35)
            try:
                await engine.call(Turn("org", began + 1.0), tokens)
            except Unavailable as refusal:
                counts["refused"] += 1
                counts["refused late"] += loop.time() > began
                assert refusal.retry_after_s is not None
                waits.append(refusal.retry_after_s)
            else:
                took.append(loop.time() - began)
                settled.extend(took[-1:] if began > start + 5 else [])
                good = took[-1] <= 1.0
                counts["in time" if good else "late"] += 1
                counts["cost"] += tokens * good

        tasks = []
        start = loop.time()
        while loop.time() < start + seconds:
            await asyncio.sleep(chance.expovariate(times * SPEED / 20))
            tasks.append(asyncio.ensure_future(one()))
        await asyncio.gather(*tasks)
        return counts, settled, waits

    return run(main)


@pytest.mark.parametrize("times", [2.0, 5.0])
def test_an_overload_does_not_eat_what_is_served(times: float) -> None:
    counts, took, waits = overloaded(times)
    assert counts["cost"] / (30 * SPEED) >= 0.95
    assert counts["late"] <= 0.01 * counts["in time"]
    assert counts["refused late"] == 0, "a refusal comes at once"
    assert all(0 < wait <= 2 for wait in waits)
    assert sorted(took)[int(0.99 * len(took))] < 0.5, "a queue that stands is kept short"


def test_below_capacity_hardly_anybody_is_refused() -> None:
    counts, _, _ = overloaded(0.8)
    assert counts["refused"] <= 0.02 * counts["in time"] and counts["late"] == 0


def test_the_quiet_one_is_not_refused_beside_a_flood() -> None:
    async def main(loop: VirtualLoop) -> tuple[int, list[float]]:
        engine, chance = Engine(loop, slots=4), random.Random(1)
        refused, times = 0, list[float]()
        end = loop.time() + 30

        async def flood() -> None:
            while loop.time() < end:
                try:
                    await engine.call(Turn("flood", loop.time() + 1.0), chance.randint(5, 35))
                except Unavailable:
                    await asyncio.sleep(0.005)

        async def quiet() -> None:
            while loop.time() < end:
                await asyncio.sleep(0.2)
                began = loop.time()
                await engine.call(Turn("quiet", began + 1.0), 20)
                times.append(loop.time() - began)

        await asyncio.gather(quiet(), *(flood() for _ in range(40)))
        return refused, times

    _, times = run(main)
    assert len(times) > 90 and max(times) < 0.4


def test_higher_tiers_go_first_and_the_standard_one_is_not_starved() -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        engine = Engine(loop, slots=1)
        first = asyncio.ensure_future(engine.call(Turn("first"), 100))
        await asyncio.sleep(0)
        calls = [asyncio.ensure_future(engine.call(Turn("batch", tier=2), 10)) for _ in range(3)]
        calls += [asyncio.ensure_future(engine.call(Turn("standard", tier=1), 10)) for _ in range(6)]
        calls += [asyncio.ensure_future(engine.call(Turn("priority", tier=0), 10)) for _ in range(24)]
        await asyncio.gather(first, *calls)
        return engine.order

    order = run(main)
    assert order[1:9] == ["priority"] * 8
    assert order[9] == "standard"
    assert order[-3:] == ["batch"] * 3
    assert [name for name in order if name == "standard"] == ["standard"] * 6


def test_batches_leave_room_for_those_who_come_in_person() -> None:
    async def main(loop: VirtualLoop) -> tuple[int, float]:
        engine = Engine(loop, slots=8)
        batches = [asyncio.ensure_future(engine.call(Turn("b", tier=2), 1000)) for _ in range(20)]
        await asyncio.sleep(1)
        running = engine.line.seats[0].running
        began = loop.time()
        seat = await engine.line.take("person", 10)
        waited = loop.time() - began
        engine.line.leave(seat, 10, turn=Turn("person"))
        await asyncio.gather(*batches)
        return running, waited

    assert run(main) == (6, 0.0)


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from("abcde"),
            st.integers(0, 2),
            st.integers(1, 400),
            st.floats(0, 3),
            st.sampled_from([1.0, 2.0, 7.0]),
            st.booleans(),
        ),
        min_size=1,
        max_size=60,
    ),
    slots=st.integers(1, 5),
)
def test_every_call_ends_and_nothing_is_left(calls: list[tuple[str, int, int, float, float, bool]], slots: int) -> None:
    """Whatever comes: each call is served, leaves or is refused; afterwards the line is as if nobody had been there."""

    async def main(loop: VirtualLoop) -> None:
        engine = Engine(loop, slots=slots)

        async def one(org: str, tier: int, tokens: int, at: float, weight: float, leaves: bool) -> None:
            await asyncio.sleep(at)
            turn = Turn(org, loop.time() + 30, tier, weight)
            with contextlib.suppress(TimeoutError, Unavailable):
                async with asyncio.timeout(0.05 if leaves else None):
                    await engine.call(turn, tokens)

        await asyncio.gather(*(one(*call) for call in calls))
        assert engine.line.waiting == 0
        assert [(seat.running, seat.tokens) for seat in engine.line.seats] == [(0, 0)]
        assert all(not members for members in engine.line._members)
        assert all(not members for members in engine.line._waiting)

    run(main)


def test_a_refusal_costs_microseconds() -> None:
    async def main(loop: VirtualLoop) -> float:
        engine = Engine(loop, slots=4)
        engine.line.forecast.rate = SPEED
        held = [asyncio.ensure_future(engine.call(Turn(f"org{n % 50}"), 100)) for n in range(500)]
        await asyncio.sleep(0)
        turn = Turn("org1", loop.time() + 0.5)
        began = time.process_time()
        for _ in range(200):
            with pytest.raises(Unavailable):
                engine.line.require(100, turn)
        spent = (time.process_time() - began) / 200
        for call in held:
            call.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        return spent

    assert run(main) < 0.001


def test_who_gives_a_call_no_time_makes_it_tight_for_nobody() -> None:
    """Refused calls cost nothing: a flood of them must not have others' calls refused that would be in time."""
    line = Line("m", 256, 60.0, clock=lambda: 1000.0)
    line.forecast.rate = 300.0
    for _ in range(20):
        with pytest.raises(Unavailable):
            line.require(8192, Turn("flood", 1000.001))
    line.require(150, Turn("other", 1001.0))
