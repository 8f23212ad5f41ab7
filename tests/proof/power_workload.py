"""The program whose recording `test_power_loss` replays: the real Recorder with several calls at a time and a wallet.

    python -m tests.proof.power_workload HOME ORG KEY SUBSCRIPTION PLAN_VERSION EVENTS PLANTED

It prints `ACK request_id` when the recorder says that an event is durable: the moment an answer would end. PLANTED names
a bug to put in ("" for none), so that the checker itself is checked.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tollway.kit.clock import SystemClock
from tollway.kit.db import Database
from tollway.sell import catalog, ledger, metering, rating, tables
from tollway.sell.metering import Recorder, UsageEvent

WORKERS = 4
BUGS = ("synchronous_normal", "ack_before_commit", "event_twice", "wallet_apart", "posted_apart", "rollup_apart")


class EventTwice(Recorder):
    """Planted: a second try writes the event again under a new id."""

    def _write(self, conn: Any, batch: Any) -> Any:
        told = super()._write(conn, batch)
        event = tables.usage_event
        first = dict(conn.execute(sa.select(event).where(event.c.id == batch[0].event.id)).one()._mapping)
        if int(first["request_id"].rpartition("_")[2]) % 20 == 0:
            conn.execute(event.insert().values(first | {"id": first["id"] + "2"}))
        return told


class RollupApart(Recorder):
    """Planted: the daily rollup in a transaction of its own."""

    def _write(self, conn: Any, batch: Any) -> Any:
        before = _rollup(conn)
        told = super()._write(conn, batch)
        self._later = _rollup(conn)
        _set_rollup(conn, before)
        return told

    def _keep(self, batch: Any) -> None:
        super()._keep(batch)
        with self._db.write() as conn:
            _set_rollup(conn, self._later)


def _rollup(conn: Any) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in conn.execute(sa.select(tables.usage_daily))]


def _set_rollup(conn: Any, rows: list[dict[str, Any]]) -> None:
    conn.execute(tables.usage_daily.delete())
    if rows:
        conn.execute(tables.usage_daily.insert(), rows)


class WalletApart(Recorder):
    """Planted: the wallet pays in a transaction of its own."""

    def _keep(self, batch: Any) -> None:
        later: list[Any] = []
        accrue = ledger.accrue

        def put_off(_conn: Any, now_ms: int, owed: Any) -> Any:
            later.append((now_ms, owed))
            return dict.fromkeys(owed, 0)

        ledger.accrue = put_off
        try:
            super()._keep(batch)
        finally:
            ledger.accrue = accrue
        with self._db.write() as conn:
            for args in later:
                accrue(conn, *args)


class PostedApart(Recorder):
    """Planted: what has accrued is taken in one transaction and posted in the next."""

    def _post(self) -> None:
        with self._db.write() as conn:
            before = conn.execute(sa.select(tables.accrued_usage)).all()
            conn.execute(tables.accrued_usage.update().values(picos=0))
        with self._db.write() as conn:
            for row in before:
                place = tables.accrued_usage.c.org_id == row.org_id
                conn.execute(tables.accrued_usage.update().where(place).values(picos=row.picos))
            ledger.post_accrued(conn, self._clock.now_ms(), 300)


PLANTED = {
    "event_twice": EventTwice,
    "rollup_apart": RollupApart,
    "wallet_apart": WalletApart,
    "posted_apart": PostedApart,
}


def _open(home: Path, planted: str) -> Database:
    db = Database(str(home / "tollway.db"))

    @sa.event.listens_for(db.engine, "connect")
    def _tune(raw: Any, _record: Any) -> None:
        raw.execute("PRAGMA wal_autocheckpoint=60").fetchall()  # many checkpoints in a short recording
        if planted == "synchronous_normal":
            raw.execute("PRAGMA synchronous=NORMAL").fetchall()

    return db


async def main(home: str, org: str, key: str, subscription: str, plan: str, count: str, planted: str) -> None:
    db = _open(Path(home), planted)
    with db.read() as conn:
        terms = catalog.get_plan_version(conn, plan).terms
    metering._POST_EVERY_S = 0.002  # many postings in a short recording
    recorder = PLANTED.get(planted, Recorder)(db, SystemClock(), lambda wallets: None)
    numbers = iter(range(int(count)))
    used: dict[int, int] = {}

    async def work() -> None:
        for number in numbers:
            event = _event(
                number, terms, used, org_id=org, key_id=key, subscription_id=subscription, plan_version_id=plan
            )
            done = recorder.record(event, terms.currency)
            if planted != "ack_before_commit":
                await done
            os.write(1, f"ACK {event.request_id}\n".encode())
            await done

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    await recorder.close()
    db.close()


def _event(number: int, terms: catalog.Terms, used: dict[int, int], **who: str) -> UsageEvent:
    tokens = {"input_tokens": 10 + number % 7, "cached_tokens": number % 3, "output_tokens": 1 + number % 40}
    picos, units = rating.rate(terms, used, "m", tokens | {"requests": 1})
    for index, amount in units.items():
        used[index] = used.get(index, 0) + amount
    return UsageEvent(
        id=f"evt_{number}",
        request_id=f"req_{number}",
        model="m",
        model_version="1",
        operation="chat",
        status="ok",
        at_ms=1_700_000_000_000 + number,
        price_picos=picos,
        prefill_us=number,
        decode_us=2 * number,
        first_token_us=None,
        duration_us=3 * number,
        streamed=False,
        **tokens,
        **who,
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
