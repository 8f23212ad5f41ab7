"""Fine-tuning for buyers: hold -> train on the shared base -> sign the adapter -> offer it to its owner -> settle.

One job at a time (`kit/crew.py`), in a worker process of low priority (`flows/fine_tuning_worker.py`) that dies with the
gateway; the next gateway starts it again and it goes on from its last checkpoint. What is billed is the tokens of the
examples times the epochs, held before the job is taken and settled once, whatever happens in between:

    succeeded   all of them        cancelled   those of the steps that were done        failed   nothing
"""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa

from tollway.flows import fine_tuning_worker, uploads
from tollway.flows.call import Service
from tollway.flows.fine_tuned import FineTuned, withdrawn
from tollway.flows.fine_tuning_bills import Bills
from tollway.flows.settling import Held
from tollway.kit import jobs
from tollway.kit.crew import Crew
from tollway.kit.errors import BadRequest, PaymentRequired, TollwayError, Unavailable
from tollway.kit.ids import new_id
from tollway.kit.jobs import Job
from tollway.kit.said import Said, coded, said, say
from tollway.sell import files, fine_tuning
from tollway.sell.access import Caller
from tollway.sell.demand import Demand
from tollway.sell.fine_tuning import KIND, Made, Order
from tollway.serve.engines import cpu_threads
from tollway.serve.served import Served
from tollway.shop import Shop

EXAMPLES_MIN: Final = 10
TOKENS_PER_EXAMPLE_MAX: Final = 2048
_RATE: Final = 2e-4
_AT_ONCE: Final = 8


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a buyer asks for, with "auto" settled by the number of examples."""

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: str = ""
    seed: int | None = None
    n_epochs: int | Literal["auto"] = "auto"
    batch_size: int | Literal["auto"] = "auto"
    learning_rate_multiplier: float | Literal["auto"] = "auto"
    metadata: dict[str, str] = {}

    def settled(self, examples: int) -> dict[str, Any]:
        """The hyperparameters as numbers."""
        epochs = self.n_epochs if self.n_epochs != "auto" else max(1, min(10, 100 // max(1, examples // 3)))
        batch = self.batch_size if self.batch_size != "auto" else max(1, min(8, examples // 16 or 1))
        rate = self.learning_rate_multiplier if self.learning_rate_multiplier != "auto" else 1.0
        return {"n_epochs": epochs, "batch_size": batch, "learning_rate_multiplier": rate}


class FineTuning:
    """The jobs of a running gateway."""

    def __init__(self, shop: Shop, service: Service) -> None:
        self._shop, self._service = shop, service
        self._held = Held(service)
        self._bills, self._models = Bills(shop, service, self._held), FineTuned(shop, service)
        self._worker = fine_tuning_worker.Worker()
        wait_s = shop.settings.job_wait_s
        self._crew = Crew(KIND, self, shop.clock, service.recorder.run, alone=not shop.many, give_up_s=wait_s)

    # -- asked by buyers ---------------------------------------------------------------------------------------------

    async def create(self, caller: Caller, wish: Wish, note: jobs.Note | None = None) -> Job:
        """Take a job: everything is checked and the most it can cost is held; `note` writes in the same transaction. Raises 400,
        402, 403, 404, 409."""
        org_id, now_ms = caller.account.org_id, self._shop.clock.now_ms()
        served = self._base(wish.model, org_id)
        fine_tuning_worker.require_trainer()
        self._service.access.look(caller, Demand(wish.model, counted={"training_tokens": 1}))
        training = await asyncio.to_thread(self._examples, org_id, wish.training_file)
        if wish.validation_file is not None:
            await asyncio.to_thread(self._examples, org_id, wish.validation_file)
        if len(training) < EXAMPLES_MIN:
            raise BadRequest(
                f"The training file has {len(training)} examples; at least {EXAMPLES_MIN} are needed.",
                param="training_file",
                code="too_few_examples",
            )
        chosen = wish.settled(len(training))
        tokens = sum(await _counted(served, training)) * int(chosen["n_epochs"])
        try:
            grant = await self._service.admit(caller, Demand(wish.model, counted={"training_tokens": tokens}))
        except PaymentRequired as error:
            error.hint = error.hint.replace("lower max_tokens", "train for fewer epochs or on fewer conversations")
            raise
        order = Order(
            key_id=caller.key.id,
            base=wish.model,
            base_version=served.model.version,
            training_file=wish.training_file,
            validation_file=wish.validation_file,
            suffix=wish.suffix,
            hyperparameters=chosen,
            seed=wish.seed if wish.seed is not None else now_ms % 2**31,
            metadata=wish.metadata,
            tokens_max=tokens,
            subscription_id=grant.subscription_id,
            plan_version_id=grant.plan.id,
        )
        asked = msgspec.to_builtins(order)
        job = Job(id=new_id("ftjob", now_ms), kind=KIND, org_id=org_id, asked=asked, created_ms=now_ms)
        async with self._held.keeping(job.id, grant):
            await self._service.recorder.run(lambda conn: jobs.create(conn, job, fine_tuning.JOBS_MAX, note))
        if self._shop.many:
            self._held.release(job.id)  # whichever gateway takes it up holds it
        self._crew.wake()
        return job

    async def cancel(self, org_id: str, job_id: str) -> Job:
        """End a job; what it did so far is billed. Raises NotFound, Conflict."""
        now_ms = self._shop.clock.now_ms()
        job = await self._service.recorder.run(lambda conn: jobs.ask_to_cancel(conn, now_ms, KIND, org_id, job_id))
        if job.status == "cancelled":
            self._held.release(job_id)
        self._crew.stop(job_id)
        return job

    def _base(self, name: str, org_id: str) -> Served:
        served = self._service.fleet.find(name, org_id)
        if served.model.base or served.model.kind != "chat" or served.model.engine != "llama_cpp":
            raise BadRequest(
                f"The model {name!r} cannot be fine-tuned.",
                param="model",
                code="model_not_tunable",
                hint="Use a chat model of this shop's own; GET /v1/models lists them.",
            )
        return served

    def _examples(self, org_id: str, file_id: str) -> list[list[dict[str, str]]]:
        with self._shop.db.read() as conn:
            found = files.get(conn, org_id, file_id)
        if found.purpose != "fine-tune":
            raise BadRequest(f"The file {file_id} was uploaded for {found.purpose}.", param="training_file")
        lines = files.path_of(uploads.root_of(self._shop), found).read_bytes().split(b"\n")
        return [msgspec.json.decode(line)["messages"] for line in lines if line.strip()]

    # -- working them off --------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Run the waiting jobs, one after the other, until cancelled. Begins with what an earlier gateway left."""
        await self._bills.take_over()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._crew.work())
            group.create_task(self._bills.keep_clearing())

    async def run(self, job: Job, stop: asyncio.Event) -> None:
        """One job, from its claim to its bill."""
        order = fine_tuning.order_of(job)
        if not self._bills.hold(job):
            raise PaymentRequired(
                say("job.no_subscription", "The organization has no subscription any more."), code="no_subscription"
            )
        folder = Path(self._shop.settings.home) / "fine_tuning" / job.id
        made = await asyncio.to_thread(fine_tuning_worker.kept, folder)
        if made is None:
            earlier = fine_tuning.tokens_done(order, fine_tuning.made_of(job))  # under a gateway that is gone: owed too
            outcome: dict[str, Any] = {"stopped": True, "trained": earlier}
            if not stop.is_set():
                outcome = await self._train(job, folder, stop)
            if outcome.get("stopped"):
                await self._ended(job, "cancelled", int(outcome.get("trained", 0)))
                return
            if outcome.get("kind") != "made":
                why = said(outcome.get("said"), str(outcome["why"]))
                raise BadRequest(why, code=str(outcome["code"]) or "training_failed")
            made = outcome
            await asyncio.to_thread(fine_tuning_worker.keep, folder, made)
        await self._publish(job, order, made, stop)

    async def fail(self, job: Job, error: TollwayError) -> None:
        """End a job that cannot be done; it costs nothing."""
        now_ms, told = self._shop.clock.now_ms(), {"code": error.code, "message": error.message, "param": None}
        await self._note_time(job.id)
        words = say("job.failed_free", "{why} It costs nothing.", why=error.said)
        await self._service.recorder.run(
            lambda conn: jobs.end(conn, now_ms, job.id, "failed", words, error=told, **withdrawn(conn, now_ms, job.id))
        )
        self._held.release(job.id)

    def busy_us(self, job_id: str) -> int:
        """The training process's time."""
        return self._worker.busy_us(job_id)

    def put_back(self, job_id: str, busy_us: int) -> None:
        """It could not be written down."""
        self._worker.put_back(job_id, busy_us)

    async def _train(self, job: Job, folder: Path, stop: asyncio.Event) -> dict[str, Any]:
        """Run the worker to its end; its last word, and how many tokens it had trained."""
        silent = say("tuning.silent", "The training process ended without a word.")
        outcome: dict[str, Any] = {"why": silent, "said": coded(silent), "code": "training_failed"}
        orders, made = await asyncio.to_thread(self._orders, job, folder), fine_tuning.made_of(job)
        async with contextlib.aclosing(self._worker.words(job.id, orders, stop)) as words:
            async for word in words:
                if word["kind"] in ("made", "failed"):
                    outcome = word
                elif word["kind"] == "progress":
                    made = fine_tuning.stepped(made, int(word["done"]), int(word["total"]))
                await self._relay(job, word, made)
        tokens = fine_tuning.tokens_done(fine_tuning.order_of(job), made)
        return outcome | {"trained": tokens, "stopped": stop.is_set() and outcome.get("kind") != "made"}

    def _orders(self, job: Job, folder: Path) -> Any:
        from tollway.flows.fine_tuning_child import Orders

        order, home = fine_tuning.order_of(job), Path(self._shop.settings.home)
        package = self._shop.store.get(order.base, order.base_version)
        self._shop.store.verify(package).require()
        uploads = self._uploads(job.org_id, order)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Orders(
            folder=str(folder.absolute()),
            bases=str((home / "bases").absolute()),
            base_weights=str(package.weights_path.absolute()),
            training=str(uploads[0].absolute()),
            validation=str(uploads[1].absolute()) if len(uploads) > 1 else "",
            epochs=order.hyperparameters["n_epochs"],
            batch_rows=order.hyperparameters["batch_size"],
            learning_rate=_RATE * order.hyperparameters["learning_rate_multiplier"],
            seed=order.seed,
            threads=self._shop.settings.replica_threads or cpu_threads(),
            parent=os.getpid(),
        )

    async def _relay(self, job: Job, word: dict[str, Any], made: Made) -> None:
        """A worker's word as an event that the buyer can list; a step more is a sign that it gets further, and is kept."""
        now_ms = self._shop.clock.now_ms()
        if word["kind"] == "note":
            text = said(word.get("said"), str(word["text"]))
            await self._service.recorder.run(lambda conn: jobs.tell(conn, now_ms, job.id, text))
        elif word["kind"] == "progress":
            step, total, loss = int(word["done"]), int(word["total"]), word.get("loss")
            text = step_words(step, total, loss)

            def note(conn: sa.Connection) -> None:
                data = {"step": step, "total_steps": total, "train_loss": loss}
                jobs.tell(conn, now_ms, job.id, text, data=data)
                jobs.further(conn, job.id, steps_done=made.steps_done, steps_total=made.steps_total)

            await self._service.recorder.run(note)

    # -- how it ends -------------------------------------------------------------------------------------------------

    async def _publish(self, job: Job, order: Order, made: dict[str, Any], stop: asyncio.Event) -> None:
        """Sign and shelve the adapter, offer it to its owner, wait until it answers, bill. The same again is the same."""
        name = fine_tuning.made_of(job).model or await self._models.offer(job, order, made)
        if await self._models.answers(name, job.org_id):
            await self._ended(job, "succeeded", order.tokens_max)
        elif stop.is_set():
            await self._ended(job, "cancelled", 0)  # nobody pays for what never answered
        else:
            raise Unavailable(
                say("tuning.not_loaded", "The trained model could not be loaded."), code="model_not_loaded"
            )

    async def _ended(self, job: Job, status: str, trained: int) -> None:
        now_ms = self._shop.clock.now_ms()
        words = {
            "succeeded": say("job.done", "The job is done."),
            "cancelled": say("job.cancelled_after", "The job was cancelled after {tokens} tokens.", tokens=trained),
        }
        await self._note_time(job.id)

        def end(conn: sa.Connection) -> Job:
            made = {} if status == "succeeded" else withdrawn(conn, now_ms, job.id)
            made["trained_tokens"] = trained
            return jobs.end(conn, now_ms, job.id, status, words[status], settled=not trained, **made)

        ended = await self._service.recorder.run(end)
        if trained:
            await self._bills.bill(ended)
        else:
            self._held.release(job.id)

    async def _note_time(self, job_id: str) -> None:
        """What the process worked since the last sign of life."""
        busy_us, now_ms = self._worker.busy_us(job_id), self._shop.clock.now_ms()
        if not busy_us:
            return
        try:
            await self._service.recorder.run(lambda conn: jobs.worked(conn, now_ms, job_id, busy_us))
        except TollwayError:
            self._worker.put_back(job_id, busy_us)
            raise

    def _uploads(self, org_id: str, order: Order) -> list[Path]:
        with self._shop.db.read() as conn:
            found = [files.get(conn, org_id, one) for one in (order.training_file, order.validation_file) if one]
        return [files.path_of(uploads.root_of(self._shop), one) for one in found]


def step_words(step: int, total: int, loss: float | None) -> Said:
    """A training step as an event, in the words that OpenAI's clients look for."""
    shown = "-" if loss is None else str(loss)
    return say("tuning.step", "Step {step}/{total}: training loss={loss}", step=str(step), total=str(total), loss=shown)


async def _counted(served: Served, examples: list[list[dict[str, str]]]) -> list[int]:
    """Tokens of each conversation in the engine's own words, a few asked for at once."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(messages: list[dict[str, str]]) -> int:
        async with places:
            return min(TOKENS_PER_EXAMPLE_MAX, await served.tokens_of(messages))

    return list(await asyncio.gather(*map(one, examples)))
