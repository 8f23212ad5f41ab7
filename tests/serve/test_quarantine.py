"""Calls that ended while the engine was still at them: one that leaves a lane spinning is found, whoever was beside it is not
blamed, and little is remembered. What the quarantine does with calls that wait is in `test_faults`."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest

from tests.serve import tiny_versions
from tollway.artifacts.signing import Signer
from tollway.artifacts.store import Store
from tollway.kit.clock import SystemClock
from tollway.kit.errors import BadRequest
from tollway.kit.settings import Settings
from tollway.serve import quarantine as quarantine_module
from tollway.serve import replica as replica_module
from tollway.serve.engines.rows import Rows
from tollway.serve.line import Turn
from tollway.serve.models import Model
from tollway.serve.quarantine import Quarantine, digest
from tollway.serve.replica import Pace, State
from tollway.serve.requests import ClassifyRequest, ExplainRequest
from tollway.serve.run import Run
from tollway.serve.served import Served

MODEL = Model("trap", "classification", "Trap", "onnx", "1", None, 0)
LIFE = (1, 1)
numbers = count(1)


# -- a graph that loops for ever on one word, in a real replica with one lane ------------------------------------------


@contextlib.asynccontextmanager
async def trap(home: Path) -> AsyncIterator[tuple[Served, str]]:
    """The model, and its word."""
    store = Store(home / "packages", Signer(b"s" * 32), SystemClock())
    package = tiny_versions.shelve(store, home / "made", "snare", "trap")
    engine = Rows(package.folder, "trap", version="1", threads=1)
    served = Served(MODEL, [engine], {}, Settings(home, environment={}), SystemClock(), lambda *_: None)
    try:
        await served.scale(1)
        yield served, tiny_versions.last_word(package)
    finally:
        await served.stop_now()


def call_of(served: Served, kind: type[ClassifyRequest] | type[ExplainRequest], text: str) -> Run:
    request = kind(model="trap", input=[text])
    size = served.size_at_once(request)
    assert size is not None
    return Run(served, request, size, "org", f"call-{next(numbers)}", 0, Turn("org", time.monotonic() + 600))


async def stall(served: Served, kind: type[ClassifyRequest] | type[ExplainRequest], word: str) -> None:
    """The word is asked, then something harmless; the time of both is over when the lane has begun with the word."""
    lives = served.replica.restarts
    caught, behind = call_of(served, kind, word), call_of(served, ClassifyRequest, "a lovely film")
    calls = [(caught, asyncio.create_task(caught.answer()))]
    async with asyncio.timeout(120):
        while caught.id not in served.replica.at_work:
            await asyncio.sleep(0.01)
        calls.append((behind, asyncio.create_task(behind.answer())))
        while served.line.running < 2 and not calls[1][1].done():
            await asyncio.sleep(0.01)
        for run, task in calls:  # as a call's deadline does it
            run.expired = True
            task.cancel()
        await asyncio.gather(*(task for _, task in calls), return_exceptions=True)
        while served.replica.restarts == lives or served.replica.state is not State.READY:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", [ClassifyRequest, ExplainRequest], ids=["classified", "explained"])
async def test_who_leaves_a_lane_spinning_twice_is_refused_though_nobody_waited_for_the_end(
    kind: type[ClassifyRequest] | type[ExplainRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "Pace", lambda: Pace(pulse_every_s=0.05, batch_within_s=5))
    async with trap(tmp_path) as (served, word):
        for losses in (1, 2):
            await stall(served, kind, word)
            assert "without an end" in served.replica.last_failure
            body = call_of(served, kind, word).engine_calls[0].body
            assert {print_: mark.losses for print_, mark in served.quarantine.marks.items()} == {digest(body): losses}
        with pytest.raises(BadRequest, match="each time when the engine stopped"):
            await call_of(served, kind, word).answer()
        assert b"good" in await call_of(served, ClassifyRequest, "a lovely film").answer()
        assert (served.quarantine.refused, served.replica.restarts) == (1, 2), "what is refused stalls nobody"


# -- whose fault it is -------------------------------------------------------------------------------------------------


def test_only_what_the_engine_was_at_is_marked() -> None:
    quarantine = Quarantine()
    quarantine.give_up("a", b"word", LIFE, since=1, now=2)
    quarantine.give_up("b", b"hello", LIFE, since=1, now=2)
    quarantine.give_up("a", b"word", (2, 1), since=2, now=3)  # it was sent on
    assert quarantine.lost_at(["a", "waits still"], LIFE, now=45) == []
    assert list(quarantine.marks) == [digest(b"word")]
    assert quarantine.lost_at(["a"], (2, 1), now=46) == []
    assert quarantine.marks[digest(b"word")].losses == 1, "one call in two replicas says no more than in one"


@pytest.mark.parametrize("second_waits", [False, True], ids=["both given up", "one waits"])
async def test_of_two_that_were_inside_both_times_neither_is_refused_before_one_was_alone(second_waits: bool) -> None:
    quarantine, clear = Quarantine(), []
    for number in (1, 2):
        life, since = (1, number), 100.0 * number
        for call_id, body in (("a", b"word"), ("b", b"hello")):
            guest = await quarantine.enter(body, since)
            if guest is not None:
                guest.life = life
                quarantine.leave(guest, answered=False)
            if call_id == "a" or not second_waits:
                quarantine.give_up(call_id, body, life, since, since + 3)
        if second_waits:
            assert quarantine.lost(b"hello", life, since + 45, since=since) is None
        clear += quarantine.lost_at(["a", "b"], life, since + 45)
    assert (clear, quarantine.refused) == ([], 0)
    guest = await quarantine.enter(b"word", 300)
    assert guest is not None and guest.alone
    guest.life = (1, 3)
    quarantine.leave(guest, answered=False)
    quarantine.give_up("c", b"word", (1, 3), 300, 303)
    assert quarantine.lost_at(["c"], (1, 3), 345) == ["c"]
    with pytest.raises(BadRequest):
        await quarantine.enter(b"word", 346)
    assert await quarantine.enter(b"hello", 346) is not None


def test_calls_that_were_given_up_are_remembered_for_two_minutes_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine_module, "_MARKS_MAX", 10)
    quarantine = Quarantine()
    for number in range(100):
        quarantine.give_up(f"call-{number}", b"%d" % number, LIFE, since=0, now=1)
    assert len(quarantine._given_up) == 10
    quarantine.give_up("last", b"last", LIFE, since=0, now=200)
    assert list(quarantine._given_up) == [(LIFE, "last")], "the engine would have said long ago that it is at those"
    assert quarantine.lost_at(["call-99"], LIFE, now=201) == [] and not quarantine.marks
