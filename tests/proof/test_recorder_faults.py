"""What goes wrong around the recorder must not reach the money: late pictures, events no database holds, failed commits."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from tollway.kit.clock import SystemClock
from tollway.kit.db import Database
from tollway.kit.errors import Unavailable
from tollway.sell import accounts, api_keys, catalog, ledger, metering, tables
from tollway.sell.access import Access, Caller, Grant
from tollway.sell.book import read_book
from tollway.sell.demand import Demand
from tollway.sell.metering import Committed, Recorder, UsageEvent

PEPPER = b"pepper for tests, 32 bytes long."
TERMS = catalog.Terms(charges=(catalog.Charge(meter="output_tokens", price_micros=1_000_000),))  # a micro a token


@dataclass
class Counter:
    """A recorder with the gateway's picture beside it, wired as the gateway wires them."""

    db: Database
    access: Access
    recorder: Recorder
    caller: Caller

    def settle(self, tokens: int, name: str) -> tuple[Grant, UsageEvent]:
        grant = self.access.admit(self.caller, Demand("m", 0, tokens))
        picos = self.access.settle(grant, {"output_tokens": tokens, "requests": 1})
        org, key = self.caller.account.org_id, self.caller.key.id
        event = UsageEvent(
            f"evt_{name}", f"req_{name}", org, key, grant.subscription_id, grant.plan.id, "m", "1", "chat", "ok",
            SystemClock().now_ms(), 0, 0, tokens, picos, 0, 0, None, 0, False,
        )  # fmt: skip
        return grant, event

    @property
    def left_micros(self) -> int:
        return self.caller.account.left_picos() // 1_000_000


@pytest.fixture
async def counter(db: Database) -> AsyncIterator[Counter]:
    now_ms = SystemClock().now_ms()
    with db.write() as conn:
        org = accounts.create_organization(conn, now_ms, "acme")
        catalog.subscribe(conn, now_ms, org.id, catalog.create_plan(conn, now_ms, "p", "P", TERMS).id)
        ledger.top_up(conn, now_ms, org.id, "USD", 1000, "top_up:1")
        key = api_keys.issue_key(conn, now_ms, PEPPER, org.id, "k")
    access = Access(SystemClock(), PEPPER)

    def committed(wallets: list[Committed]) -> None:
        for wallet in wallets:
            access.committed(wallet.org_id, wallet.currency, wallet.wallet_picos, wallet.settled_picos)

    recorder = Recorder(db, SystemClock(), committed)
    with db.read() as conn:
        access.adopt(read_book(conn, now_ms))
    yield Counter(db, access, recorder, access.identify(key.secret))
    await recorder.close()


async def test_a_reading_is_taken_over_before_the_commits_that_follow_it(counter: Counter) -> None:
    """The loop is busy while the thread reads the wallet and then commits a call: the older reading must not win."""
    reading = asyncio.ensure_future(
        counter.recorder.run(lambda conn: read_book(conn, SystemClock().now_ms()), counter.access.adopt)
    )
    await asyncio.sleep(0)  # the reading is in the queue
    _, event = counter.settle(400, "a")
    kept = counter.recorder.record(event, "USD")
    deadline = time.monotonic() + 60
    while counter.recorder.commits < 1 and time.monotonic() < deadline:
        time.sleep(0.01)  # on purpose: the event loop hears of both only now
    time.sleep(0.05)
    await asyncio.gather(reading, kept)
    assert counter.left_micros == 600


@pytest.mark.parametrize("poison", [{"input_tokens": 2**70}, {"model_version": "a\0b"}], ids=["too large", "NUL"])
async def test_an_event_no_database_holds_takes_no_other_along(counter: Counter, poison: dict[str, Any]) -> None:
    if counter.db.is_sqlite and "model_version" in poison:
        pytest.skip("SQLite stores a NUL")
    (_, good), (_, bad), (_, last) = (counter.settle(10, name) for name in "abc")
    for name, value in poison.items():
        setattr(bad, name, value)
    futures = [counter.recorder.record(event, "USD") for event in (good, bad, last)]
    async with asyncio.timeout(60):
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), Unavailable, type(None)]
        _, later = counter.settle(10, "d")
        await counter.recorder.record(later, "USD")
    with counter.db.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(tables.usage_event)).scalar() == 3


async def test_what_could_not_be_recorded_is_not_owed(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database refuses for a while: the calls fail, and wallet and quota are as before them."""
    monkeypatch.setattr(metering, "_GIVE_UP_S", 0.1)
    with counter.db.write() as conn:
        conn.exec_driver_sql("ALTER TABLE usage_event RENAME TO usage_event_away")
    grant, event = counter.settle(400, "a")
    assert counter.left_micros == 600
    quantities = {"output_tokens": 400, "requests": 1}
    with pytest.raises(Unavailable):
        await counter.recorder.record(
            event, "USD", lambda: counter.access.unsettle(grant, quantities, event.price_picos)
        )
    left = asyncio.ensure_future(_left_alone(counter))
    await asyncio.sleep(0)
    left.cancel()  # its client went away while it waited: it is not owed either
    await asyncio.sleep(0.6)
    assert (counter.left_micros, counter.caller.account.spending.tokens) == (1000, 0)
    with counter.db.write() as conn:
        conn.exec_driver_sql("ALTER TABLE usage_event_away RENAME TO usage_event")
    _, event = counter.settle(1000, "c")
    await counter.recorder.record(event, "USD")
    assert counter.left_micros == 0


async def _left_alone(counter: Counter) -> None:
    grant, event = counter.settle(300, "b")
    quantities = {"output_tokens": 300, "requests": 1}
    await counter.recorder.record(event, "USD", lambda: counter.access.unsettle(grant, quantities, event.price_picos))
