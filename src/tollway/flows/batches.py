"""Batches for buyers: a file of calls, answered in idle time at a lower price, into a file of answers.

Each line goes the way of every call (`flows/answer.py`), in the tier "batch" (`batch_run.py`). Its answer is durable in the
batch's journal before its usage event is recorded, and the event's id follows from batch and line: however often the
gateway is killed, every line is answered and billed once.

    completed   every line has an answer or an error      expired     after 24 hours; what was answered is kept and billed,
                                                                      the other lines say what they waited for
    cancelled   the buyer ended it; the same              failed      it could not be worked on any more; the same
"""

import asyncio
from typing import Final

import msgspec

from tollway.flows import batch_files, unpriced, uploads
from tollway.flows.batch_run import BatchRun
from tollway.flows.call import Service
from tollway.kit import jobs
from tollway.kit.crew import Crew
from tollway.kit.errors import BadRequest, TollwayError
from tollway.kit.ids import new_id
from tollway.kit.jobs import Job
from tollway.sell import batches, catalog, files
from tollway.sell.access import Caller
from tollway.sell.batches import KIND, Order
from tollway.sell.file_checks import check_batch
from tollway.shop import Shop

_AT_ONCE: Final = 4


class Batches:
    """The batches of a running gateway."""

    def __init__(self, shop: Shop, service: Service) -> None:
        self._shop, self._service = shop, service
        self._files = uploads.root_of(shop)
        self._crew = Crew(
            KIND, self, shop.clock, service.recorder.run, at_once=_AT_ONCE, alone=not shop.many,
            give_up_s=shop.settings.job_wait_s,
        )  # fmt: skip
        self._waited: dict[str, str] = {}  # by batch: what a line was told last that could not be asked

    # -- asked by buyers ---------------------------------------------------------------------------------------------

    async def create(
        self, caller: Caller, file_id: str, endpoint: str, metadata: dict[str, str], note: jobs.Note | None = None
    ) -> Job:
        """Take a batch; `note` writes in the same transaction. Raises 400 with every problem of its file, 402, 403, 404, 409."""
        org_id, now_ms = caller.account.org_id, self._shop.clock.now_ms()
        lines, models = await asyncio.to_thread(self._looked_through, org_id, file_id, endpoint)
        for model in sorted(models):
            served = self._service.fleet.find(model, org_id)
            plan = self._service.access.plan_for(caller, model)
            if plan.terms.overage == "refuse" and plan.terms.batch_percent and plan.terms.charges:
                raise BadRequest(
                    f"The plan {plan.title!r} has no batches: they are paid for, and nothing pays beyond its included units.",
                    code="batch_not_included",
                )
            unpriced.require_price(self._shop.store, plan, served.model, catalog.BATCH)
        order = Order(
            key_id=caller.key.id,
            endpoint=endpoint,
            input_file_id=file_id,
            metadata=metadata,
            lines=lines,
            expires_ms=now_ms + batches.WINDOW_MS,
        )
        asked = msgspec.to_builtins(order)
        job = Job(id=new_id("batch", now_ms), kind=KIND, org_id=org_id, asked=asked, created_ms=now_ms)
        await self._service.recorder.run(lambda conn: jobs.create(conn, job, batches.BATCHES_MAX, note))
        self._crew.wake()
        return job

    async def cancel(self, org_id: str, job_id: str) -> Job:
        """End a batch; what was answered is kept and billed. Raises NotFound, Conflict."""
        now_ms = self._shop.clock.now_ms()
        job: Job = await self._service.recorder.run(lambda conn: batches.ask_to_cancel(conn, now_ms, org_id, job_id))
        self._crew.stop(job_id)
        return job

    def _looked_through(self, org_id: str, file_id: str, endpoint: str) -> tuple[int, set[str]]:
        """How many calls a file has, and of which models."""
        with self._shop.db.read() as conn:
            found = files.get(conn, org_id, file_id)
        if found.purpose != "batch":
            raise BadRequest(
                f"The file {file_id} was uploaded for {found.purpose}.", param="input_file_id", code="invalid_file"
            )
        path = files.path_of(self._files, found)
        check_batch(path.read_bytes(), endpoint)
        return found.lines, batch_files.models_of(path)

    # -- working them off --------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Run the waiting batches until cancelled; those that an earlier gateway had begun go on."""
        await asyncio.to_thread(files.sweep, self._files)
        await self._crew.work()

    async def run(self, job: Job, stop: asyncio.Event) -> None:
        """One batch, from where it was to its end."""
        await BatchRun(self._shop, self._service, job, self._waited, stop).run()

    async def fail(self, job: Job, error: TollwayError) -> None:
        """End a batch that cannot be worked on any more."""
        await BatchRun(self._shop, self._service, job, self._waited).fail(error)

    def busy_us(self, job_id: str) -> int:
        """Replicas do the work."""
        return 0

    def put_back(self, job_id: str, busy_us: int) -> None:
        """There is none."""
