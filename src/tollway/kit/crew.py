"""Who works off the jobs of `kit/jobs.py`: claims them, runs them, gives a sign of life for each while it runs.

A crew lives in a gateway. What it does with a job is a `Work`; a job that cannot go on now (Unavailable) is taken up again
later, however often, and ends when it did not get further for `give_up_s`, over however many gateways; one that was broken
off without a word too often, and did not get further, is what its workers die of, and ends.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import sqlalchemy as sa

from tollway.kit import jobs, log
from tollway.kit.clock import Clock
from tollway.kit.errors import Conflict, TollwayError, Unavailable
from tollway.kit.ids import new_id
from tollway.kit.jobs import Job
from tollway.kit.said import say

BEAT_S: Final = 3.0
LOOK_S: Final = 5.0
TRIES_MAX: Final = 5
GIVE_UP_S: Final = 86_400.0
_log = log.get("kit.crew")


class Work(Protocol):
    """What a crew does with a job."""

    async def run(self, job: Job, stop: asyncio.Event) -> None:
        """Work on it until it has ended; `stop` is set when its end was asked for. Unavailable: try again later."""

    async def fail(self, job: Job, error: TollwayError) -> None:
        """It cannot be done: end it."""

    def busy_us(self, job_id: str) -> int:
        """How long a process of its own worked on it since this was asked last; 0 for work that replicas do."""

    def put_back(self, job_id: str, busy_us: int) -> None:
        """That could not be written down: it comes again with the next."""


class Crew:
    """Works the jobs of one kind off, `at_once` of them at a time. `write` runs a function in a write transaction."""

    def __init__(
        self,
        kind: str,
        work: Work,
        clock: Clock,
        write: Callable[[Callable[[sa.Connection], Any]], Awaitable[Any]],
        *,
        at_once: int = 1,
        alone: bool = True,
        give_up_s: float = GIVE_UP_S,
    ) -> None:
        self._kind, self._work, self._clock, self._write = kind, work, clock, write
        self._at_once, self._alone, self._give_up_s = at_once, alone, give_up_s
        self._owner = new_id("crew")
        self._news = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, asyncio.Event] = {}
        self._resting: dict[str, float] = {}  # left alone until then
        self._excused: set[str] = set()  # said why they could not go on: taken up again, that is not one try more

    def wake(self) -> None:
        """There is something new."""
        self._news.set()

    def stop(self, job_id: str) -> None:
        """The end of a job was asked for."""
        if job_id in self._stops:
            self._stops[job_id].set()

    async def work(self) -> None:
        """Claim and run jobs until cancelled; then those that run are left for the next crew."""
        beats = asyncio.create_task(self._keep_beating())
        try:
            while True:
                self._news.clear()
                try:
                    while len(self._running) < self._at_once and await self._take_one():
                        pass
                except TollwayError as error:  # the database is away for a moment: the jobs are still there
                    _log.warning("jobs wait", kind=self._kind, error=error.message)
                # not wait_for: it swallows a cancellation that comes together with the news
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._news.wait()
        finally:
            tasks = [beats, *self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _take_one(self) -> bool:
        now, now_ms = time.monotonic(), self._clock.now_ms()
        self._resting = {job_id: until for job_id, until in self._resting.items() if until > now}
        but = [*self._running, *self._resting]
        found: Job | None = await self._write(
            lambda conn: jobs.claim(
                conn, now_ms, self._kind, self._owner, alone=self._alone, but=but, excused=self._excused
            )
        )
        if found is None:
            return False
        self._excused.discard(found.id)
        self._stops[found.id] = asyncio.Event()
        if found.cancelling:
            self._stops[found.id].set()
        self._running[found.id] = asyncio.create_task(self._run(found))
        return True

    async def _run(self, found: Job) -> None:
        try:
            try:
                if found.tries > TRIES_MAX:
                    raise Conflict(say("job.broken_off", "The work was broken off too often."), code="job_broken_off")
                await self._work.run(found, self._stops[found.id])
            except Unavailable as error:
                await self._wait(found, error)
            except TollwayError as error:
                await self._work.fail(found, error)
            except Exception as error:  # noqa: BLE001 - logged; the job is told that it was us, and the crew goes on
                _log.error("job broke", job=found.id, exc_info=error)
                await self._work.fail(found, TollwayError(say("job.our_side", "Something went wrong on our side.")))
        except TollwayError as error:
            _log.warning("job could not be ended", job=found.id, error=error.message)
            self._rest(found)
        finally:
            del self._running[found.id], self._stops[found.id]
            self._news.set()

    async def _wait(self, found: Job, error: Unavailable) -> None:
        """It cannot go on now: later again, unless it has waited for too long."""
        now_ms = self._clock.now_ms()
        since_ms: int = await self._write(lambda conn: jobs.waits(conn, now_ms, found.id, error.message))
        if now_ms - since_ms < self._give_up_s * 1000:
            _log.warning("job waits", job=found.id, error=error.message)
            self._rest(found)
            return
        why = say("job.gave_up", "It could not go on for {limit_s}: {why}", limit_s=self._give_up_s, why=error.said)
        await self._work.fail(found, Unavailable(why, code="job_gave_up"))

    def _rest(self, job: Job) -> None:
        self._resting[job.id] = time.monotonic() + LOOK_S
        self._excused.add(job.id)

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            for job_id in list(self._running):
                await self._beat(job_id)

    async def _beat(self, job_id: str) -> None:
        busy_us, now_ms = self._work.busy_us(job_id), self._clock.now_ms()
        try:
            found: Job = await self._write(lambda conn: jobs.beat(conn, now_ms, job_id, self._owner, busy_us))
        except Conflict:
            ended = self._running.get(job_id)
            if ended is not None and not self._alone:
                _log.warning("job lost to another gateway", job=job_id)
                ended.cancel()
            return
        except TollwayError as error:
            _log.warning("no sign of life from a job", job=job_id, error=error.message)
            self._work.put_back(job_id, busy_us)
            return
        if found.cancelling:
            self.stop(job_id)
