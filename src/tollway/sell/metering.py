"""Usage events become facts: one writer, group commit, durable before the answer ends.

Settled calls queue up here; a thread takes all that wait, writes their events, the daily rollup and what they take from
wallets in ONE transaction, and only then wakes the calls, which send their last byte. Under load many calls share one
fsync; alone, a call waits for its own. The event's own id is unique, so a batch whose commit failed half-way (a lost
connection) is recognised and never written twice. What wallets owe is posted to the ledger about once a minute, and at the
end: a line of the ledger for every call is nothing that anybody reads, and was half of what a commit wrote.

The thread is also the one place where the gateway reads what other processes changed (`Recorder.run`), so a balance read
there can never be older than one it already reported.
"""

import asyncio
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from tollway.kit import log
from tollway.kit.clock import Clock, day_of
from tollway.kit.crash import crashpoint
from tollway.kit.db import BulkInsert, Database, Prepared, adds
from tollway.kit.errors import TollwayError, Unavailable
from tollway.sell import ledger, tables

_ROLLED = (
    "requests",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "price_picos",
    "prefill_us",
    "decode_us",
    "units",
)
_DAY_MS = 86_400_000
_BATCH_MAX = 1000
_SIBLINGS = 4
_GATHER_S = 0.0005
_GIVE_UP_S = 5.0
_POST_EVERY_S = 60.0
_POSTED_AT_ONCE = 300
_OF_ONE = (
    sa.exc.DataError,
    sa.exc.IntegrityError,
)  # one event's own: no database holds it, or it is in the books already
T = TypeVar("T")


Draws = Mapping[tuple[str, str], int]
"""What a call takes of slices, by kind and scope (see leases)."""


class UsageEvent(msgspec.Struct):
    """One immutable record of use: a row of `usage_event`, field by field in the order of its columns."""

    id: str
    request_id: str
    org_id: str
    key_id: str
    subscription_id: str
    plan_version_id: str
    model: str
    model_version: str
    operation: str
    status: str
    at_ms: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    price_picos: int
    prefill_us: int
    decode_us: int
    first_token_us: int | None
    duration_us: int
    streamed: bool
    meter: str = ""
    units: int = 0
    tier: str = ""  # "batch": it filled idle time, at a lower price

    def quantities(self) -> dict[str, int]:
        """What was used, by meter."""
        used = {"input_tokens": self.input_tokens, "cached_tokens": self.cached_tokens}
        used |= {"output_tokens": self.output_tokens, "requests": 1}
        return used | {self.meter: self.units} if self.meter else used


class Committed(msgspec.Struct):
    """What a commit did to one wallet: what it left to spend, and how much of what was pending is now taken (picos)."""

    org_id: str
    currency: str
    wallet_picos: int
    settled_picos: int


class _Errand(msgspec.Struct):
    """Something for the writer's thread: an event to keep (with the wallet's currency), or a function to run."""

    future: "asyncio.Future[Any]"
    event: UsageEvent | None = None
    currency: str | None = None
    work: Callable[[sa.Connection], Any] | None = None
    then: Callable[[Any], None] | None = None  # on the loop, with the result of `work`, before later news
    on_lost: Callable[[], None] | None = None  # on the loop, when the event could not be kept
    draws: Draws | None = None  # what the event takes of this gateway's slices


class Recorder:
    """The gateway's single writer. Start it on the event loop that will await it; `close` drains it."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        on_commit: Callable[[list[Committed]], None],
        draw: Callable[[sa.Connection, Mapping[tuple[str, str, str], int]], None] | None = None,
        under_way: Callable[[], int] | None = None,
    ) -> None:
        self._db = db
        self._draw = draw  # with several gateways: what is spent leaves the slices in the same transaction
        self._clock = clock
        self._on_commit = on_commit
        self._errands: queue.SimpleQueue[_Errand | None] = queue.SimpleQueue()  # None: close
        self._under_way = under_way  # calls that are being answered: those that wait here, and who may still join them
        self._gathering = False
        self._all_here = threading.Lock()  # released when nobody is left to wait for
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._log = log.get("sell.metering")
        self.commits = 0
        self.events = 0
        self._conn: sa.Connection | None = None
        self._sql = _statements(db)
        self._thread.start()

    def record(
        self,
        event: UsageEvent,
        wallet_currency: str | None,
        on_lost: Callable[[], None] | None = None,
        draws: Draws | None = None,
    ) -> "asyncio.Future[None]":
        """Keep an event; the future is done when it is durable. `wallet_currency` is None when no wallet pays. `on_lost`
        is called when it could not be kept, whether or not anybody still waits for the future. `draws` are its grant's."""
        return self._put(
            _Errand(self._loop.create_future(), event=event, currency=wallet_currency, on_lost=on_lost, draws=draws)
        )

    async def run(self, work: Callable[[sa.Connection], T], then: Callable[[T], None] | None = None) -> T:
        """Run a small function in a write transaction on the writer's thread. `then` takes over its result before the
        news of any later commit: a balance that was read must not replace a newer one."""
        result: T = await self._put(_Errand(self._loop.create_future(), work=work, then=then))
        return result

    @property
    def waiting(self) -> int:
        """Errands not yet done."""
        return self._errands.qsize()

    async def close(self) -> None:
        """Write what waits, then stop."""
        self._closing = True
        self._line_up(None)
        await asyncio.to_thread(self._thread.join, 30.0)

    def _put(self, errand: _Errand) -> "asyncio.Future[Any]":
        if self._closing:
            raise Unavailable("The shop is closing; nothing more is recorded.")
        self._line_up(errand)
        return errand.future

    def _line_up(self, errand: _Errand | None) -> None:
        self._errands.put(errand)
        if self._gathering and self._everybody_waits():
            self._gathering = False  # one release each time: only this thread does it
            self._all_here.release()

    # -- the writer's thread -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        closing, together = False, 0
        post_at = time.monotonic() + _POST_EVERY_S
        while not closing:
            waiting = self._next(post_at)
            if together >= _SIBLINGS:  # many call at once: let more of them share the next commit
                self._gather()
            waiting += [self._errands.get() for _ in range(min(self._errands.qsize(), _BATCH_MAX))]
            batch = [errand for errand in waiting if errand is not None]
            closing = len(batch) < len(waiting)  # nothing is put behind the closing word
            kept = [errand for errand in batch if errand.event is not None]
            together = len(kept)
            if kept:
                self._keep(kept)
            for errand in batch:
                if errand.work is not None:
                    self._run_one(errand)
            if closing or time.monotonic() >= post_at:
                self._post()
                post_at = time.monotonic() + _POST_EVERY_S
        if self._conn is not None:
            self._conn.close()

    def _gather(self) -> None:
        """Let more calls join, for half a millisecond or until everybody who is being answered has."""
        self._all_here.acquire(blocking=False)  # closed, whatever the last time came to
        self._gathering = True
        if not self._everybody_waits():
            self._all_here.acquire(timeout=_GATHER_S)
        self._gathering = False

    def _everybody_waits(self) -> bool:
        """Whether nobody would join, however long one gathers; the errand at hand is no longer in the queue."""
        return self._closing or (self._under_way is not None and self._errands.qsize() + 1 >= self._under_way())

    def _next(self, until: float) -> list[_Errand | None]:
        """The next errand, or none until then."""
        try:
            return [self._errands.get(timeout=max(0.0, until - time.monotonic()))]
        except queue.Empty:
            return []

    def _post(self) -> None:
        """What wallets owe goes to the ledger, a few hundred wallets at a time; what fails waits for the next time."""
        posted = _POSTED_AT_ONCE
        while posted == _POSTED_AT_ONCE:
            try:
                with self._transaction() as conn:
                    posted = ledger.post_accrued(conn, self._clock.now_ms(), _POSTED_AT_ONCE)
                    crashpoint("posting.before_commit")
            except sa.exc.SQLAlchemyError as error:
                self._log.warning("usage not posted yet", error=type(error).__name__)
                return

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """One write transaction on the thread's own connection. A connection that failed is not used again."""
        if self._conn is None:
            self._conn = self._db.writer()
        try:
            with self._conn.begin():
                yield self._conn
        except BaseException:
            broken, self._conn = self._conn, None
            broken.invalidate()
            broken.close()
            raise

    def _keep(self, batch: list[_Errand]) -> None:
        """Commit the events, trying again for a few seconds: an answered call must not go unbilled for a hiccup."""
        deadline = time.monotonic() + _GIVE_UP_S
        pause_s, first = 0.02, True
        while True:
            try:
                with self._transaction() as conn:
                    if first or not self._already_there(conn, batch):
                        wallets = self._write(conn, batch)
                    else:
                        wallets = self._wallets_of(conn, _owed(batch))
                    crashpoint("recorder.before_commit")
                crashpoint("recorder.after_commit")
                break
            except sa.exc.SQLAlchemyError as error:
                if isinstance(error, _OF_ONE) and (len(batch) > 1 or isinstance(error, sa.exc.DataError)):
                    self._keep_apart(batch, error)
                    return
                self._log.warning("commit failed", error=type(error).__name__, events=len(batch))
                if time.monotonic() > deadline:
                    self._tell(batch, error=_cannot_record())
                    return
                first = False
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, 0.5)
            except Exception as error:  # noqa: BLE001 - logged, and told to each caller
                self._keep_apart(batch, error)
                return
        self.commits += 1
        self.events += len(batch)
        self._tell(batch, wallets=wallets)

    def _keep_apart(self, batch: list[_Errand], error: Exception) -> None:
        """One event that no database holds (a number beyond 64 bits) fails alone, one that another gateway has recorded is
        found alone, and the thread lives on."""
        self._log.error("event cannot be kept", error=repr(error)[:300], events=len(batch))
        if len(batch) == 1:
            self._tell(batch, error=_cannot_record())
            return
        for errand in batch:
            self._keep([errand])

    def _run_one(self, errand: _Errand) -> None:
        assert errand.work is not None
        try:
            with self._transaction() as conn:
                result = errand.work(conn)
        except sa.exc.SQLAlchemyError as error:
            self._log.warning("errand failed", error=type(error).__name__)
            self._loop.call_soon_threadsafe(_finish, [errand], None, _cannot_record())
        except TollwayError as error:  # an answer: there is no such thing, it is not in that state
            self._loop.call_soon_threadsafe(_finish, [errand], None, error)
        except Exception as error:  # noqa: BLE001 - the caller awaits it and sees it there; the thread must live on
            self._loop.call_soon_threadsafe(_finish, [errand], None, error)
            self._log.error("errand failed", error=repr(error))
        else:
            self._loop.call_soon_threadsafe(_take_over, errand, result)

    def _tell(
        self, batch: list[_Errand], wallets: list[Committed] | None = None, error: BaseException | None = None
    ) -> None:
        def on_loop() -> None:
            if wallets:
                self._on_commit(wallets)
            if error is not None:
                for errand in batch:
                    if errand.on_lost is not None:
                        errand.on_lost()
            _finish(batch, None, error)

        self._loop.call_soon_threadsafe(on_loop)

    def _already_there(self, conn: sa.Connection, batch: list[_Errand]) -> bool:
        """Whether an earlier try was committed after all: a batch is one transaction, so one event speaks for all. What
        was there before the first try showed then, and was set apart."""
        event = batch[0].event
        assert event is not None
        return self._sql.find_event.value(conn, {"event_id": event.id}) is not None

    def _write(self, conn: sa.Connection, batch: list[_Errand]) -> list[Committed]:
        events = [errand.event for errand in batch if errand.event is not None]
        if self._draw is not None:
            self._draw(conn, _drawn(batch))
        self._sql.insert_events.run(conn, [msgspec.structs.astuple(event) for event in events])
        crashpoint("recorder.events_written")
        self._sql.add_daily.run(conn, _rollup(events))
        crashpoint("recorder.rollup_written")
        owed = _owed(batch)
        left = ledger.accrue(conn, self._clock.now_ms(), owed)
        crashpoint("recorder.wallet_written")
        return [Committed(*wallet, left[wallet], picos) for wallet, picos in owed.items()]

    def _wallets_of(self, conn: sa.Connection, owed: dict[ledger.WalletId, int]) -> list[Committed]:
        """What is left after a batch that was found committed."""
        return [
            Committed(*wallet, ledger.wallet_picos(conn, wallet[0])[wallet], picos) for wallet, picos in owed.items()
        ]


class _Statements(msgspec.Struct, frozen=True):
    """What runs with every commit."""

    insert_events: BulkInsert
    find_event: Prepared
    add_daily: BulkInsert


def _statements(db: Database) -> _Statements:
    event, daily, dialect = tables.usage_event, tables.usage_daily, db.engine.dialect
    return _Statements(
        BulkInsert(event, dialect),
        Prepared(sa.select(event.c.id).where(event.c.id == sa.bindparam("event_id")), dialect),
        BulkInsert(daily, dialect, adds(daily, daily.primary_key.columns.keys(), _ROLLED)),
    )


def event_id_of(request_id: str) -> str:
    """The event of a request: they share what follows the prefix. An event's own id is left as it is."""
    return f"evt_{request_id.removeprefix('req_')}" if request_id.startswith("req_") else request_id


def _rollup(events: list[UsageEvent]) -> list[tuple[Any, ...]]:
    """The batch summed per organization, day, key, model, plan version, meter and tier, as rows of `usage_daily`."""
    sums: dict[tuple[str, ...], list[int]] = {}
    for event in events:
        day = _day(event.at_ms // _DAY_MS)
        place = (event.org_id, day, event.key_id, event.model, event.plan_version_id, event.meter, event.tier)
        amounts = sums.get(place)
        if amounts is None:
            amounts = sums[place] = [0] * len(_ROLLED)
        amounts[0] += 1
        amounts[1] += event.input_tokens
        amounts[2] += event.cached_tokens
        amounts[3] += event.output_tokens
        amounts[4] += event.price_picos
        amounts[5] += event.prefill_us
        amounts[6] += event.decode_us
        amounts[7] += event.units
    # Sorted, so that two writers on one PostgreSQL always lock rows in the same order.
    return [(*place, *amounts) for place, amounts in sorted(sums.items())]


@lru_cache(maxsize=8)
def _day(number: int) -> str:
    """The name of a day since the epoch: for a batch it is the same again and again."""
    return day_of(number * _DAY_MS)


def _owed(batch: list[_Errand]) -> dict[ledger.WalletId, int]:
    """What the batch takes from each wallet: (organization, currency) -> picos."""
    owed: dict[ledger.WalletId, int] = defaultdict(int)
    for errand in batch:
        if errand.event is not None and errand.currency is not None:
            owed[errand.event.org_id, errand.currency] += errand.event.price_picos
    return dict(sorted(owed.items()))


def _drawn(batch: list[_Errand]) -> dict[tuple[str, str, str], int]:
    """What the batch takes of slices: (organization, kind, scope) -> amount."""
    drawn: dict[tuple[str, str, str], int] = defaultdict(int)
    for errand in batch:
        if errand.event is not None and errand.draws:
            for (kind, scope), amount in errand.draws.items():
                drawn[errand.event.org_id, kind, scope] += amount
    return drawn


def _take_over(errand: _Errand, result: Any) -> None:
    try:
        if errand.then is not None:
            errand.then(result)
    except Exception as error:  # noqa: BLE001 - logged, and raised where it is awaited
        _finish([errand], None, error)
        log.get("sell.metering").error("result not taken over", error=repr(error))
    else:
        _finish([errand], result, None)


def _finish(errands: list[_Errand], result: Any, error: BaseException | None) -> None:
    for errand in errands:
        if errand.future.done():
            continue  # its caller went away
        if error is None:
            errand.future.set_result(result)
        else:
            errand.future.set_exception(error)


def _cannot_record() -> Unavailable:
    return Unavailable(
        "The call could not be recorded, so it was not answered and costs nothing.",
        code="recording_failed",
        hint="Try again; the operator finds the cause with `tollway doctor`.",
        retry_after_s=5,
    )
