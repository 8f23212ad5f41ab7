"""What happens when replicas fail: second tries within a budget, ejection, and requests that nobody should try again."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serve.mortal import Mortal
from tests.serve.unplugged import Unplugged
from tollway.kit.clock import SystemClock
from tollway.kit.errors import BadRequest, TollwayError, Unavailable
from tollway.kit.settings import Settings
from tollway.kit.tasks import Tasks
from tollway.serve import breaker, outliers
from tollway.serve import replica as replica_module
from tollway.serve.line import Turn
from tollway.serve.models import Model
from tollway.serve.outliers import IN_A_ROW, Health, stands_out
from tollway.serve.quarantine import Quarantine, digest
from tollway.serve.replica import Confinement, Pace, Replica, State
from tollway.serve.requests import ClassifyRequest
from tollway.serve.retries import Budget, Patience
from tollway.serve.run import Run
from tollway.serve.runtimes import local
from tollway.serve.served import Served
from tollway.serve.stats import Histogram

MODEL = Model("m", "classification", "M", "onnx", "1", None, 0)


@contextlib.asynccontextmanager
async def serving(home: Path, replicas: int = 1, **engine: Any) -> AsyncIterator[Served]:
    served = Served(MODEL, [Mortal(**engine)], {}, Settings(home, environment={}), SystemClock(), lambda *_: None)
    try:
        await served.scale(replicas)
        yield served
    finally:
        await served.stop_now()


async def ask(served: Served, text: str, within_s: float = 30) -> Run:
    """One call; raises what its caller would be told."""
    request = ClassifyRequest(model="m", input=[text])
    size = served.size_at_once(request)
    assert size is not None
    run = Run(served, request, size, "org", "call", 0, Turn("org", time.monotonic() + within_s))
    await run.answer()
    return run


async def outcome(served: Served, text: str) -> str:
    try:
        return "retried" if (await ask(served, text)).retries else "ok"
    except TollwayError as error:
        return error.code


# -- requests that stop the engine -------------------------------------------------------------------------------------


async def test_a_request_that_stops_the_engine_twice_is_refused_and_all_others_go_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        assert await outcome(served, "hello") == "ok"
        assert await outcome(served, "die") == "request_stops_engine"  # it was tried a second time, alone
        for _ in range(3):
            with pytest.raises(BadRequest, match="each time when the engine stopped"):
                await ask(served, "die")
        assert served.quarantine.refused == 1
        assert await outcome(served, "hello") == "ok"
        assert served.replica.restarts == 2, "what is refused costs no more lives"


async def test_who_was_only_beside_it_is_answered(tmp_path: Path) -> None:
    """Six calls in the engine, one of them deadly: the others are not blamed, and the deadly one is found."""
    async with serving(tmp_path, slots=8) as served:
        others = [f"slow {200 + number}" for number in range(5)]
        found: dict[str, str] = dict.fromkeys(others, "")
        for _ in range(4):  # as a client does that tries again
            texts = [text for text, code in found.items() if code not in ("ok", "retried")]
            codes = await asyncio.gather(*(outcome(served, text) for text in [*texts, "die 50"]))
            found |= dict(zip(texts, codes, strict=False))
            deadly = codes[-1]
            if deadly == "request_stops_engine":
                break
        assert deadly == "request_stops_engine"
        for text in others:
            assert await outcome(served, text) == "ok"
        assert served.quarantine.refused == 1


def test_the_same_innocent_request_of_many_is_marked_once_and_cleared_by_an_answer() -> None:
    async def story() -> None:
        quarantine = Quarantine()
        for _ in range(5):
            assert quarantine.lost(b"hello", (1, 1), now=0) is None
        guest = await quarantine.enter(b"hello", 1)
        assert guest is not None
        quarantine.leave(guest, answered=True)
        assert quarantine.marks == {}
        assert await quarantine.enter(b"hello", 2) is None

    asyncio.run(story())


def test_replicas_that_go_together_blame_no_request() -> None:
    """A node dies: with it the two replicas that a much-asked request is in, or the one it was sent on to."""
    quarantine = Quarantine()
    assert quarantine.lost(b"hello", (1, 1), now=10, since=9) is None
    assert quarantine.lost(b"hello", (2, 1), now=10.1, since=9.5) is None, "it was inside before it was marked"
    assert quarantine.lost(b"hello", (2, 1), now=99, since=10) is None

    quarantine = Quarantine()
    assert quarantine.lost(b"hello", (1, 1), now=10, since=9, node="10.0.0.7") is None
    assert quarantine.lost(b"hello", (2, 1), now=12, since=10.5, node="10.0.0.7") is None
    assert quarantine.refused == 0
    assert quarantine.lost(b"hello", (3, 1), now=13, since=12.5, node="10.0.0.8") is not None, "elsewhere it stops too"


# -- second tries ------------------------------------------------------------------------------------------------------


async def test_an_engine_that_fails_is_not_asked_twice_but_its_neighbour_is(tmp_path: Path) -> None:
    async with serving(tmp_path) as alone:
        assert await outcome(alone, "fail") == "engine_failed"
        assert alone.stats.errors == 1
    async with serving(tmp_path, replicas=2) as two:
        two.retries.left = 0.95
        assert await outcome(two, "fail") == "engine_failed"
        assert two.stats.errors == 2, "one second try, then the budget was used up"
        assert await outcome(two, "fail") == "engine_failed"
        assert two.stats.errors == 3
        assert await outcome(two, "hello") == "ok"


@given(st.lists(st.booleans(), max_size=500), st.floats(1, 50))
def test_second_tries_are_a_tenth_of_the_calls_and_a_reserve(faults: list[bool], reserve: float) -> None:
    budget, tries = Budget(reserve), 0
    for fault in faults:
        budget.earn()
        tries += fault and budget.take()
    assert tries <= 0.1 * len(faults) + reserve
    assert not faults or budget.left >= 0


def test_patience_follows_what_is_usual_and_grows_when_calls_do() -> None:
    times, patience = Histogram(), Patience(100.0)
    patience.tick(times)
    assert patience.within_s == 100, "nothing is known"
    for _ in range(100):
        times.add(0.1)
    patience.tick(times)
    assert 0.8 <= patience.within_s <= 1.0
    assert patience.within(1.0) == pytest.approx(0.5), "half of what is left"
    assert patience.within(0.2) >= 0.1, "but never less than usual"
    for _ in range(3):  # all calls take 5 s from now on: each one is given up, until there is patience enough
        for _ in range(30):
            patience.give_up(patience.within_s)
        patience.tick(times)
    assert patience.within_s > 5
    for _ in range(130):  # and two minutes of short ones later it is as before
        times.add(0.1)
        patience.tick(times)
    assert patience.within_s <= 1.0


async def test_nobody_is_impatient_with_a_replica_that_is_the_only_one_left(tmp_path: Path) -> None:
    """What takes longer than usual where nobody else could be asked takes longer; it is not given up as if it had failed."""
    async with serving(tmp_path, replicas=2) as served:
        served.whole_answer.within_s = 0.05
        served.line.seats[1].ready = False
        assert await outcome(served, "slow 300") == "ok"
        assert served.stats.errors == 0


async def test_who_was_given_up_for_a_replica_that_is_gone_is_asked_again(tmp_path: Path) -> None:
    async with serving(tmp_path, replicas=2) as served:
        served.whole_answer.within_s = 0.2
        first, other = served.line.seats
        call = asyncio.create_task(outcome(served, "slow 600"))
        async with asyncio.timeout(60):
            while not first.running:
                await asyncio.sleep(0)
        other.ready = False
        assert await call == "retried"


async def test_a_request_that_was_there_at_a_loss_is_not_handed_on_when_nothing_comes(tmp_path: Path) -> None:
    """It may be what does not end: it would hold up one replica after the other."""
    async with serving(tmp_path, replicas=2) as served:
        served.whole_answer.within_s = 0.05
        request = ClassifyRequest(model="m", input=["slow 600"])
        (call,) = request.engine_calls(served.engine_model, served.caps, 0, stream=False, defaults={})
        assert served.quarantine.lost(call.body, (1, 1), time.monotonic()) is None
        assert await outcome(served, "slow 600") == "ok"
        assert not served.quarantine.marks, "who is answered is cleared"


async def test_the_calls_in_a_replica_whose_node_lost_its_power_are_tried_elsewhere(tmp_path: Path) -> None:
    """No connection breaks and no patience ends: it is enough that its life is known to be over."""
    nodes = Unplugged()
    settings = Settings(tmp_path, environment={})
    served = Served(MODEL, [Mortal()], {}, settings, SystemClock(), lambda *_: None, runtime=nodes)
    try:
        await served.scale(2)
        nodes.places[0].unplug()
        call = asyncio.create_task(outcome(served, "hello"))
        async with asyncio.timeout(60):
            while not served.line.seats[0].running:
                await asyncio.sleep(0)
            nodes.places[0].missed.set()
            assert await call == "retried"
        assert served.first_piece.within_s > 60, "nobody lost patience"
    finally:
        await served.stop_now()
        await nodes.close()


# -- ejection ----------------------------------------------------------------------------------------------------------


def test_three_faults_in_a_row_are_enough_and_an_answer_between_is_not() -> None:
    health = Health()
    assert [health.fault() for _ in range(IN_A_ROW)] == [False, False, True]
    health = Health()
    health.fault()
    health.fault()
    health.recovered(0.0)
    assert not health.fault()


def test_each_ejection_is_twice_as_long_unless_it_was_well_in_between() -> None:
    health, now, pauses = Health(), 100.0, []
    for _ in range(7):
        pauses.append(health.eject(now))
        now += pauses[-1]
        health.try_again()
        assert health.fault(), "on trial one fault is enough"
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    health.try_again()
    health.recovered(now)
    assert not health.trial
    assert health.eject(now + 61) == 1


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 200), st.integers(0, 200))
def test_who_stands_out_has_clearly_more_faults(calls: int, faults: int, others_calls: int, others_faults: int) -> None:
    one = Health(calls=max(calls, faults), faults=faults)
    others = Health(calls=max(others_calls, others_faults), faults=others_faults)
    if stands_out(one, [others]):
        assert faults >= 3
        assert faults / one.calls > others_faults / others.calls
        assert not stands_out(others, [one])


def test_some_faults_are_normal_and_many_more_than_the_neighbours_have_are_not() -> None:
    assert not stands_out(Health(calls=10, faults=3), [Health(calls=10)])
    assert stands_out(Health(calls=100, faults=10), [Health(calls=100), Health(calls=100, faults=1)])
    assert not stands_out(Health(calls=100, faults=10), [Health(calls=100, faults=8)])
    assert not stands_out(Health(calls=100, faults=100), []), "there is nobody to compare with"


async def test_requests_that_fail_everywhere_eject_nobody(tmp_path: Path) -> None:
    """Errors may be the request's: one caller must not be able to have replicas ejected."""
    async with serving(tmp_path, replicas=2) as served:
        for _ in range(12):
            assert await outcome(served, "fail") == "engine_failed"
        assert served.ejections == 0
        assert await outcome(served, "hello") == "ok"


async def test_a_caller_with_little_time_ejects_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path, replicas=2) as served:
        for _ in range(40):
            await outcome(served, "hello")
        served.tick()
        for _ in range(6):
            with contextlib.suppress(TollwayError):
                await ask(served, "slow 300", within_s=0.2)
        assert served.ejections == 0


async def test_one_that_fails_where_the_other_answers_is_ejected_and_the_last_one_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outliers, "_FIRST_S", 600.0)  # not back before the end, however slowly calls go
    monkeypatch.setattr(outliers, "_MOST_S", 600.0)
    async with serving(tmp_path, replicas=2) as served:
        assert await outcome(served, "sicken") == "ok"  # from now on this replica fails
        codes = [await outcome(served, "hello") for _ in range(12)]
        assert set(codes) <= {"ok", "retried"}
        assert codes.count("retried") == IN_A_ROW
        assert served.ejections >= 1
        assert await outcome(served, "sicken") == "ok"
        assert sum(seat.ready for seat in served.line.seats) == 1, "the last one is never ejected"
        for _ in range(6):
            assert await outcome(served, "hello") == "engine_failed"
        assert await outcome(served, "heal") == "ok"
        assert await outcome(served, "hello") == "ok"


async def test_its_probe_and_then_a_call_bring_it_back(tmp_path: Path) -> None:
    async with serving(tmp_path, replicas=2) as served:
        seat = served.line.seats[0]
        for _ in range(IN_A_ROW):
            served.fault(seat)
        assert (seat.ready, seat.health.ejected) == (False, True)
        async with asyncio.timeout(60):
            while seat.health.ejected:
                await asyncio.sleep(0.02)
        assert (seat.ready, seat.slots, seat.health.trial) == (True, 1, True)
        await asyncio.gather(*(outcome(served, "slow 5") for _ in range(4)))
        assert (seat.slots, seat.health.trial) == (4, False)


async def test_a_replica_that_ended_gets_no_calls_before_its_supervisor_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine that takes a while. A call that comes meanwhile waits, and does not use up its tries."""
    known, ended = asyncio.Event(), local.Process.ended

    async def late(process: local.Process) -> str:
        why = await ended(process)
        await known.wait()
        return why

    monkeypatch.setattr(local.Process, "ended", late)
    monkeypatch.setattr(breaker, "_SUSPENDED_S", 0.01)
    async with serving(tmp_path) as served:
        pid = served.replica.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        call = asyncio.create_task(outcome(served, "hello"))
        await asyncio.sleep(0.5)  # in which it would have been sent there fifty times
        known.set()
        assert await call == "retried"


# -- replicas that cannot live -----------------------------------------------------------------------------------------


async def test_a_replica_that_ends_again_and_again_is_failed_and_calls_hear_it_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, stillborn=True) as served:
        replica = served.replica
        replica._pace = Pace(backoff_first_s=0.01, backoff_most_s=0.02, short_lives_most=4, failed_again_s=60)
        async with asyncio.timeout(60):
            while replica.state is not State.FAILED:
                await asyncio.sleep(0.02)
        assert "it cannot live" in replica.last_failure
        assert replica.restarts >= 4
        began = time.monotonic()
        with pytest.raises(Unavailable, match="do not start") as refused:
            await ask(served, "hello")
        assert time.monotonic() - began < 10, "it did not wait for the half minute it had"
        assert 20 < (refused.value.retry_after_s or 0) <= 60
        assert [view.state for view in served.views()] == ["failed"]


@pytest.mark.parametrize("lazy", [False, True], ids=["loaded now", "loaded when called"])
async def test_what_never_came_up_keeps_nobody_waiting(lazy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a start that fails hears it when it is no accident any more, who comes afterwards hears it at once."""
    monkeypatch.setattr(replica_module, "Pace", lambda: Pace(backoff_first_s=40, stillborn_after=1))
    engine, loading = Mortal(stillborn=True), Tasks()
    served = Served(
        MODEL, [engine], {}, Settings(tmp_path, environment={}), SystemClock(), lambda *_: None,
        lambda one: loading.begin(one.scale(1)),
    )  # fmt: skip
    try:
        if lazy:
            served.rest()
        else:
            loading.begin(served.scale(1))
        for _ in range(2):
            with pytest.raises(Unavailable, match="do not start") as refused:
                await ask(served, "hello", within_s=600)
            assert refused.value.code == "model_failed" and 20 < (refused.value.retry_after_s or 0) <= 40
        assert (served.replica.restarts, served.line.waiting) == (1, 0)
        assert [(view.state, view.why) for view in served.views()] == [("starting", "it cannot live")]
    finally:
        await served.stop_now()
        loading.cancel()


async def test_one_that_never_gets_ready_is_given_up_however_long_it_tries(tmp_path: Path) -> None:
    """A model that only spins lives until it is ended for not being ready: that is no health."""
    turns: list[State] = []
    pace = Pace(ready_within_s=0.02, settled_after_s=0.01, backoff_first_s=0.01, short_lives_most=3, failed_again_s=0.05)
    replica = Replica(
        Mortal(), SystemClock(), pace=pace, folder=tmp_path / "r", on_state=lambda _, state: turns.append(state)
    )
    try:
        with pytest.raises(Unavailable, match="not ready within"):
            await replica.start()
        async with asyncio.timeout(60):
            while replica.state is not State.FAILED:
                await asyncio.sleep(0.005)
        assert replica.restarts == 3 and turns[-1] is State.FAILED
        assert replica.next_try_in_s > 0.1, "a try of 0.02 s and more every 0.2 s at most"
    finally:
        await replica.stop()


async def test_one_that_was_well_is_waited_for(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        engine = served.replica.engine
        assert isinstance(engine, Mortal)
        engine._words.append("stillborn")
        assert await outcome(served, "hello") == "ok"
        served.replica.give_up("a node went away")
        async with asyncio.timeout(60):
            while served.replica.restarts < 2:  # the next life does not begin
                await asyncio.sleep(0.01)
        assert not served.failed and not served.away
        engine._words.clear()
        assert await outcome(served, "hello") == "ok"


async def test_more_memory_than_its_limit_is_not_had(tmp_path: Path) -> None:
    for limit, why in ((256 << 20, "no memory"), (0, "")):
        replica = Replica(Mortal(hungry=True), SystemClock(), confinement=Confinement(memory_bytes=limit), folder=tmp_path / "r")
        try:
            if why:
                with pytest.raises(Unavailable, match=why):
                    await replica.start()
            else:
                await replica.start()
        finally:
            await replica.stop()


def test_copies_of_a_request_that_stops_the_engine_do_not_go_in_one_after_the_other() -> None:
    """They wait for their turn while the first is inside; when that one has shown what it is, none of them goes in."""

    async def story() -> None:
        quarantine = Quarantine()
        for life in (1, 2):
            quarantine.lost(b"die", (1, life), now=0)
            quarantine.lost(f"beside {life}".encode(), (1, life), now=0)
        quarantine.marks[digest(b"die")].refused = False  # doubted, not proven
        first = await quarantine.enter(b"die", 1)
        assert first is not None and first.alone
        first.life = (1, 3)
        copies = [asyncio.ensure_future(quarantine.enter(b"die", 1)) for _ in range(3)]
        await asyncio.sleep(0)
        assert quarantine.lost(b"die", (1, 3), now=1) is not None
        quarantine.leave(first, answered=False)
        assert all(isinstance(one, BadRequest) for one in await asyncio.gather(*copies, return_exceptions=True))

    asyncio.run(story())


def test_copies_of_an_innocent_request_go_in_freely_once_the_first_was_answered() -> None:
    async def story() -> None:
        quarantine = Quarantine()
        for life in (1, 2):
            quarantine.lost(b"hello", (1, life), now=0)
        quarantine.marks[digest(b"hello")].refused = False
        first = await quarantine.enter(b"hello", 1)
        assert first is not None and first.alone
        copies = [asyncio.ensure_future(quarantine.enter(b"hello", 1)) for _ in range(3)]
        await asyncio.sleep(0)
        quarantine.leave(first, answered=True)
        async with asyncio.timeout(60):
            assert await asyncio.gather(*copies) == [None, None, None]

    asyncio.run(story())
