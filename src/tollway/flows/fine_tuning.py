"""Fine-tuning for buyers: hold -> train on the shared base -> sign the adapter -> offer it to its owner -> settle.

One job at a time, in a worker process of low priority (`flows.fine_tuning_work`) that dies with the gateway; the next
gateway starts it again and it goes on from its last checkpoint. What is billed is the tokens of the examples times the
epochs, held before the job is taken and settled once, whatever happens in between:

    succeeded   all of them        cancelled   those of the steps that were done        failed   nothing
"""

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa

from tollway import __version__
from tollway.artifacts import store
from tollway.artifacts.manifest import Lineage
from tollway.flows.call import Desk
from tollway.insight import economics
from tollway.kit import log
from tollway.kit.errors import BadRequest, NotFound, TollwayError, Unavailable
from tollway.kit.ids import new_id
from tollway.sell import files, fine_tuning, revision, usage
from tollway.sell.access import Caller, Grant
from tollway.sell.fine_tuning import Job
from tollway.sell.metering import UsageEvent
from tollway.serve import models
from tollway.serve.engines import cpu_threads
from tollway.serve.served import Served
from tollway.shop import Shop

_log = log.get("flows.fine_tuning")
EXAMPLES_MIN: Final = 10
TOKENS_PER_EXAMPLE_MAX: Final = 2048
_RATE: Final = 2e-4
_LOOK_EVERY_S: Final = 0.5
_LOADED_WITHIN_S: Final = 120.0
_AT_ONCE: Final = 8
_METRICS_EVERY: Final = 1


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

    def __init__(self, shop: Shop, desk: Desk) -> None:
        self._shop, self._desk = shop, desk
        self._grants: dict[str, Grant] = {}
        self._news = asyncio.Event()
        self._worker: asyncio.subprocess.Process | None = None
        self._running = ""

    @property
    def files_root(self) -> Path:
        """Where uploads lie."""
        return Path(self._shop.settings.home) / "files"

    # -- asked by buyers ---------------------------------------------------------------------------------------------

    async def create(self, caller: Caller, wish: Wish) -> Job:
        """Take a job: everything is checked and the most it can cost is held. Raises 400, 402, 403, 404."""
        org_id, now_ms = caller.account.org_id, self._shop.clock.now_ms()
        served = self._base(wish.model, org_id)
        self._desk.access.look(caller, wish.model)
        training = await asyncio.to_thread(self._examples, org_id, wish.training_file)
        if wish.validation_file is not None:
            await asyncio.to_thread(self._examples, org_id, wish.validation_file)
        if len(training) < EXAMPLES_MIN:
            raise BadRequest(
                f"The training file has {len(training)} examples; at least {EXAMPLES_MIN} are needed.",
                param="training_file",
                code="too_few_examples",
            )
        hyperparameters = wish.settled(len(training))
        tokens = sum(await _counted(served, training)) * int(hyperparameters["n_epochs"])
        grant = self._desk.access.admit(caller, wish.model, 0, 0, {"training_tokens": tokens})
        self._desk.access.park(grant)
        job_id = new_id("ftjob", now_ms)
        job = Job(
            job_id, org_id, caller.key.id, wish.model, served.model.version, wish.training_file, wish.validation_file,
            wish.suffix, hyperparameters, wish.seed if wish.seed is not None else now_ms % 2**31, wish.metadata,
            "queued", False, tokens, None, None, None, grant.subscription_id, grant.plan.id, None, now_ms, None, None,
        )  # fmt: skip
        try:
            await self._desk.recorder.run(lambda conn: fine_tuning.create(conn, job))
        except BaseException:
            self._desk.access.release(grant)
            raise
        self._grants[job_id] = grant
        self._news.set()
        return job

    async def cancel(self, org_id: str, job_id: str) -> Job:
        """End a job; what it did so far is billed. Raises NotFound, Conflict."""
        now_ms = self._shop.clock.now_ms()
        job = await self._desk.recorder.run(lambda conn: fine_tuning.ask_to_cancel(conn, now_ms, org_id, job_id))
        if job.status == "cancelled":
            self._release(job_id)
        elif self._running == job_id:
            self._tell_worker_to_stop()
        return job

    def _base(self, name: str, org_id: str) -> Served:
        served = self._desk.fleet.find(name, org_id)
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
        lines = files.path_of(self.files_root, found).read_bytes().split(b"\n")
        return [msgspec.json.decode(line)["messages"] for line in lines if line.strip()]

    # -- working them off --------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Run the waiting jobs, one after the other, until cancelled. Begins with what an earlier gateway left."""
        await self._take_over()
        while True:
            self._news.clear()
            try:
                job = await asyncio.to_thread(self._next)
                if job is not None:
                    await self._run(job)
                    continue
            except TollwayError as error:  # the database is away for a moment: the job is still there
                _log.warning("fine-tuning waits", error=error.message)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), _LOOK_EVERY_S * 10)

    async def close(self) -> None:
        """End the worker; the job goes on with the next gateway."""
        worker, self._worker = self._worker, None
        if worker is not None and worker.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()

    async def _take_over(self) -> None:
        """Hold again what open jobs may cost; bill what ended and was not billed."""

        def read(conn: sa.Connection) -> tuple[list[Job], list[Job]]:
            return fine_tuning.list_of(conn, None, open_only=True), fine_tuning.list_of(conn, None, unbilled=True)

        waiting, unbilled = await self._desk.recorder.run(read)
        for job in [*waiting, *unbilled]:
            grant = self._desk.access.hold_again(job.key_id, job.base, {"training_tokens": job.tokens_max})
            if grant is not None:
                self._grants[job.id] = grant
        for job in unbilled:
            await self._bill(job)

    def _next(self) -> Job | None:
        with self._shop.db.read() as conn:
            waiting = fine_tuning.list_of(conn, None, open_only=True)
        running = [job for job in waiting if job.status == "running"]
        return min(running or waiting, key=lambda job: job.id, default=None)

    async def _run(self, job: Job) -> None:
        now_ms = self._shop.clock.now_ms()

        def begin(conn: sa.Connection) -> Job:
            again = job.status == "running"
            fine_tuning.tell(conn, now_ms, job.id, "The training goes on." if again else "The training begins.")
            return fine_tuning.change(conn, job.id, status="running", started_ms=job.started_ms or now_ms)

        self._running = job.id
        try:
            if job.id not in self._grants:
                raise Unavailable("The organization has no subscription any more.", code="no_subscription")
            job = await self._desk.recorder.run(begin)
            if job.cancelling:
                await self._ended(job, "cancelled", 0)
                return
            outcome = await self._train(job)
            if outcome.get("kind") == "made":
                await self._publish(job, outcome)
            elif outcome.get("stopped") or await self._was_cancelled(job):
                await self._ended(job, "cancelled", int(outcome.get("trained", 0)))
            else:
                await self._failed(job, str(outcome.get("code", "")), str(outcome.get("why", "")))
        except TollwayError as error:
            await self._failed(job, error.code, error.message)
        finally:
            self._running = ""

    async def _train(self, job: Job) -> dict[str, Any]:
        """Run the worker to its end; its last word, and how many tokens it had trained."""
        from tollway.flows.fine_tuning_work import Orders

        package = self._shop.store.get(job.base, job.base_version)
        await asyncio.to_thread(lambda: self._shop.store.verify(package).require())
        uploads = await asyncio.to_thread(self._uploads, job)
        home, chosen = Path(self._shop.settings.home), job.hyperparameters
        folder = home / "fine_tuning" / job.id
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        orders = Orders(
            folder=str(folder.absolute()),
            bases=str((home / "bases").absolute()),
            base_weights=str(package.weights_path.absolute()),
            training=str(uploads[0].absolute()),
            validation=str(uploads[1].absolute()) if len(uploads) > 1 else "",
            epochs=chosen["n_epochs"],
            batch_rows=chosen["batch_size"],
            learning_rate=_RATE * chosen["learning_rate_multiplier"],
            seed=job.seed,
            threads=self._shop.settings.replica_threads or cpu_threads(),
            parent=os.getpid(),
        )
        pipe, environment = asyncio.subprocess.PIPE, {**_environment(), "OMP_NUM_THREADS": str(orders.threads)}
        worker = self._worker = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "tollway.flows.fine_tuning_work", stdin=pipe, stdout=pipe,
            stderr=asyncio.subprocess.DEVNULL, env=environment, start_new_session=True, limit=1 << 20,
        )  # fmt: skip
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write(msgspec.json.encode(orders) + b"\n")
        outcome: dict[str, Any] = {"why": "The training process ended without a word.", "code": "training_failed"}
        share = 0.0
        try:
            await worker.stdin.drain()
            if await self._was_cancelled(job):
                self._tell_worker_to_stop()
            async for line in worker.stdout:
                event = json.loads(line)
                if event["kind"] in ("made", "failed"):
                    outcome = event
                elif event["kind"] == "progress":
                    share = max(share, event["done"] / max(1, event["total"]))
                await self._relay(job, event)
            await worker.wait()
        except ConnectionError:
            await worker.wait()
        finally:
            self._worker = None if self._worker is worker else self._worker
            if worker.returncode is None:
                worker.kill()
        return outcome | {"trained": round(share * job.tokens_max)}

    async def _relay(self, job: Job, event: dict[str, Any]) -> None:
        """A worker's word as an event that the buyer can list."""
        now_ms = self._shop.clock.now_ms()
        if event["kind"] == "note":
            await self._desk.recorder.run(lambda conn: fine_tuning.tell(conn, now_ms, job.id, str(event["text"])))
        elif event["kind"] == "progress" and event["done"] % _METRICS_EVERY == 0:
            step, loss = int(event["done"]), event.get("loss")
            data = {"step": step, "total_steps": int(event["total"]), "train_loss": loss}
            text = f"Step {step}/{int(event['total'])}: training loss={loss if loss is not None else '-'}"
            await self._desk.recorder.run(lambda conn: fine_tuning.tell(conn, now_ms, job.id, text, data=data))

    # -- how it ends -------------------------------------------------------------------------------------------------

    async def _publish(self, job: Job, made: dict[str, Any]) -> None:
        """Sign and shelve the adapter, offer it to its owner, wait until it answers, bill."""
        account = self._desk.access.account(job.org_id)
        name = fine_tuning.name_of(job.base, account.name, job.suffix or "model", job.id)
        package = await asyncio.to_thread(self._shelve, job, made, name)
        now_ms = self._shop.clock.now_ms()

        def offer(conn: sa.Connection) -> Job:
            version = package.manifest.version
            models.offer_adapter(conn, now_ms, name, job.base, package.manifest.name, version, job.org_id)
            revision.touch(conn)
            fine_tuning.tell(conn, now_ms, job.id, "The model is being loaded.")
            return fine_tuning.change(conn, job.id, model=name, trained_tokens=job.tokens_max)

        await self._desk.recorder.run(offer)
        await self._until_loaded(name, job.org_id)
        await self._ended(job, "succeeded", job.tokens_max)

    async def _until_loaded(self, name: str, org_id: str) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LOADED_WITHIN_S
        while loop.time() < deadline:
            with contextlib.suppress(NotFound, Unavailable):
                if self._desk.fleet.find(name, org_id).ready:
                    return
            await asyncio.sleep(0.1)
        raise Unavailable("The trained model could not be loaded.", code="model_not_loaded")

    def _shelve(self, job: Job, made: dict[str, Any], name: str) -> store.ModelPackage:
        folder = Path(self._shop.settings.home) / "fine_tuning" / job.id / "package"
        folder.mkdir(exist_ok=True)
        price = economics.machine_price(self._shop.settings)
        seconds = float(made["seconds"])
        about = store.About(
            kind="adapter",
            task="chat",
            title=name,
            architecture="lora",
            parameters=int(made["figures"].get("parameters", 0)),
            metrics={key: value for key, value in made["training"].items() if isinstance(value, int | float)},
            parity={key: value for key, value in made["figures"].items() if isinstance(value, int | float)},
            lineage=Lineage(
                parent=f"{job.base}@{job.base_version}",
                recipe="fine-tuning",
                recipe_digest="sha256:" + hashlib.sha256(str(made["recipe"]).encode()).hexdigest(),
                run=job.id,
                code_version=__version__,
                training_ms=round(seconds * 1000),
                training_cost_micros=round(seconds / 3600 * price.micros_per_hour),
                cost_currency=price.currency,
                datasets={job.training_file: str(made["digest"])},
            ),
        )
        shelf_name = job.id.replace("_", "-")
        return self._shop.store.add_package(shelf_name, folder, about, files={"adapter.gguf": Path(made["adapter"])})

    async def _ended(self, job: Job, status: str, trained: int) -> None:
        now_ms = self._shop.clock.now_ms()
        words = {"succeeded": "The job is done.", "cancelled": f"The job was cancelled after {trained:,} tokens."}

        def note(conn: sa.Connection) -> Job:
            fine_tuning.tell(conn, now_ms, job.id, words[status])
            return fine_tuning.change(conn, job.id, status=status, finished_ms=now_ms, trained_tokens=trained)

        ended = await self._desk.recorder.run(note)
        if trained:
            await self._bill(ended)
        else:
            self._release(job.id)

    async def _failed(self, job: Job, code: str, why: str) -> None:
        now_ms = self._shop.clock.now_ms()
        error = {"code": code or "training_failed", "message": why or "The training failed.", "param": None}

        def note(conn: sa.Connection) -> None:
            fine_tuning.tell(conn, now_ms, job.id, f"{error['message']} It costs nothing.", level="error")
            fine_tuning.change(conn, job.id, status="failed", finished_ms=now_ms, error=error, trained_tokens=None)

        await self._desk.recorder.run(note)
        self._release(job.id)

    async def _bill(self, job: Job) -> None:
        """Settle a job that trained; its event has an id of its own, so twice is once."""
        event_id, grant = fine_tuning.event_of(job.id), self._grants.pop(job.id, None)
        if grant is None:
            return

        def there(conn: sa.Connection) -> bool:
            with contextlib.suppress(NotFound):
                usage.find_event(conn, event_id)
                return True
            return False

        if await self._desk.recorder.run(there):
            self._desk.access.release(grant)
        else:
            event = _usage_event(job, grant, event_id, self._shop.clock.now_ms())
            event.price_picos = self._desk.access.settle(grant, event.quantities())
            currency = grant.plan.terms.currency if grant.wallet else None
            await self._desk.recorder.record(
                event, currency, lambda: self._desk.access.unsettle(grant, event.quantities(), event.price_picos)
            )
        await self._desk.recorder.run(lambda conn: fine_tuning.change(conn, job.id, event_id=event_id))

    def _release(self, job_id: str) -> None:
        grant = self._grants.pop(job_id, None)
        if grant is not None:
            self._desk.access.release(grant)

    def _uploads(self, job: Job) -> list[Path]:
        with self._shop.db.read() as conn:
            found = [files.get(conn, job.org_id, one) for one in (job.training_file, job.validation_file) if one]
        return [files.path_of(self.files_root, one) for one in found]

    async def _was_cancelled(self, job: Job) -> bool:
        return (await self._desk.recorder.run(lambda conn: fine_tuning.get(conn, job.id))).cancelling

    def _tell_worker_to_stop(self) -> None:
        worker = self._worker
        if worker is not None and worker.stdin is not None:
            worker.stdin.close()


def _usage_event(job: Job, grant: Grant, event_id: str, now_ms: int) -> UsageEvent:
    return UsageEvent(
        id=event_id, request_id=job.id, org_id=job.org_id, key_id=job.key_id, subscription_id=grant.subscription_id,
        plan_version_id=grant.plan.id, model=job.base, model_version=job.base_version, operation="fine-tuning",
        status="ok", at_ms=now_ms, input_tokens=0, cached_tokens=0, output_tokens=0, price_picos=0, prefill_us=0,
        decode_us=0, first_token_us=None, duration_us=(now_ms - (job.started_ms or now_ms)) * 1000, streamed=False,
        meter="training_tokens", units=job.trained_tokens or 0,
    )  # fmt: skip


async def _counted(served: Served, examples: list[list[dict[str, str]]]) -> list[int]:
    """Tokens of each conversation in the engine's own words, a few asked for at once."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(messages: list[dict[str, str]]) -> int:
        async with places:
            return min(TOKENS_PER_EXAMPLE_MAX, await served.tokens_of(messages))

    return list(await asyncio.gather(*map(one, examples)))


def _environment() -> dict[str, str]:
    """What the worker may know of ours: no keys, no database address."""
    names = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    return {name: os.environ[name] for name in names if name in os.environ}
