"""Opening and closing the gateway: the service that calls pass through, and the small tasks that keep it true.

Open: own the database -> start the recorder -> read who may do what -> start the fleet. Then, until closed: notice what
other processes changed (four times a second), and write down what the machines did (every ten seconds; a second after
a call, so that whoever made it sees at once what it cost).
"""

import asyncio
import shutil
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

import msgspec
import sqlalchemy as sa

from tollway.flows.adaptations import Adaptations
from tollway.flows.batches import Batches
from tollway.flows.call import Service
from tollway.flows.copies import Copies
from tollway.flows.engine_steps import Steps, counted
from tollway.flows.fine_tuning import FineTuning
from tollway.flows.leasing import Leasing
from tollway.flows.rollout_watch import Rollouts
from tollway.insight import economics
from tollway.kit import log
from tollway.kit.errors import Conflict, TollwayError, Unavailable
from tollway.sell import leases, ledger, revision
from tollway.sell.access import Access
from tollway.sell.book import Book, read_book
from tollway.sell.metering import Committed, Recorder
from tollway.sell.shared_access import SharedAccess
from tollway.serve import hours, runtimes
from tollway.serve.deployments import Record, all_running
from tollway.serve.fleet import Fleet
from tollway.serve.models import Model, list_models
from tollway.serve.packages import Packages
from tollway.serve.replica import Replica, State
from tollway.serve.served import Served
from tollway.shop import Shop
from tollway.watch import tracing
from tollway.watch.metrics import Metrics
from tollway.watch.tracing import Tracing

_log = log.get("flows.gateway")
_NOTE_EVERY_S = 10
_CALLS_NOTED_AFTER_S = 1.0
_PLACE_EVERY_S = 1.0


class Gateway:
    """A running gateway: its service and its housekeeping."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.service: Service
        self.fine_tuning: FineTuning
        self.batches: Batches
        self.adaptations: Adaptations
        self.tracing: Tracing | None = None
        self.rollouts: Rollouts
        self.steps: Steps
        self._opened: AsyncExitStack
        self._called = False  # since the machines' hours were written last

    async def open(self, on_progress: Callable[[str], None] | None = None) -> None:
        """Everything up to the first possible answer. Replicas load meanwhile; `fleet.wait_ready` waits for them. What fails
        half way closes what it opened."""
        async with AsyncExitStack() as opened:
            self.shop.own_the_shop()
            opened.callback(self.shop.close)
            await self._open_service(opened, on_progress)
            await self.refresh()
            self._begin(opened)
            self._opened = opened.pop_all()

    async def close(self) -> None:
        """Stop the replicas, write what is left, let go of the database: in the reverse order of opening."""
        await self._opened.aclose()

    async def _open_service(self, opened: AsyncExitStack, on_progress: Callable[[str], None] | None) -> None:
        shop, settings = self.shop, self.shop.settings
        access = (SharedAccess if shop.many else Access)(shop.clock, shop.secrets.pepper)
        leasing = None
        if isinstance(access, SharedAccess):
            leasing = Leasing(shop.db, shop.clock, access, lease_s=settings.lease_s)
        metrics, endpoint = Metrics(), tracing.endpoint_of(settings)
        if endpoint:
            self.tracing = Tracing(endpoint)
            opened.push_async_callback(asyncio.to_thread, self.tracing.close)

        def turned(served: Served, replica: Replica, state: State) -> None:
            _note_replica(metrics, served, replica, state)
            if on_progress is not None:
                on_progress(f"{served.name}: {'stopped' if state is State.DEAD else state}")

        def committed(wallets: list[Committed]) -> None:
            self._called = True
            for wallet in wallets:
                access.committed(wallet.org_id, wallet.currency, wallet.wallet_picos, wallet.settled_picos)

        draw = leasing.draw if leasing else None
        recorder = Recorder(shop.db, shop.clock, committed, draw, lambda: metrics.inflight)
        opened.push_async_callback(recorder.close)
        if leasing is not None:
            opened.push_async_callback(leasing.close)
            await leasing.open(recorder)
        elif not shop.db.is_sqlite:
            await recorder.run(leases.forget)
        runtime = None
        if settings.runtime:
            runtime = await runtimes.opened(settings.runtime, shop.store.root, on_progress)
            opened.push_async_callback(runtime.close)
        fleet = Fleet(Packages(shop.store, settings), settings, shop.clock, turned, runtime)
        fleet.machine_micros = economics.machine_price(settings).micros_per_hour
        copies = Copies(fleet, settings.call_timeout_s)
        self.service = Service(shop.clock, access, recorder, fleet, metrics, settings.call_timeout_s, copies, leasing)
        opened.push_async_callback(self._close_fleet)
        opened.push_async_callback(copies.close)
        self.steps = Steps(fleet, shop.clock)
        self.rollouts = Rollouts(fleet, copies, recorder, shop.db, shop.clock, settings)
        self.rollouts.on_decided = lambda model, outcome: metrics.rollouts.labels(model, outcome).inc()

    def _begin(self, opened: AsyncExitStack) -> None:
        """The work that goes on beside the calls."""
        shop, service = self.shop, self.service
        self.fine_tuning, self.batches = FineTuning(shop, service), Batches(shop, service)
        self.adaptations = Adaptations(shop, service)
        works = [self._keep_fresh, self._keep_notes, self._keep_place]
        works += [self.rollouts.work, self.fine_tuning.work, self.batches.work, self.adaptations.work]
        if service.leasing is not None:
            works.append(service.leasing.work)
        tasks = [asyncio.create_task(work()) for work in works]
        opened.push_async_callback(_end, tasks)

    async def _close_fleet(self) -> None:
        await self._try_to_note()  # the replicas are ours to stop, whatever the database says
        await self.service.fleet.close()
        await self._try_to_note()  # what they did up to their end

    # -- noticing changes --------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Take over what the database says, if anything changed: now and then, and after a door of ours has changed it, so that
        its answer is true when it arrives."""
        known, now_ms = self.service.access.revision, self.shop.clock.now_ms()

        def read(conn: sa.Connection) -> tuple[Book, list[Model], list[Record]] | None:
            if revision.current(conn) == known:
                return None
            return read_book(conn, now_ms), list_models(conn), all_running(conn)

        def take_over(found: tuple[Book, list[Model], list[Record]] | None) -> None:
            if found is not None:
                self.service.access.adopt(found[0])
                self.service.fleet.offer(found[1], found[2])
                self.rollouts.adopt(found[2])

        await self.service.recorder.run(read, take_over)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self.shop.settings.refresh_s)
            try:
                await self.refresh()
            except Exception as error:  # noqa: BLE001 - logged; if this ended, a revoked key would stay valid
                _log.error("refresh failed", error=repr(error)[:300])

    async def _keep_place(self) -> None:
        """Two gateways on one database would each spend the whole wallet: who lost the place to another one stops."""
        while True:
            await asyncio.sleep(_PLACE_EVERY_S)
            try:
                await asyncio.to_thread(self.shop.keep_the_shop)
            except Unavailable:
                continue  # nothing can be recorded now, so nothing is answered
            except Conflict as error:
                _log.error("another gateway took over this database; stopping", error=error.message)
                signal.raise_signal(signal.SIGTERM)
                return

    # -- writing down what the machines did ---------------------------------------------------------------------------

    async def _note(self) -> None:
        rows = self.service.fleet.take_hours(self.shop.clock.now_ms())
        if not rows:
            return
        try:
            await self.service.recorder.run(lambda conn: hours.add(conn, self.shop.db, rows))
        except TollwayError:
            self.service.fleet.put_back(rows)
            raise

    async def _try_to_note(self) -> None:
        try:
            await self._note()
        except TollwayError as error:
            _log.warning("machine hours not written", error=error.message)

    async def _keep_notes(self) -> None:
        seconds = 0
        while True:
            await asyncio.sleep(_CALLS_NOTED_AFTER_S)
            seconds += 1
            if not self._called and seconds < _NOTE_EVERY_S:
                continue
            seconds, self._called = 0, False
            await self._try_to_note()

    async def measure(self) -> None:
        """Bring the figures up to date that are read when asked for."""
        metrics, home = self.service.metrics, self.shop.settings.home
        metrics.billing_waiting.set(self.service.recorder.waiting)
        metrics.disk_free_bytes.set(shutil.disk_usage(home).free)
        for code, count in self.service.access.refusals.items():
            metrics.rejected.labels(code).inc(count)
        self.service.access.refusals.clear()
        metrics.fleet, metrics.queues = self.service.fleet.snapshot(), self.service.fleet.queues()
        metrics.lanes = {
            (model, version, str(number)): msgspec.structs.asdict(one)
            for (model, version, number), one in (await counted(self.service.fleet)).items()
        }
        metrics.overloads = {
            (served.name, reason): count
            for served in self.service.fleet.all()
            for reason, count in served.line.refused.items()
        }
        with suppress(FileNotFoundError):
            metrics.db_wal_bytes.set((home / "tollway.db-wal").stat().st_size)
        with suppress(sa.exc.SQLAlchemyError):  # a database that is away has no balance to show; the rest goes on
            metrics.ledger_imbalance.set(await asyncio.to_thread(self._imbalance_micros))

    def _imbalance_micros(self) -> int:
        with self.shop.db.read() as conn:
            return sum(leg.amount_micros for leg in ledger.balances(conn))


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _note_replica(metrics: Metrics, served: Served, replica: Replica, state: State) -> None:
    up = sum(one.state is State.READY for one in served.replicas)
    if served.resting and not up:
        with suppress(KeyError):
            metrics.replica_up.remove(served.name, served.model.version)  # it rests: nothing is down
    else:
        metrics.replica_up.labels(served.name, served.model.version).set(up)
    if state is State.READY:
        metrics.model_load.labels(served.name).set(replica.load_seconds)
    elif state is State.STARTING and replica.restarts:
        metrics.replica_restarts.labels(served.name).inc()
