"""One of several gateways: keeps its slices (sell.leases), asks for more, gives back what others want, and lives or is buried.

A call that its slices bear asks nobody. One that they do not bear waits for one transaction, and, where another gateway
has what is missing, for that one to give back what it does not need: it hears of the want at once. What nobody gives
within `WAIT_S` is not to be had, and the refusal is the true one.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from tollway.kit import log
from tollway.kit.clock import Clock
from tollway.kit.db import Database
from tollway.kit.ear import Ear
from tollway.kit.errors import TollwayError
from tollway.kit.tasks import Tasks
from tollway.sell import leases, ledger
from tollway.sell.access import Account, Caller, Grant
from tollway.sell.book import used_this_month
from tollway.sell.demand import Demand
from tollway.sell.leases import Fenced, Got
from tollway.sell.metering import Recorder
from tollway.sell.shared_access import SharedAccess, Unleased

_log = log.get("flows.leasing")
LEASE_S: Final = 10.0
WAIT_S: Final = 1.0
_ASK_AGAIN_S: Final = 0.2
_STALE_S: Final = 30.0  # longer than the recorder tries to keep an event


class Leasing:
    """The slices of a running gateway. Everything but `draw` runs on the event loop."""

    def __init__(
        self, db: Database, clock: Clock, access: SharedAccess, *, lease_s: float = LEASE_S, wait_s: float = WAIT_S
    ) -> None:
        self._db, self._clock, self._access = db, clock, access
        self._lease_s, self._wait_s = lease_s, wait_s
        self._recorder: Recorder
        self._ear: Ear | None = None
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._giving = Tasks()
        self._news = asyncio.Event()
        self._stale: dict[tuple[str, str, str], float] = {}
        self._beginning: asyncio.Task[None] | None = None
        self.me = leases.presence(clock.now_ms())
        self.asked = 0  # transactions that asked for more

    def draw(self, conn: sa.Connection, draws: Mapping[tuple[str, str, str], int]) -> None:
        """For the recorder: what a commit spends leaves the slices."""
        leases.draw(conn, self.me, draws)

    async def open(self, recorder: Recorder, *, listen: bool = True) -> None:
        """Be there for the others."""
        self._recorder = recorder
        await self._begin(listen)

    async def close(self) -> None:
        """Give everything back. The recorder has written all calls' events."""
        for task in (*self._asking.values(), *self._giving, *([self._beginning] if self._beginning else [])):
            task.cancel()
        me, idle = self.me, self._access.rates_idle()
        try:
            await self._recorder.run(lambda conn: leases.retire(conn, self._clock.now_ms(), me, idle))
        except TollwayError as error:  # the others take it back when its time is over
            _log.warning("slices not given back", error=error.message)
        if self._ear is not None:
            await asyncio.to_thread(self._ear.close)

    # -- calls -------------------------------------------------------------------------------------------------------

    async def admit(self, caller: Caller, demand: Demand) -> Grant:
        """As `Access.admit`, after asking for what the slices here lack. Raises what that raises."""
        give_up, asked = time.monotonic() + self._wait_s, False
        while True:
            try:
                return self._access.admit(caller, demand)
            except Unleased as short:
                if not asked or time.monotonic() < give_up:
                    asked = True
                    await self._ask(short)
                else:
                    for need in short.needs:
                        self._access.dry(short.org_id, need)

    async def _ask(self, short: Unleased) -> None:
        """Ask for what is short, or wait for who asks for this organization already."""
        task = self._asking.get(short.org_id)
        if task is None:
            task = self._asking[short.org_id] = asyncio.create_task(self._fetch(short))
            task.add_done_callback(lambda _: self._asking.pop(short.org_id, None))
        await asyncio.shield(task)

    async def _fetch(self, short: Unleased) -> None:
        org_id, me, news = short.org_id, self.me, self._news

        def add(found: list[Got]) -> None:
            for one in found:
                self._access.add(org_id, one.need.kind, one.need.scope, one.amount)

        self.asked += 1
        try:
            found = await self._recorder.run(lambda conn: leases.take(conn, me, org_id, short.needs, short.pools), add)
        except Fenced:
            await self._begin_again()
            return
        missing = [one for one in found if one.short]
        for one in missing:
            if not one.others:
                self._access.dry(org_id, one.need)
        if missing and all(one.others for one in missing):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), min(_ASK_AGAIN_S, self._wait_s))

    async def seen(self, account: Account) -> tuple[int, int]:
        """What an organization has left in its wallet (micros) and used of its monthly cap, all gateways together."""
        plan, month = account.plan, account.spending.month

        def read() -> tuple[int, int]:
            with self._db.read() as conn:
                if plan is None:
                    return 0, 0
                wallet = ledger.wallet_micros(conn, account.org_id, plan.terms.currency)
                return wallet, used_this_month(conn, month, account.org_id, plan)[1]

        return await asyncio.to_thread(read)

    # -- other gateways ----------------------------------------------------------------------------------------------

    def hear(self, payload: str) -> None:
        """What another gateway tells: it wants something, or gave something back."""
        told: dict[str, Any] = msgspec.json.decode(payload)
        if told.get("by") == self.me.id:
            return
        if "returned" in told:
            self._access.moistened(str(told["returned"]))
            self._news.set()
            self._news = asyncio.Event()
        elif "wanted" in told:
            want = told["wanted"]
            place = (str(want["org"]), str(want["kind"]), str(want["scope"]))
            idle = self._access.idle(*place)
            self._give(place, min(idle, max(int(want["amount"]), idle // 2)))

    def _give(self, place: tuple[str, str, str], amount: int, *, known: bool = True) -> None:
        if amount > 0:
            if known:
                self._access.add(*place, -amount)  # first here, then there: never both
            self._giving.begin(self._give_back(place, amount, known))

    async def _give_back(self, place: tuple[str, str, str], amount: int, known: bool) -> None:
        me, epoch = self.me, self._access.epoch
        try:
            await self._recorder.run(lambda conn: leases.give(conn, me, *place, amount))
        except Fenced:
            await self._begin_again()
        except TollwayError as error:
            _log.warning("slice not given back", error=error.message)
            if known and epoch == self._access.epoch:
                self._access.add(*place, amount)

    # -- living ------------------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Show that this gateway lives, bury those that do not, keep the slices tidy; until cancelled."""
        while True:
            await asyncio.sleep(self._lease_s / 5)
            try:
                await self.beat()
            except TollwayError as error:  # the database is away: nothing is recorded now, so nothing is answered
                _log.warning("no sign of life given", error=error.message)
            except Exception as error:  # noqa: BLE001 - logged; if this ended, this gateway would be buried alive
                _log.error("leases not kept", error=repr(error)[:300])

    async def beat(self) -> None:
        """One sign of life, and what goes with it."""
        me, now_ms = self.me, self._clock.now_ms()
        alive = await self._recorder.run(lambda conn: leases.beat(conn, now_ms, me))
        if not alive:
            await self._begin_again()
            return
        gone = await self._recorder.run(lambda conn: leases.reclaim(conn, now_ms, round(self._lease_s * 1000)))
        for gateway_id in gone:
            _log.warning("took back the slices of a gateway that is gone", gateway=gateway_id)
        await self._recorder.run(lambda conn: (leases.slices(conn, me), leases.overdrawn(conn)), self._tidy)

    def _tidy(self, found: tuple[list[tuple[str, str, str, int]], dict[tuple[str, str], int]]) -> None:
        """Give back what is of no use any more, and what a wallet that the operator emptied does not bear."""
        slices, overdrawn = found
        now, stale = time.monotonic(), {}
        for org_id, kind, scope, amount in slices:
            place = (org_id, kind, scope)
            unknown = self._access.unknown(org_id, kind, scope, amount)
            if unknown:
                stale[place] = self._stale.get(place, now)
                if now - stale[place] >= _STALE_S:
                    self._give(place, unknown, known=False)
            elif kind == "wallet" and (org_id, scope) in overdrawn:
                self._give(place, min(self._access.idle(*place), overdrawn[org_id, scope]))
        self._stale = stale

    async def _begin_again(self) -> None:
        """This gateway was taken for dead, and its slices with it: go on as a new one."""
        if self._beginning is None:
            _log.error("this gateway was taken for dead; it begins anew", gateway=self.me.id)
            self._access.lost()
            self.me = leases.presence(self._clock.now_ms())
            self._beginning = asyncio.create_task(self._begin(self._ear is not None))
            self._beginning.add_done_callback(self._began)
        await asyncio.shield(self._beginning)

    def _began(self, _: "asyncio.Task[None]") -> None:
        self._beginning = None

    async def _begin(self, listen: bool) -> None:
        me, now_ms = self.me, self._clock.now_ms()
        before = self._ear
        try:
            if listen:
                self._ear = Ear(self._db, leases.CHANNEL, me.lock, self.hear)
                await asyncio.to_thread(self._ear.open)
        finally:
            if before is not None:  # two would hear everything twice
                await asyncio.to_thread(before.close)
        label = f"{socket.gethostname()}:{os.getpid()}"
        await self._recorder.run(lambda conn: leases.register(conn, now_ms, me, label))
