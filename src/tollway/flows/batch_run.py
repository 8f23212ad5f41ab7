"""One batch in work: every line that has no answer yet is asked for, what is answered is billed, and the batch ends.

It goes on where its journal says: an answer is durable there before its usage event is recorded, and the event's id follows
from batch and line. What could not be written down, because the disk is full or the database away, is tried again later.
"""

import asyncio
import itertools
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from tollway.flows import batch_files, settling, uploads
from tollway.flows.answer import open_call, shown
from tollway.flows.batch_files import BatchLine, Rest
from tollway.flows.batch_journal import Journal
from tollway.flows.call import Service
from tollway.kit import jobs, log
from tollway.kit.decoding import decode
from tollway.kit.errors import Conflict, RateLimited, TollwayError, Unavailable
from tollway.kit.jobs import Job
from tollway.kit.said import say
from tollway.sell import batches, catalog, files, tables, usage
from tollway.sell.access import Caller
from tollway.sell.batches import code_of
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
_DECODERS: Final = {place: msgspec.json.Decoder(kind) for place, kind in _BODIES.items()}


class BatchRun:
    """A batch, from where it was to its end. `waited`: by batch, what a line was told last that could not be asked; it
    outlives this run. `stop` is set when the buyer ends it."""

    def __init__(
        self, shop: Shop, service: Service, job: Job, waited: dict[str, str], stop: asyncio.Event | None = None
    ) -> None:
        self._shop, self._service, self._job, self._waited = shop, service, job, waited
        self._stop = stop or asyncio.Event()
        self._order, self._files = batches.order_of(job), uploads.root_of(shop)
        self._folder = Path(shop.settings.home) / "batches" / job.id
        self._journal = Journal(self._folder)

    async def run(self) -> None:
        """Answer, bill, end."""
        caller = self._service.access.caller_of(self._order.key_id)
        if caller is None:
            raise Conflict(say("batch.key_gone", "The key of this batch is gone."), code="key_gone")
        path = await asyncio.to_thread(self._input)
        await self._open()
        try:
            await self._settle()
            await self._answer(caller, path)
            await self._settle()
        finally:
            await self._journal.close()
        await self._end(path)

    async def fail(self, error: TollwayError) -> None:
        """It cannot be worked on any more; what was answered is kept and billed."""
        await self._open()
        try:
            await self._settle()
        finally:
            await self._journal.close()
        await self._close("failed", error.said, error={"code": error.code, "message": error.message})

    def _input(self) -> Path:
        with self._shop.db.read() as conn:
            return files.path_of(self._files, files.get(conn, self._job.org_id, self._order.input_file_id))

    async def _open(self) -> None:
        with _room():
            await asyncio.to_thread(self._journal.open)

    # -- its lines ---------------------------------------------------------------------------------------------------

    async def _answer(self, caller: Caller, path: Path) -> None:
        """Ask for every line that has no answer yet, some at a time, until all have one, or the time or the buyer says to
        stop."""
        places = asyncio.Semaphore(self._shop.settings.batch_calls_at_once)
        noted = asyncio.create_task(self._keep_noting())
        try:
            async with asyncio.TaskGroup() as group:
                async for number, line in batch_files.read(path):
                    if number in self._journal.lines:
                        continue
                    await places.acquire()
                    if self._over():
                        break
                    work = group.create_task(self._line(caller, number, line))
                    work.add_done_callback(lambda _: places.release())
        except* TollwayError as group_error:  # the first of them says enough
            raise group_error.exceptions[0] from None
        finally:
            noted.cancel()

    def _over(self) -> bool:
        return self._stop.is_set() or self._shop.clock.now_ms() >= self._order.expires_ms

    async def _line(self, caller: Caller, number: int, line: BatchLine) -> None:
        """One call, tried until it is answered or refused for good."""
        call_id = code_of(self._job.id, str(number))
        tries = 0
        while not self._over():
            try:
                await self._ask(caller, call_id, number, line)
                return
            except (Unavailable, RateLimited) as error:
                if number in self._journal.lines:
                    return  # answered, but not in the books yet: `_settle` sees to that
                if error.code == "recording_failed":
                    raise
                self._waited[self._job.id] = error.message
                tries += error.code in ("engine_lost", "timeout")
                if tries >= _TRIES:
                    await self._refuse(call_id, number, line, error)
                    return
                with_pause = asyncio.wait_for(self._stop.wait(), min(_PAUSE_MOST_S, error.retry_after_s or 1.0))
                await asyncio.gather(with_pause, return_exceptions=True)
            except TollwayError as error:
                await self._refuse(call_id, number, line, error)
                return

    async def _ask(self, caller: Caller, call_id: str, number: int, line: BatchLine) -> None:
        request: Request = decode(_DECODERS[self._order.endpoint], bytes(line.body))
        current = self._service.access.caller_of(caller.key.id) or caller  # a plan may have changed since, or the key
        self._service.access.require_valid(current.key)
        call = await open_call(self._service, current, request, call_id, catalog.BATCH)
        async with call:
            body = shown(call, await call.run.answer())
            row = batch_files.row(call_id, line, 200, msgspec.Raw(body))

            async def keep(event: UsageEvent) -> None:
                with _room():
                    await self._journal.keep(number, True, row, event)

            call.keep = keep

    async def _refuse(self, call_id: str, number: int, line: BatchLine, error: TollwayError) -> None:
        with _room():
            await self._journal.keep(number, False, batch_files.refused(call_id, line, error), None)

    async def _keep_noting(self) -> None:
        """How far it is, now and then."""
        journal, job_id = self._journal, self._job.id
        noted, noted_at, why = len(journal.lines), time.monotonic(), ""
        while True:
            await asyncio.sleep(_NOTE_EVERY_S)
            got, good, bad, now_ms = len(journal.lines), journal.good, journal.bad, self._shop.clock.now_ms()
            try:
                if got != noted:
                    await self._service.recorder.run(lambda conn: jobs.further(conn, job_id, completed=good, failed=bad))  # noqa: B023
                    noted, noted_at, why = got, time.monotonic(), ""
                elif time.monotonic() - noted_at > _WAITS_AFTER_S and self._waited.get(job_id, why) != why:
                    why = self._waited[job_id]
                    await self._service.recorder.run(lambda conn: jobs.waits(conn, now_ms, job_id, why))  # noqa: B023
            except TollwayError as error:
                _log.warning("progress not written", job=job_id, error=error.message)

    # -- its bill ----------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Bill what is answered and not billed: a gateway was killed, or the database was away, between the two."""
        for event in await asyncio.to_thread(self._unbilled):
            if not await settling.bill(self._service, event):
                _log.error("answered, and nobody to bill", job=self._job.id, event=event.id)

    def _unbilled(self) -> list[UsageEvent]:
        events = (entry.event for entry in self._journal.entries() if entry.event is not None)
        found: list[UsageEvent] = []
        while some := list(itertools.islice(events, _CHUNK)):
            with self._shop.db.read() as conn:
                known = usage.recorded(conn, [one.id for one in some])
            found += [one for one in some if one.id not in known]
        return found

    def _price(self) -> int:
        """What all of its answers cost (picos)."""
        event, total = tables.usage_event.c, 0
        ids = [f"evt_{code_of(self._job.id, str(number))}" for number in range(self._order.lines)]
        with self._shop.db.read() as conn:
            for begin in range(0, len(ids), _CHUNK):
                query = sa.select(sa.func.sum(event.price_picos)).where(event.id.in_(ids[begin : begin + _CHUNK]))
                total += int(conn.execute(query).scalar() or 0)
        return total

    # -- how it ends -------------------------------------------------------------------------------------------------

    async def _end(self, path: Path) -> None:
        """Every line is answered, or nobody waits any more."""
        if len(self._journal.lines) >= self._order.lines:
            await self._close("succeeded", say("batch.done", "The batch is done."))
        elif self._stop.is_set():
            await self._close("cancelled", say("batch.cancelled", "The batch was cancelled."))
        else:
            why = await self._waited_for()
            late = say("batch.expired", "The batch was not done in 24 hours.")
            if why:
                late = say("batch.expired_waiting", "The batch was not done in 24 hours; it waited: {why}", why=why)
            await self._close("expired", late, expired=Rest(path, why))

    async def _waited_for(self) -> str:
        """What it last waited for, in this gateway or in the one before; "": it was at work."""
        found: Job = await self._service.recorder.run(lambda conn: jobs.get(conn, self._job.kind, self._job.id))
        return self._waited.get(self._job.id) or jobs.waits_for(found)

    async def _close(
        self, status: str, message: str, *, error: dict[str, Any] | None = None, expired: Rest | None = None
    ) -> None:
        """Answers and errors become files of the buyer's, and the batch ends, in one transaction. `expired`: the calls,
        where each that has no answer gets an error."""
        job, order, journal = self._job, self._order, self._journal
        with _room():
            written = await asyncio.to_thread(batch_files.write, self._folder, job.id, journal, expired)
        price = await asyncio.to_thread(self._price)
        now_ms, bad = self._shop.clock.now_ms(), order.lines - journal.good if expired else journal.bad

        def end(conn: sa.Connection) -> None:
            made: dict[str, Any] = {"completed": journal.good, "failed": bad, "price_picos": price}
            for name, (at, lines) in written.items():
                file_id = f"file_{code_of(job.id, name)}"
                title = f"{job.id}_{name}.jsonl"
                files.keep_made(conn, self._files, now_ms, file_id, job.org_id, order.key_id, title, lines, at)
                made[f"{name}_file_id"] = file_id
            jobs.end(conn, now_ms, job.id, status, message, error=error, **made)

        await self._service.recorder.run(end)
        self._waited.pop(job.id, None)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


@contextmanager
def _room() -> Iterator[None]:
    """A disk that is full has room later."""
    try:
        yield
    except OSError as error:
        raise Unavailable(say("batch.not_kept", "An answer could not be kept."), code="recording_failed") from error
