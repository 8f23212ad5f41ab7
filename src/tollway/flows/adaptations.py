"""Adaptations that the operator asked for in the console: jobs whose work is `flows/adapt.py`, one at a time.

What comes of one answers a share of the calls as a canary; what does not pass the gates is told and put nowhere.
"""

import asyncio
import contextlib
import os
import sys
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from tollway.flows.adaptation_child import Orders
from tollway.flows.call import Service
from tollway.kit import jobs
from tollway.kit.crew import Crew
from tollway.kit.errors import Conflict, TollwayError
from tollway.kit.ids import new_id
from tollway.kit.jobs import Job
from tollway.kit.said import said, say
from tollway.serve import models
from tollway.shop import Shop

KIND: Final = "adaptation"
SHARE: Final = 10  # percent of the calls that a new version answers first
_OPEN_MAX: Final = 20


class Adaptations:
    """The adaptations of a running gateway."""

    def __init__(self, shop: Shop, service: Service) -> None:
        self._shop, self._service = shop, service
        wait_s = shop.settings.job_wait_s
        self._crew = Crew(KIND, self, shop.clock, service.recorder.run, alone=not shop.many, give_up_s=wait_s)

    async def work(self) -> None:
        """Run the waiting ones until cancelled."""
        await self._crew.work()

    def busy_us(self, job_id: str) -> int:
        """A run's cost is its package's."""
        return 0

    def put_back(self, job_id: str, busy_us: int) -> None:
        """There is none."""

    async def run(self, job: Job, stop: asyncio.Event) -> None:
        """One adaptation, in a process of its own."""
        orders = Orders(
            home=str(self._shop.settings.home.absolute()), model=job.asked["model"], share=SHARE, parent=os.getpid()
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "tollway.flows.adaptation_child", stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        stopping = asyncio.create_task(_kill_when(stop, process))
        try:
            heard, _ = await process.communicate(msgspec.json.encode(orders) + b"\n")
        finally:
            stopping.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
        silent = say("adaptation.silent", "The adaptation ended without a word.")
        nothing = {"why": silent, "said": silent.coded()}
        word: dict[str, Any] = msgspec.json.decode(heard) if heard.strip() else nothing
        if "package" in word:
            learned = say(
                "adaptation.learned",
                "{package} learned {taken} corrections.",
                package=word["package"],
                taken=word["taken"],
            )
            await self._end(job, "succeeded", learned, word)
        elif stop.is_set():
            await self._end(job, "cancelled", say("adaptation.cancelled", "The adaptation was cancelled."), {})
        else:
            why = said(word.get("said"), str(word["why"]))
            raise Conflict(why, code=str(word.get("code", "adaptation_failed")))

    async def fail(self, job: Job, error: TollwayError) -> None:
        """Nothing came of it, and why."""
        now_ms, told = self._shop.clock.now_ms(), {"code": error.code, "message": str(error)}
        words = error.said if not error.hint else say("pair", "{said} {hint}", said=error.said, hint=error.said_hint)
        await self._service.recorder.run(lambda conn: jobs.end(conn, now_ms, job.id, "failed", words, error=told))

    async def _end(self, job: Job, status: str, message: str, made: dict[str, Any]) -> None:
        now_ms = self._shop.clock.now_ms()
        await self._service.recorder.run(lambda conn: jobs.end(conn, now_ms, job.id, status, message, **made))


def ask(conn: sa.Connection, now_ms: int, model: str, by: str) -> Job:
    """Have a model adapted by the gateway's next free moment. Raises NotFound for one that is not on offer, Conflict while that
    is being done already."""
    models.get_model(conn, model)
    for job in jobs.list_of(conn, KIND, open_only=True):
        if job.asked["model"] == model:
            raise Conflict(
                say("adaptation.already", "The model {model!r} is being adapted already.", model=model),
                code="already_adapting",
            )
    asked = {"model": model, "by": by}
    made = Job(id=new_id("adapt", now_ms), kind=KIND, org_id="", asked=asked, created_ms=now_ms)
    return jobs.create(conn, made, _OPEN_MAX)


async def _kill_when(stop: asyncio.Event, process: asyncio.subprocess.Process) -> None:
    await stop.wait()
    with contextlib.suppress(ProcessLookupError):
        process.kill()
