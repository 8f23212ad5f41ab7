"""A replica: one engine with one model loaded, kept alive.

    replica = Replica(engine, clock, on_state=notice)
    await replica.start()              # returns once a real inference has answered
    replica.rate                       # what it then did a second with full seats
    Pool(replica.address…)             # the address stays the same over restarts
    await replica.stop()

    starting --probe answered--> ready --stop()--> dead
        ^                          |
        +--- exit or no pulse -----+      (waits 0.1 s, doubling to 10 s; starts afresh after 60 s of health)
        +--- failed <--------------+      (after eight lives in a row that were short or never ready: tried again every
                                           five minutes, or more seldom where a try takes long)

A replica that dies takes only the calls inside it along. One that hangs is found by its pulse, a request answered by
the inference loop itself, and killed. For an engine without a process only the probe and the pulse remain.

The supervising task must run in a thread that lives as long as the service: the kernel ends the process with the
thread that started it.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from tollway.kit import log
from tollway.kit.clock import Clock
from tollway.kit.errors import Unavailable
from tollway.kit.said import say
from tollway.serve.engines import Address, Caps, Engine
from tollway.serve.forecast import pressed_at
from tollway.serve.runtimes import Confinement, Failed, Local, Place, Runtime
from tollway.serve.runtimes.local import SOCKET
from tollway.serve.wire import Pool, Reply, WireError

_LOG: Final = log.get("serve")
_FOLDER: Final = "tollway-replica-"
_LOOK_WITHIN_S: Final = 10.0
_TRIES_LEAST: Final = 10  # times as long as a try takes: a model that only spins gets a tenth of a core at most


class State(StrEnum):
    """Where a replica stands; only `ready` takes calls."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"  # it ended again and again; it is tried again every five minutes
    DEAD = "dead"


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the supervisor is."""

    ready_within_s: float = 120.0
    pulse_every_s: float = 2.0
    upstream_pulse_every_s: float = 10.0
    pulse_within_s: float = 60.0  # one step of a large model on a busy machine takes many seconds
    batch_within_s: float = 45.0  # where the pulse says how long the slowest batch has been computed
    backoff_first_s: float = 0.1
    backoff_most_s: float = 10.0
    settled_after_s: float = 60.0
    stillborn_after: int = 3  # lives that never got ready; one alone may have been an accident
    short_lives_most: int = 8
    failed_again_s: float = 300.0
    stop_within_s: float = 3.0


class _Told(msgspec.Struct):
    """What an engine with turns of its own says of itself when its pulse is felt."""

    slots: int = 0
    slots_sorted: int = 0
    slowest_s: float = 0.0  # the batch that has been computed for longest
    calls: tuple[str, ...] = ()  # whose rows are being computed


Notice = Callable[["Replica", State], None]


class Replica:
    """Supervises one engine. Not thread-safe: use it from one event loop."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        *,
        name: str = "",
        pace: Pace | None = None,
        on_state: Notice | None = None,
        folder: Path | None = None,
        confinement: Confinement | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.engine = engine
        self.name = name or engine.model
        self.state = State.DEAD
        self.restarts = 0
        self.load_seconds = 0.0
        self.slots = self.slots_sorted = engine.caps.slots  # calls that it takes at once; while it matters whose they are
        self.rate = 0.0  # cost a second (in the line's measure) that it showed with full seats; 0: not known
        self.last_failure = ""
        self.waits = ""  # why it has no place to start at, while it has none
        self.short_lives = 0  # in a row
        self.at_work: tuple[str, ...] = ()  # calls that its engine was at when it was last heard of, in this life or the last
        self._was_ready = False  # at least once
        self.confinement = confinement or Confinement()
        self._clock = clock
        self._pace = pace or Pace()
        self._on_state = on_state
        self._own_folder = folder is None
        self._folder = folder
        self._runtime = runtime or Local()
        self._place: Place | None = None
        self._task: asyncio.Task[None] | None = None
        self._own = False  # it has a process of ours
        self._given_up = ""
        self._born = 0.0  # monotonic: when this life began; one that waited for a place began when it had one
        self._next_try_at = 0.0  # monotonic, while it has failed
        self._turn = asyncio.Event()  # set whenever a life becomes ready or ends

    @property
    def caps(self) -> Caps:
        return self.engine.caps

    @property
    def address(self) -> Address:
        """Where to send calls; on this machine the same over restarts. Known once `start` was called."""
        if self._place is not None:
            return self._place.address
        if self._folder is None:
            raise RuntimeError("a replica has no address before it is started")
        return self.engine.address(self._folder / SOCKET)

    @property
    def place(self) -> Place | None:
        """Where its engine runs; None while it runs nowhere, and for an upstream."""
        return self._place

    @property
    def pid(self) -> int | None:
        """Of the running process; None when there is none."""
        return self._place.pid if self._place is not None else None

    @property
    def node(self) -> str:
        """The machine it lives on: "local", a node's address, or the address of an upstream; "" while it waits for one."""
        if self._place is not None:
            return self._place.node
        if self.waits:
            return ""
        return "local" if self._own or self._folder is None else self.address.url

    @property
    def stillborn(self) -> bool:
        """Whether it was started again and again and has never come up: what it waits for may never be. One that was well comes
        back sooner."""
        return self._own and self.restarts >= self._pace.stillborn_after and not self._was_ready

    @property
    def next_try_in_s(self) -> float:
        """Seconds until it is started again, while it waits for that."""
        return max(0.0, self._next_try_at - self._clock.monotonic())

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the process; 0 when there is none."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    async def start(self) -> None:
        """Start supervising and wait for the first readiness. Raises Unavailable with the reason when the first life
        fails or there is no room for it; the supervisor goes on trying in the background until `stop`."""
        if self._task is not None:
            raise RuntimeError("this replica was started before")
        if self._folder is None:
            self._folder = _private_folder()
        else:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
        self._turn.clear()
        self._task = asyncio.create_task(self._supervise(), name=f"replica {self.name}")
        await self._turn.wait()
        if self.state is not State.READY:
            raise Unavailable(
                say(
                    "replica.did_not_start", "The replica of {name} did not start: {failure}.",
                    name=self.name, failure=self.waits or self.last_failure,
                ),
                code="replica_failed",
                hint="`tollway doctor` checks the engine and the model package.",
            )

    async def answers(self, within_s: float) -> bool:
        """Whether it answers a real inference now."""
        address = self.address
        pool = Pool(address.url, address.key)
        try:
            async with asyncio.timeout(within_s):
                await self._prove(pool, address)
        except (TimeoutError, Failed):
            return False
        finally:
            pool.close()
        return True

    async def reachable(self, within_s: float) -> bool:
        """Whether something still listens where it lives; one that says nothing for `within_s` seconds does."""
        address = self.address
        pool = Pool(address.url, address.key)
        try:
            async with asyncio.timeout(within_s):
                await pool.get(self.engine.pulse)
        except WireError:
            return False
        except TimeoutError:
            pass
        finally:
            pool.close()
        return True

    def give_up(self, why: str) -> None:
        """End this life of it; the next one begins at once."""
        self._given_up = why
        if self._place is not None:
            self._place.kill()

    async def stop(self) -> None:
        """End it now. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._enter(State.DEAD)
        self._turn.set()  # whoever still waits in `start` hears that it is over
        if self._own_folder and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    # -- one life after another ----------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        wait_s = self._pace.backoff_first_s
        while True:
            self._born = self._clock.monotonic()
            try:
                await self._live()
            except Failed as failure:
                self.last_failure = failure.args[0]  # with its code, if it has one
            except Exception as error:  # noqa: BLE001 - logged; a fault of ours must not end the supervision
                name = type(error).__name__
                self.last_failure = say("replica.supervisor", "the supervisor failed ({name})", name=name)
                _LOG.exception("replica_supervisor_failed", replica=self.name)
            self._turn.set()
            self.restarts += 1
            self.short_lives += 1
            lived_s = self._clock.monotonic() - self._born
            if self.state is State.READY and lived_s >= self._pace.settled_after_s:  # to load for long is no health
                wait_s, self.short_lives = self._pace.backoff_first_s, 0
            given_up = self._own and self.short_lives >= self._pace.short_lives_most
            if given_up:
                wait_s = max(self._pace.failed_again_s, _TRIES_LEAST * lived_s)
            self._next_try_at = self._clock.monotonic() + wait_s
            if given_up:
                self._enter(State.FAILED)
                _LOG.error("replica_failed", replica=self.name, why=self.last_failure, next_try_in_s=wait_s)
            else:
                self._enter(State.STARTING, again=self.stillborn)
                _LOG.warning("replica_lost", replica=self.name, why=self.last_failure, restart_in_s=wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, self._pace.backoff_most_s)

    async def _live(self) -> None:
        """From birth to death of one process. Raises Failed when it ends; only cancelling ends it otherwise."""
        self._given_up, self.at_work = "", ()
        self._enter(State.STARTING)
        assert self._folder is not None
        pool: Pool | None = None
        try:
            async with asyncio.timeout(self._pace.ready_within_s) as limit:
                self._own = True  # whoever cannot start has a process to start
                waits = partial(self._wait_for_room, limit)
                self._place = await self._runtime.start(self.engine, self._folder, self.confinement, waits)
                self._own = self._place is not None
                address = self.address
                pool = Pool(address.url, address.key)
                await self._prove(pool, address)
                await self._hear_slots(pool)
            self.rate = self.rate or await self._look(pool, address)
            self.load_seconds = round(self._clock.monotonic() - self._born, 3)
            self._was_ready = True
            self._enter(State.READY)
            self._turn.set()
            await self._watch(pool, address)
        except TimeoutError:
            raise Failed(
                say("replica.not_ready", "it was not ready within {limit_s}", limit_s=self._pace.ready_within_s)
            ) from None
        finally:
            self.waits = ""
            if pool is not None:
                pool.close()
            await self._bury()

    def _wait_for_room(self, limit: asyncio.Timeout, why: str) -> None:
        """What a runtime says of room. To wait is no failure: the time to get ready begins when there is a place."""
        self.waits = why
        if not why:
            self._born = self._clock.monotonic()
            limit.reschedule(asyncio.get_running_loop().time() + self._pace.ready_within_s)
            return
        limit.reschedule(None)
        _LOG.warning("replica_waits", replica=self.name, why=why)
        self._turn.set()  # whoever waits in `start` has others to start
        if not self._was_ready:
            self._enter(State.STARTING, again=True)

    async def _prove(self, pool: Pool, address: Address) -> None:
        """Ready means that a real inference was answered."""
        probe = self.engine.probe
        try:
            path = address.prefix + probe.path
            reply = await (pool.post(path, msgspec.json.encode(probe.body)) if probe.body else pool.get(path))
        except WireError as error:
            raise Failed(
                say("replica.first_failed", "its first inference failed: {failure}", failure=str(error))
            ) from None
        if reply.status != 200:
            raise Failed(
                say(
                    "replica.first_status", "its first inference was answered with status {status}", status=reply.status
                )
            )

    async def _hear_slots(self, pool: Pool) -> None:
        """How many calls it wants at once, where that shows only when it is loaded: never more than its engine can take."""
        most = self.caps.slots
        if not self.caps.turns:
            return
        try:
            told = _told(await pool.get(self.engine.pulse))
        except WireError as error:
            raise Failed(say("replica.unreachable", "it cannot be reached: {failure}", failure=str(error))) from None
        self.slots = min(most, told.slots or most)
        self.slots_sorted = min(self.slots, told.slots_sorted or most)

    async def _look(self, pool: Pool, address: Address) -> float:
        """What it does a second at full speed: its probe, sent by as many at once as that takes. It is what the line knows
        when the first burst comes. 0: the probe is no measure, or it took too long."""
        callers, began = pressed_at(self.slots), time.monotonic()
        if not self.engine.probe.cost:
            return 0.0
        try:
            async with asyncio.timeout(_LOOK_WITHIN_S):
                await asyncio.gather(*(self._prove(pool, address) for _ in range(callers)))
        except TimeoutError:
            return 0.0
        return callers * self.engine.probe.cost / (time.monotonic() - began)

    async def _watch(self, pool: Pool, address: Address) -> None:
        """Until the process ends or the pulse stops. Who waits for a beat hears of the end all the same: a node that lost its
        power closes no connection."""
        ended = asyncio.create_task(self._place.ended()) if self._place is not None else None
        beating = asyncio.create_task(self._beat(pool, address, ended))
        try:
            await asyncio.wait({beating} if ended is None else {beating, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended is not None and ended.done():
                raise Failed(self._given_up or ended.result())
            beating.result()
        finally:
            for task in (beating, ended):
                if task is not None:
                    task.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _beat(self, pool: Pool, address: Address, ended: asyncio.Task[str] | None) -> NoReturn:
        """Feel its pulse again and again. Raises Failed when there is none."""
        pulse = self.engine.pulse if ended is not None else address.prefix + self.engine.pulse
        while True:
            await asyncio.sleep(self._pace.upstream_pulse_every_s if ended is None else self._pace.pulse_every_s)
            await self._feel(pool, pulse, ended)

    async def _feel(self, pool: Pool, pulse: str, ended: asyncio.Task[str] | None) -> None:
        """One beat, tried a second time where the connection broke: a server under a burst may turn one away and be well. A
        process that ended meanwhile is the better reason for a missing one."""
        try:
            reply = await self._touched(pool, pulse)
        except WireError:
            if ended is not None:
                with contextlib.suppress(TimeoutError):
                    raise Failed(await asyncio.wait_for(asyncio.shield(ended), timeout=1)) from None
            try:
                reply = await self._touched(pool, pulse)
            except WireError as error:
                raise Failed(say("replica.unreachable", "it cannot be reached: {failure}", failure=str(error))) from None
        if reply.status != 200 and (ended is not None or reply.status >= 500):
            # an upstream may have no such page: it lives
            raise Failed(say("replica.status", "it answers with status {status}", status=reply.status))
        if self.caps.turns:
            told = _told(reply)
            self.at_work = told.calls
            if told.slowest_s > self._pace.batch_within_s:
                raise Failed(say("replica.no_end", "it computes one batch without an end, for {for_s} by now", for_s=told.slowest_s))

    async def _touched(self, pool: Pool, pulse: str) -> Reply:
        try:
            async with asyncio.timeout(self._pace.pulse_within_s):
                return await pool.get(pulse)
        except TimeoutError:
            raise Failed(
                say("replica.no_pulse", "it gave no sign of life for {limit_s}", limit_s=self._pace.pulse_within_s)
            ) from None

    async def _bury(self) -> None:
        """End the process for certain."""
        place, self._place = self._place, None
        if place is not None:
            polite = self._task is None and self.state is not State.STARTING  # told to stop, and able to hear it
            await self._runtime.stop(place, self._pace.stop_within_s if polite else 0.2)

    def _enter(self, state: State, *, again: bool = False) -> None:
        """`again`: it is news though the state is the same."""
        if state is self.state and not again:
            return
        self.state = state
        if self._on_state is not None:
            try:
                self._on_state(self, state)
            except Exception:  # noqa: BLE001 - logged; a faulty listener must not end the supervision
                _LOG.exception("replica_listener_failed", replica=self.name, state=str(state))


def _told(pulse: Reply) -> _Told:
    try:
        return msgspec.json.decode(pulse.body, type=_Told)
    except msgspec.DecodeError as error:
        raise Failed(say("replica.unreachable", "it cannot be reached: {failure}", failure=str(error))) from None


def _private_folder() -> Path:
    """A fresh 0700 folder with a short path (a socket's has 107 bytes), and the end of those whose owners died."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    if not base.is_dir() or len(os.fsencode(base)) > 60:
        base = Path("/tmp")  # noqa: S108 - mkdtemp makes the folder itself private
    for old in base.glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError, ValueError):
            owner = int(old.name.removeprefix(_FOLDER).split("-")[0])
            if old.stat().st_uid == os.getuid() and not Path(f"/proc/{owner}").exists():
                shutil.rmtree(old)
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=base))
