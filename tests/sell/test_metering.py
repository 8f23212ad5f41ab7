"""The recorder: durable before told, once whatever happens, rollup and wallet in the same transaction."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from tollway.kit.clock import ManualClock, day_of
from tollway.kit.db import Database
from tollway.kit.errors import Unavailable
from tollway.sell import ledger, metering, tables
from tollway.sell.metering import Committed, Recorder, UsageEvent

MILLION = 1_000_000


def event(number: int, clock: ManualClock, *, org: str = "org_a", picos: int = 0, model: str = "m") -> UsageEvent:
    call = f"{number:026d}"
    return UsageEvent(
        f"evt_{call}", f"req_{call}", org, "key_1", "sub_1", "pv_1", model, "1", "chat", "ok",
        clock.now_ms(), 3, 2, 5, picos, 10, 20, None, 30, False,
    )  # fmt: skip


@pytest.fixture
async def told() -> list[Committed]:
    return []


@pytest.fixture
async def recorder(db: Database, clock: ManualClock, told: list[Committed]) -> AsyncIterator[Recorder]:
    made = Recorder(db, clock, told.extend)
    yield made
    await made.close()


def rows(db: Database, table: sa.Table) -> list[Any]:
    with db.read() as conn:
        return list(conn.execute(sa.select(table)))


async def test_what_was_told_is_in_the_database(db: Database, clock: ManualClock, recorder: Recorder) -> None:
    await recorder.record(event(1, clock), None)
    (row,) = rows(db, tables.usage_event)
    assert (row.id, row.input_tokens, row.cached_tokens, row.output_tokens) == ("evt_" + "1".zfill(26), 3, 2, 5)


async def test_the_rollup_is_the_sum_of_the_events(db: Database, clock: ManualClock, recorder: Recorder) -> None:
    chance = random.Random(7)
    waiting = []
    for number in range(300):
        if chance.random() < 0.02:
            clock.advance(hours=20)
        waiting.append(
            recorder.record(
                event(number, clock, org=chance.choice(["a", "b"]), model=chance.choice("xyz"), picos=number), None
            )
        )
        if chance.random() < 0.2:
            await asyncio.sleep(0.001)
    await asyncio.gather(*waiting)
    sums: dict[Any, int] = {}
    for row in rows(db, tables.usage_event):
        place = (row.org_id, day_of(row.at_ms), row.model)
        sums[place] = sums.get(place, 0) + row.price_picos
    assert {(row.org_id, row.day, row.model): row.price_picos for row in rows(db, tables.usage_daily)} == sums
    assert sum(row.requests for row in rows(db, tables.usage_daily)) == 300
    assert recorder.commits < 300, "many calls share one commit"


async def test_the_wallet_pays_whole_micros_and_loses_none(
    db: Database, clock: ManualClock, recorder: Recorder, told: list[Committed]
) -> None:
    with db.write() as conn:
        ledger.top_up(conn, clock.now_ms(), "org_a", "USD", 10 * MILLION, "t")
    total = 0
    for number, picos in enumerate((1, 999_999, 700_000, 700_000, 0, 12_345_678)):
        await recorder.record(event(number, clock, picos=picos), "USD")
        total += picos
        assert told[-1].wallet_picos == 10 * MILLION * MILLION - total
        assert told[-1].settled_picos == picos
    with db.read() as conn:
        assert ledger.wallet_micros(conn, "org_a", "USD") == 10 * MILLION - total // MILLION
        assert ledger.balance(conn, "revenue_usage", "", "USD") == 0, "posted by the minute"
        assert [entry.kind for entry in ledger.entries(conn, "org_a")] == ["accrued", "top_up"]
    await recorder.close()
    with db.read() as conn:
        assert ledger.wallet_picos(conn, "org_a") == {("org_a", "USD"): 10 * MILLION * MILLION - total}
        assert ledger.balance(conn, "revenue_usage", "", "USD") == -(total // MILLION)
        assert {entry.kind for entry in ledger.entries(conn, "org_a")} == {"usage", "top_up"}
        assert ledger.audit(conn) == []


async def test_usage_is_posted_while_it_runs(db: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when no call comes by any more, and whatever a gateway before it has left."""
    monkeypatch.setattr(metering, "_POST_EVERY_S", 0.01)
    with db.write() as conn:
        ledger.accrue(conn, clock.now_ms(), {("org_b", "USD"): 3 * MILLION})
    recorder = Recorder(db, clock, lambda _: None)
    await recorder.record(event(1, clock, picos=5 * MILLION), "USD")
    async with asyncio.timeout(60):
        while True:
            with db.read() as conn:
                if ledger.balance(conn, "revenue_usage", "", "USD") == -8:
                    break
            await asyncio.sleep(0.01)
    await recorder.close()


async def test_a_commit_waits_for_more_calls_only_while_there_are_any(
    db: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight callers, each with one call after the other: once all eight wait, nobody else can join them."""
    monkeypatch.setattr(metering, "_GATHER_S", 3600.0)
    recorder = Recorder(db, clock, lambda _: None, under_way=lambda: 8)

    async def calls(caller: int) -> None:
        for number in range(20):
            await recorder.record(event(100 * caller + number, clock), None)

    async with asyncio.timeout(120):
        await asyncio.gather(*(calls(caller) for caller in range(8)))
    assert recorder.events == 160
    assert recorder.commits <= 40, "they share commits"
    await recorder.close()


async def test_a_ledger_that_cannot_be_written_keeps_nobody_from_being_recorded(
    db: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "_POST_EVERY_S", 0.001)
    failed = []

    def fail(name: str) -> None:
        if name == "posting.before_commit" and len(failed) < 2:
            failed.append(name)
            raise sa.exc.OperationalError("insert", {}, Exception("disk hiccup"))

    monkeypatch.setattr(metering, "crashpoint", fail)
    recorder = Recorder(db, clock, lambda _: None)
    for number in range(4):
        await recorder.record(event(number, clock, picos=5 * MILLION), "USD")
    await recorder.close()
    with db.read() as conn:
        assert len(failed) == 2
        assert ledger.wallet_picos(conn, "org_a") == {("org_a", "USD"): -20 * MILLION}
        assert ledger.balance(conn, "revenue_usage", "", "USD") == -20


async def test_a_commit_that_came_through_unheard_is_not_repeated(
    db: Database, clock: ManualClock, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection dies after the commit and before its answer: the second try must find the batch there."""
    with db.write() as conn:
        ledger.top_up(conn, clock.now_ms(), "org_a", "USD", MILLION, "t")
    lost = iter([True])

    def unheard(name: str) -> None:
        if name == "recorder.after_commit" and next(lost, False):
            raise sa.exc.OperationalError("commit", {}, Exception("connection lost"))

    monkeypatch.setattr(metering, "crashpoint", unheard)
    await recorder.record(event(1, clock, picos=5 * MILLION), "USD")
    assert len(rows(db, tables.usage_event)) == 1
    assert [row.requests for row in rows(db, tables.usage_daily)] == [1]
    with db.read() as conn:
        assert ledger.wallet_micros(conn, "org_a", "USD") == MILLION - 5


async def test_a_commit_that_failed_is_tried_again(
    db: Database, clock: ManualClock, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([True, True])

    def fail(name: str) -> None:
        if name == "recorder.rollup_written" and next(failures, False):
            raise sa.exc.OperationalError("insert", {}, Exception("disk hiccup"))

    monkeypatch.setattr(metering, "crashpoint", fail)
    await recorder.record(event(1, clock), None)
    assert len(rows(db, tables.usage_event)) == 1
    assert [row.requests for row in rows(db, tables.usage_daily)] == [1]


async def test_what_cannot_be_recorded_is_said_and_leaves_nothing(
    db: Database, clock: ManualClock, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "_GIVE_UP_S", 0.05)

    def fail(name: str) -> None:
        raise sa.exc.OperationalError("insert", {}, Exception("disk full"))

    monkeypatch.setattr(metering, "crashpoint", fail)
    with pytest.raises(Unavailable, match="could not be recorded"):
        await recorder.record(event(1, clock), None)
    assert rows(db, tables.usage_event) == []
    monkeypatch.setattr(metering, "crashpoint", lambda name: None)
    await recorder.record(event(2, clock), None)
    assert len(rows(db, tables.usage_event)) == 1


async def test_closing_writes_what_waits(db: Database, clock: ManualClock) -> None:
    recorder = Recorder(db, clock, lambda _: None)
    waiting = [recorder.record(event(number, clock), None) for number in range(50)]
    await recorder.close()
    await asyncio.gather(*waiting)
    assert len(rows(db, tables.usage_event)) == 50
    with pytest.raises(Unavailable):
        recorder.record(event(99, clock), None)


async def test_a_caller_who_left_is_recorded_all_the_same(db: Database, clock: ManualClock, recorder: Recorder) -> None:
    left = recorder.record(event(1, clock), None)
    left.cancel()
    await recorder.record(event(2, clock), None)
    assert len(rows(db, tables.usage_event)) == 2


async def test_what_another_gateway_has_recorded_speaks_for_itself_alone(
    db: Database, clock: ManualClock, recorder: Recorder
) -> None:
    """A job's event that is in the books already shares a commit with a call's: the call is billed all the same."""
    await recorder.record(event(1, clock, picos=5 * MILLION), None)
    held = threading.Event()
    waiting = asyncio.ensure_future(recorder.run(lambda conn: held.wait(60)))
    await asyncio.sleep(0.01)
    both = [recorder.record(event(number, clock, picos=5 * MILLION), None) for number in (1, 2)]
    held.set()
    await asyncio.gather(waiting, *both)
    assert sorted(row.id[-1] for row in rows(db, tables.usage_event)) == ["1", "2"]
    assert sum(row.requests for row in rows(db, tables.usage_daily)) == 2
