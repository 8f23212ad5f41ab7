"""Batches for buyers: a file of calls, answered in idle time at a lower price, into a file of answers.

Each line goes the way of every call (`flows/answer.py`), in the tier "batch". Its answer is durable in the batch's journal
before its usage event is recorded, and the event's id follows from batch and line: however often the gateway is killed,
every line is answered and billed once.

    completed   every line has an answer or an error      expired     after 24 hours; what was answered is kept and billed,
                                                                      the other lines say what they waited for
    cancelled   the buyer ended it; the same              failed      it could not be worked on any more; the same
"""

import asyncio
import itertools
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from tollway.flows import settling
from tollway.flows.answer import open_call, shown
from tollway.flows.batch_journal import Entry, Journal
from tollway.flows.call import Desk
from tollway.kit import jobs, log
from tollway.kit.crew import Crew
from tollway.kit.decoding import decode
from tollway.kit.errors import BadRequest, Conflict, RateLimited, TollwayError, Unavailable
from tollway.kit.ids import new_id
from tollway.kit.jobs import Job
from tollway.kit.said import say
from tollway.sell import batches, catalog, files, tables, usage
from tollway.sell.access import Caller
from tollway.sell.batches import KIND, Order, code_of
from tollway.sell.file_checks import check_batch
from tollway.sell.metering import UsageEvent
from tollway.serve.requests import (
    ChatRequest,
    ClassifyRequest,
    CompletionRequest,
    DetectRequest,
    EmbeddingRequest,
    Request,
)
from tollway.shop import Shop

_log = log.get("flows.batches")
_AT_ONCE: Final = 4
_TRIES: Final = 3  # of a line that the engine was lost with
_PAUSE_MOST_S: Final = 30.0
_NOTE_EVERY_S: Final = 1.0
_WAITS_AFTER_S: Final = 30.0  # without one more answer: then it is written down what it waits for
_CHUNK: Final = 500
_BODIES: Final[dict[str, Any]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/v1/classify": ClassifyRequest,
    "/v1/detect": DetectRequest,
}


class BatchLine(msgspec.Struct):
    """One call of the input file."""

    custom_id: str
    body: msgspec.Raw


class Rest(msgspec.Struct, frozen=True):
    """The calls of an expired batch, of which those without an answer get an error that says what they waited for."""

    path: Path
    why: str


class Batches:
    """The batches of a running gateway."""

    def __init__(self, shop: Shop, desk: Desk) -> None:
        self._shop, self._desk = shop, desk
        home = Path(shop.settings.home)
        self._root, self._files = home / "batches", files.root_in(home)
        self._crew = Crew(
            KIND, self, shop.clock, desk.recorder.run, at_once=_AT_ONCE, alone=not shop.many,
            give_up_s=shop.settings.job_wait_s,
        )  # fmt: skip
        self._why: dict[str, str] = {}  # by batch: what a line was told last that could not be asked
        self._decoders = {place: msgspec.json.Decoder(kind) for place, kind in _BODIES.items()}

    # -- asked by buyers ---------------------------------------------------------------------------------------------

    async def create(self, caller: Caller, file_id: str, endpoint: str, metadata: dict[str, str]) -> Job:
        """Take a batch. Raises 400 with every problem of its file, 402, 403, 404, 409."""
        org_id, now_ms = caller.account.org_id, self._shop.clock.now_ms()
        lines, models = await asyncio.to_thread(self._looked_through, org_id, file_id, endpoint)
        for model in sorted(models):
            self._desk.fleet.find(model, org_id)
            plan = self._desk.access.plan_for(caller, model)
            if plan.terms.overage == "refuse" and plan.terms.batch_percent and plan.terms.charges:
                raise BadRequest(
                    f"The plan {plan.title!r} has no batches: they are paid for, and nothing pays beyond its included units.",
                    code="batch_not_included",
                )
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
        await self._desk.recorder.run(lambda conn: jobs.create(conn, job, batches.BATCHES_MAX))
        self._crew.wake()
        return job

    async def cancel(self, org_id: str, job_id: str) -> Job:
        """End a batch; what was answered is kept and billed. Raises NotFound, Conflict."""
        now_ms = self._shop.clock.now_ms()

        def ask(conn: sa.Connection) -> Job:
            job = jobs.ask_to_cancel(conn, now_ms, KIND, org_id, job_id)
            return jobs.further(conn, job_id, cancelling_ms=now_ms) if job.open else job

        job: Job = await self._desk.recorder.run(ask)
        self._crew.stop(job_id)
        return job

    def _looked_through(self, org_id: str, file_id: str, endpoint: str) -> tuple[int, set[str]]:
        """How many calls a file has, and of which models."""
        found = self._file(org_id, file_id)
        if found.purpose != "batch":
            raise BadRequest(
                f"The file {file_id} was uploaded for {found.purpose}.", param="input_file_id", code="invalid_file"
            )
        path = files.path_of(self._files, found)
        check_batch(path.read_bytes(), endpoint)
        named = msgspec.json.Decoder(_Named)
        return found.lines, {named.decode(line.body).model for _, line in _lines(path)}

    def _file(self, org_id: str, file_id: str) -> files.StoredFile:
        with self._shop.db.read() as conn:
            return files.get(conn, org_id, file_id)

    # -- working them off --------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Run the waiting batches until cancelled; those that an earlier gateway had begun go on."""
        await asyncio.to_thread(files.sweep, self._files)
        await self._crew.work()

    def busy_us(self, job_id: str) -> int:
        """Replicas do the work."""
        return 0

    def put_back(self, job_id: str, busy_us: int) -> None:
        """There is none."""

    async def fail(self, job: Job, error: TollwayError) -> None:
        """End a batch that cannot be worked on any more; what was answered is kept and billed."""
        journal = Journal(self._root / job.id)
        with _room():
            await asyncio.to_thread(journal.open)
        try:
            await self._settle(job, journal)
        finally:
            await journal.close()
        told = {"code": error.code, "message": error.message}
        await self._close(job, journal, "failed", error.said, error=told)

    async def run(self, job: Job, stop: asyncio.Event) -> None:
        """One batch, from where it was to its end."""
        order = batches.order_of(job)
        caller = self._desk.access.caller_of(order.key_id)
        if caller is None:
            raise Conflict(say("batch.key_gone", "The key of this batch is gone."), code="key_gone")
        path = files.path_of(self._files, await asyncio.to_thread(self._file, job.org_id, order.input_file_id))
        journal = Journal(self._root / job.id)
        with _room():
            await asyncio.to_thread(journal.open)
        try:
            await self._settle(job, journal)
            await self._answer(job, order, caller, path, journal, stop)
            await self._settle(job, journal)
        finally:
            await journal.close()
        await self._end(job, order, path, journal, stop)

    async def _answer(
        self, job: Job, order: Order, caller: Caller, path: Path, journal: Journal, stop: asyncio.Event
    ) -> None:
        """Ask for every line that has no answer yet, some at a time, until all have one, or the time or the buyer says to
        stop."""
        places = asyncio.Semaphore(self._shop.settings.batch_calls_at_once)
        noted = asyncio.create_task(self._keep_noting(job, journal))
        try:
            async with asyncio.TaskGroup() as group:
                async for number, line in _read(path):
                    if number in journal.lines:
                        continue
                    await places.acquire()
                    if self._over(order, stop):
                        break
                    work = group.create_task(self._line(job, order, caller, number, line, journal, stop))
                    work.add_done_callback(lambda _: places.release())
        except* TollwayError as group_error:  # the first of them says enough
            raise group_error.exceptions[0] from None
        finally:
            noted.cancel()

    def _over(self, order: Order, stop: asyncio.Event) -> bool:
        return stop.is_set() or self._shop.clock.now_ms() >= order.expires_ms

    async def _line(
        self,
        job: Job,
        order: Order,
        caller: Caller,
        number: int,
        line: BatchLine,
        journal: Journal,
        stop: asyncio.Event,
    ) -> None:
        """One call, tried until it is answered or refused for good."""
        call_id = code_of(job.id, str(number))
        tries = 0
        while not self._over(order, stop):
            try:
                await self._ask(caller, order, call_id, number, line, journal)
                return
            except (Unavailable, RateLimited) as error:
                if number in journal.lines:
                    return  # answered, but not in the books yet: `_settle` sees to that
                if error.code == "recording_failed":
                    raise
                self._why[job.id] = error.message
                tries += error.code in ("engine_lost", "timeout")
                if tries >= _TRIES:
                    with _room():
                        await journal.keep(number, False, _refused(call_id, line, error), None)
                    return
                with_pause = asyncio.wait_for(stop.wait(), min(_PAUSE_MOST_S, error.retry_after_s or 1.0))
                await asyncio.gather(with_pause, return_exceptions=True)
            except TollwayError as error:
                with _room():
                    await journal.keep(number, False, _refused(call_id, line, error), None)
                return

    async def _ask(
        self, caller: Caller, order: Order, call_id: str, number: int, line: BatchLine, journal: Journal
    ) -> None:
        request: Request = decode(self._decoders[order.endpoint], bytes(line.body))
        current = self._desk.access.caller_of(caller.key.id) or caller  # a plan may have changed since, or the key
        self._desk.access.require_valid(current.key)
        call = await open_call(self._desk, current, request, call_id, catalog.BATCH)
        async with call:
            body = shown(call, await call.run.answer())
            row = _row(call_id, line, 200, msgspec.Raw(body))

            async def keep(event: UsageEvent) -> None:
                with _room():
                    await journal.keep(number, True, row, event)

            call.keep = keep

    async def _keep_noting(self, job: Job, journal: Journal) -> None:
        """How far it is, now and then."""
        noted, noted_at, why = len(journal.lines), time.monotonic(), ""
        while True:
            await asyncio.sleep(_NOTE_EVERY_S)
            got, good, bad, now_ms = len(journal.lines), journal.good, journal.bad, self._shop.clock.now_ms()
            try:
                if got != noted:
                    await self._desk.recorder.run(lambda conn: jobs.further(conn, job.id, completed=good, failed=bad))  # noqa: B023
                    noted, noted_at, why = got, time.monotonic(), ""
                elif time.monotonic() - noted_at > _WAITS_AFTER_S and self._why.get(job.id, why) != why:
                    why = self._why[job.id]
                    await self._desk.recorder.run(lambda conn: jobs.waits(conn, now_ms, job.id, why))  # noqa: B023
            except TollwayError as error:
                _log.warning("progress not written", job=job.id, error=error.message)

    async def _settle(self, job: Job, journal: Journal) -> None:
        """Bill what is answered and not billed: a gateway was killed, or the database was away, between the two."""
        for event in await asyncio.to_thread(self._unbilled, journal):
            if not await settling.bill(self._desk, event):
                _log.error("answered, and nobody to bill", job=job.id, event=event.id)

    def _unbilled(self, journal: Journal) -> list[UsageEvent]:
        events = (entry.event for entry in journal.entries() if entry.event is not None)
        found: list[UsageEvent] = []
        while some := list(itertools.islice(events, _CHUNK)):
            with self._shop.db.read() as conn:
                known = usage.recorded(conn, [one.id for one in some])
            found += [one for one in some if one.id not in known]
        return found

    # -- how it ends -------------------------------------------------------------------------------------------------

    async def _end(self, job: Job, order: Order, path: Path, journal: Journal, stop: asyncio.Event) -> None:
        """Every line is answered, or nobody waits any more."""
        if len(journal.lines) >= order.lines:
            await self._close(job, journal, "succeeded", say("batch.done", "The batch is done."))
        elif stop.is_set():
            await self._close(job, journal, "cancelled", say("batch.cancelled", "The batch was cancelled."))
        else:
            why = await self._waited_for(job)
            late = say("batch.expired", "The batch was not done in 24 hours.")
            if why:
                late = say("batch.expired_waiting", "The batch was not done in 24 hours; it waited: {why}", why=why)
            await self._close(job, journal, "expired", late, expired=Rest(path, why))

    async def _waited_for(self, job: Job) -> str:
        """What a batch last waited for, in this gateway or in the one before; "": it was at work."""
        found: Job = await self._desk.recorder.run(lambda conn: jobs.get(conn, job.kind, job.id))
        return self._why.get(job.id) or jobs.waits_for(found)

    async def _close(
        self,
        job: Job,
        journal: Journal,
        status: str,
        message: str,
        *,
        error: dict[str, Any] | None = None,
        expired: Rest | None = None,
    ) -> None:
        """Answers and errors become files of the buyer's, and the batch ends, in one transaction. `expired`: the calls,
        where each that has no answer gets an error."""
        order = batches.order_of(job)
        with _room():
            written = await asyncio.to_thread(self._write, job, journal, expired)
        price = await asyncio.to_thread(self._price, job, order)
        now_ms, bad = self._shop.clock.now_ms(), order.lines - journal.good if expired else journal.bad

        def end(conn: sa.Connection) -> None:
            made: dict[str, Any] = {"completed": journal.good, "failed": bad, "price_picos": price}
            for name, (at, lines) in written.items():
                file_id = f"file_{code_of(job.id, name)}"
                title = f"{job.id}_{name}.jsonl"
                files.keep_made(conn, self._files, now_ms, file_id, job.org_id, order.key_id, title, lines, at)
                made[f"{name}_file_id"] = file_id
            jobs.end(conn, now_ms, job.id, status, message, error=error, **made)

        await self._desk.recorder.run(end)
        self._why.pop(job.id, None)
        await asyncio.to_thread(shutil.rmtree, self._root / job.id, ignore_errors=True)

    def _price(self, job: Job, order: Order) -> int:
        """What all of its answers cost (picos)."""
        event, total = tables.usage_event.c, 0
        ids = [f"evt_{code_of(job.id, str(number))}" for number in range(order.lines)]
        with self._shop.db.read() as conn:
            for begin in range(0, len(ids), _CHUNK):
                query = sa.select(sa.func.sum(event.price_picos)).where(event.id.in_(ids[begin : begin + _CHUNK]))
                total += int(conn.execute(query).scalar() or 0)
        return total

    def _write(self, job: Job, journal: Journal, expired: Rest | None) -> dict[str, tuple[Path, int]]:
        """The output and error files, durable beside the journal; only those that have lines."""
        folder, counts = self._root / job.id, {"output": 0, "error": 0}
        open_files = {name: (folder / f"{name}.jsonl").open("wb") for name in counts}
        try:

            def put(name: str, row: bytes) -> None:
                counts[name] += 1
                open_files[name].write(row + b"\n")

            for entry in _once(journal):
                put("output" if entry.good else "error", bytes(entry.row))
            if expired is not None:
                for number, line in _lines(expired.path):
                    if number not in journal.lines:
                        put("error", msgspec.json.encode(_expired(code_of(job.id, str(number)), line, expired.why)))
            for file in open_files.values():
                file.flush()
                os.fsync(file.fileno())
        finally:
            for file in open_files.values():
                file.close()
        return {name: (folder / f"{name}.jsonl", lines) for name, lines in counts.items() if lines}


class _Named(msgspec.Struct):
    model: str


_line = msgspec.json.Decoder(BatchLine)


def _lines(path: Path) -> Iterator[tuple[int, BatchLine]]:
    """The calls of a checked file, numbered."""
    number = 0
    with path.open("rb") as file:
        for text in file:
            if text.strip():
                yield number, _line.decode(text)
                number += 1


async def _read(path: Path) -> AsyncIterator[tuple[int, BatchLine]]:
    """The same, read in a thread some at a time."""
    lines = _lines(path)
    while some := await asyncio.to_thread(lambda: list(itertools.islice(lines, _CHUNK))):
        for one in some:
            yield one


def _once(journal: Journal) -> Iterator[Entry]:
    """Each line's first answer."""
    seen: set[int] = set()
    for entry in journal.entries():
        if entry.line not in seen:
            seen.add(entry.line)
            yield entry


@contextmanager
def _room() -> Iterator[None]:
    """A disk that is full has room later."""
    try:
        yield
    except OSError as error:
        raise Unavailable(say("batch.not_kept", "An answer could not be kept."), code="recording_failed") from error


def _row(call_id: str, line: BatchLine, status: int, body: Any) -> dict[str, Any]:
    response = {"status_code": status, "request_id": f"req_{call_id}", "body": body}
    return {"id": f"batch_req_{call_id}", "custom_id": line.custom_id, "response": response, "error": None}


def _refused(call_id: str, line: BatchLine, error: TollwayError) -> dict[str, Any]:
    return _row(call_id, line, error.status, {"error": error.shown()})


def _expired(call_id: str, line: BatchLine, why: str) -> dict[str, Any]:
    message = f"This request could not be executed before the batch expired. {why}".rstrip()
    error = {"code": "batch_expired", "message": message}
    return {"id": f"batch_req_{call_id}", "custom_id": line.custom_id, "response": None, "error": error}
