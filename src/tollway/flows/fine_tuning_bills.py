"""What fine-tuning jobs may cost is held while they are open; what they did is billed once they ended, whoever ended them.

Holds live in this gateway's memory, jobs in the database: so what an earlier gateway left is held again, and what ended
without its bill is billed late.
"""

import asyncio
from typing import Final

import sqlalchemy as sa

from tollway.flows.call import Service
from tollway.flows.settling import Held
from tollway.kit import jobs, log
from tollway.kit.errors import TollwayError
from tollway.kit.jobs import Job
from tollway.sell import fine_tuning
from tollway.sell.access import Grant
from tollway.sell.fine_tuning import KIND
from tollway.sell.metering import UsageEvent
from tollway.shop import Shop

_log = log.get("flows.fine_tuning")
_LOOK_S: Final = 5.0
_LATE_MS: Final = 30_000  # after its end, a bill that is still being written is written or lost


class Bills:
    """Of the fine-tuning jobs that this gateway knows."""

    def __init__(self, shop: Shop, service: Service, held: Held) -> None:
        self._shop, self._service, self._held = shop, service, held

    def hold(self, job: Job) -> bool:
        """Hold what a job may cost, if this gateway does not yet; False when there is nothing to hold it against."""
        order = fine_tuning.order_of(job)
        return self._held.again(job.id, order.key_id, order.base, {"training_tokens": order.tokens_max})

    async def keep_clearing(self) -> None:
        """A job that was cancelled elsewhere (in the console) holds nothing any more; one whose bill could not be written at
        its end is billed."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self._release_ended()
                await self._bill_late()
            except TollwayError as error:  # the database is away for a moment
                _log.warning("jobs not cleared", error=error.message)

    async def _release_ended(self) -> None:
        names = self._held.names
        for job_id in await self._service.recorder.run(lambda conn: jobs.ended_of(conn, names)) if names else []:
            self._held.release(job_id)

    async def _bill_late(self) -> None:
        before_ms = self._shop.clock.now_ms() - _LATE_MS
        for job in await self._service.recorder.run(lambda conn: jobs.list_of(conn, KIND, unsettled=True)):
            if job.finished_ms is not None and job.finished_ms < before_ms:
                self.hold(job)
                await self.bill(job)

    async def take_over(self) -> None:
        """Hold again what open jobs may cost; bill what ended and was not billed."""

        def read(conn: sa.Connection) -> tuple[list[Job], list[Job]]:
            return jobs.list_of(conn, KIND, open_only=True), jobs.list_of(conn, KIND, unsettled=True)

        waiting, unsettled = await self._service.recorder.run(read)
        for job in [*([] if self._shop.many else waiting), *unsettled]:
            self.hold(job)
        for job in unsettled:
            await self.bill(job)

    async def bill(self, job: Job) -> None:
        """Settle a job that trained; its event has an id of its own, so twice is once."""
        event_id = fine_tuning.event_of(job.id)
        worked_us = await self._service.recorder.run(lambda conn: jobs.worked_us(conn, job.id))
        now_ms = self._shop.clock.now_ms()
        await self._held.settle(job.id, lambda grant: _usage_event(job, grant, event_id, now_ms, worked_us))
        await self._service.recorder.run(
            lambda conn: jobs.change(conn, job.id, settled=True, made=job.made | {"event_id": event_id})
        )


def _usage_event(job: Job, grant: Grant, event_id: str, now_ms: int, worked_us: int) -> UsageEvent:
    order = fine_tuning.order_of(job)
    return UsageEvent(
        id=event_id, request_id=job.id, org_id=job.org_id, key_id=order.key_id, subscription_id=grant.subscription_id,
        plan_version_id=grant.plan.id, model=order.base, model_version=order.base_version, operation="fine-tuning",
        status="ok", at_ms=now_ms, input_tokens=0, cached_tokens=0, output_tokens=0, price_picos=0, prefill_us=0,
        decode_us=worked_us, first_token_us=None, duration_us=(now_ms - (job.started_ms or now_ms)) * 1000,
        streamed=False, meter="training_tokens", units=fine_tuning.made_of(job).trained_tokens or 0,
    )  # fmt: skip
