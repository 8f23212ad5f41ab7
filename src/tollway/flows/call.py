"""One call in the making: its grant, its engine calls, its tally; opened, run and closed exactly once.

`flows/answer.py` is the story; this is its protagonist. Leaving the `async with` block closes the call whatever happened:

    left normally            the answer is complete             billed, event status "ok"
    the caller went away     the engine was stopped             what was generated is billed (the plan may say "free")
    a stream took too long   the engine was stopped             the same: the caller has it
    anything else            we failed                          nothing is billed, everything held is given back
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from tollway.kit import log
from tollway.kit.clock import Clock
from tollway.kit.crash import crashpoint
from tollway.kit.delays import Delays
from tollway.kit.errors import RateLimited, Unavailable
from tollway.kit.ids import new_code
from tollway.sell.access import Access, Caller, Grant
from tollway.sell.metering import Recorder, UsageEvent
from tollway.serve import engine_call, fold
from tollway.serve.engine_call import Tally
from tollway.serve.fleet import Fleet, Served, Size
from tollway.serve.line import Seat
from tollway.serve.requests import ChatRequest, CompletionRequest, Request
from tollway.serve.wire import WireError
from tollway.watch.metrics import Metrics

_log = log.get("flows.call")


class Desk(msgspec.Struct):
    """The parts of the running shop that a call passes through."""

    clock: Clock
    access: Access
    recorder: Recorder
    fleet: Fleet
    metrics: Metrics
    call_timeout_s: float
    deadlines: Delays = msgspec.field(default_factory=lambda: Delays(0))

    def __post_init__(self) -> None:
        self.deadlines = Delays(self.call_timeout_s)


def refuse_suspect(served: Served, caller: Caller, request: Request) -> None:
    """Raise RateLimited for a constrained call of those whose constrained calls were in the engine when it was lost."""
    if not request.constrained:
        return
    wait_s = served.suspects.wait_s(caller.account.org_id, time.monotonic())
    if wait_s > 0:
        raise RateLimited(
            "The engine was lost more than once while it held an answer of this organization to a schema or to tools.",
            code="constrained_calls_paused",
            hint="Calls without response_format and tools go on; simplify the schema.",
            retry_after_s=wait_s,
        )


class Call:
    """A caller's request with what was set aside for it."""

    def __init__(self, desk: Desk, served: Served, request: Request, size: Size, grant: Grant, call_id: str) -> None:
        self.desk, self.served, self.request, self.size, self.grant = desk, served, request, size, grant
        self.id = call_id
        self.at_ms = desk.clock.now_ms()
        self.began = time.monotonic()
        stream = bool(request.stream) or (not served.passes_through and request.generates)
        each = size.output_tokens // size.parts
        self.work = request.work(served.engine_model, served.caps, each, stream=stream, defaults=served.defaults)
        self.tallies = [Tally() for _ in self.work]
        self.price_picos: int | None = None
        self._in_engine = 0
        self._closed = False
        self._left = False
        self._expired = False  # it took too long and was stopped
        self._head: dict[str, Any] = {}  # id and time of the engine's own stream

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        self._deadline = self.desk.deadlines.start(self._expire)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.desk.deadlines.cancel(self._deadline)
        self._left = True
        if kind is None:
            await self.close("ok")
        elif self._expired and issubclass(kind, asyncio.CancelledError):
            if self._task is not None:
                self._task.uncancel()
            shown = bool(self.request.stream) and self.counts()[2] > 0
            await self.close("aborted" if shown else "failed")
            billed = "what was generated is billed" if shown else "nothing was billed"
            raise Unavailable(f"The call took too long and was stopped; {billed}.", code="timeout") from error
        elif issubclass(kind, asyncio.CancelledError | GeneratorExit):
            await self.close("aborted")
        else:
            await self.close("failed")

    def _expire(self) -> None:
        if self._task is not None and not self._left:
            self._expired = True
            self._task.cancel()

    # -- run ---------------------------------------------------------------------------------------------------------

    async def whole(self, index: int) -> bytes:
        """Run one engine call that answers in one piece. Tried twice if the engine goes away."""
        for attempt in (1, 2):
            seat = await self._sit(index)
            try:
                return await engine_call.once(seat, self.work[index], self.tallies[index])
            except WireError as error:
                self._went_away(seat, error, final=attempt == 2)
            finally:
                self._stand(index, seat)
        raise AssertionError("unreachable")

    async def to_its_end(self, index: int) -> bytes:
        """`whole` for an engine that cannot be stopped: when the caller leaves, the seat and what is held for the call
        stay taken until the engine has done its work, which is then billed. Else leaving would be a way to use it free."""
        work = asyncio.ensure_future(self.whole(index))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if self._in_engine and not self._expired:
                await asyncio.wait({work})
            raise
        finally:
            await _stop([work])

    async def folded(self, index: int) -> fold.Folded:
        """Run one streamed engine call and fold it. Tried twice: nothing has reached the caller."""
        for attempt in (1, 2):
            seat = await self._sit(index)
            choice = fold.Folded()
            try:
                async for events in engine_call.relay(seat, self.work[index], self.tallies[index]):
                    for event in events:
                        choice.add(event)
                return choice
            except WireError as error:
                self._went_away(seat, error, final=attempt == 2)
            finally:
                self._stand(index, seat)
        raise AssertionError("unreachable")

    async def relayed(self, index: int) -> AsyncIterator[list[bytes]]:
        """Run one streamed engine call and pass its events on. Tried twice only until the first event."""
        for attempt in (1, 2):
            seat = await self._sit(index)
            started = False
            try:
                async for events in engine_call.relay(seat, self.work[index], self.tallies[index]):
                    if not started:
                        started, self._head = True, fold.head_of(events[0])
                    yield [self.renamed(event) for event in events] if self.served.renames else events
                return
            except WireError as error:
                self._went_away(seat, error, final=started or attempt == 2)
            finally:
                self._stand(index, seat)

    async def woven(self) -> AsyncIterator[list[bytes]]:
        """Run all engine calls of a streamed answer at once, each event with its choice's index."""
        assert isinstance(self.request, ChatRequest | CompletionRequest)
        arrived = asyncio.Queue[tuple[int, list[bytes]] | BaseException | None]()
        weave = fold.Weave(self.id, self.at_ms // 1000, self.request)

        async def run(index: int) -> None:
            try:
                async for events in self.relayed(index):
                    arrived.put_nowait((index, events))
            except Exception as error:
                arrived.put_nowait(error)
                raise
            arrived.put_nowait(None)

        tasks = [asyncio.ensure_future(run(index)) for index in range(len(self.work))]
        try:
            open_parts = len(tasks)
            while open_parts:
                came = await arrived.get()
                if isinstance(came, BaseException):
                    raise came
                if came is None:
                    open_parts -= 1
                else:
                    yield [weave.event(event, came[0]) for event in came[1]]
        finally:
            await _stop(tasks)

    async def all_folded(self) -> list[fold.Folded]:
        """Run all engine calls of one answer at once and fold each."""
        if len(self.work) == 1:
            return [await self.folded(0)]
        tasks = [asyncio.ensure_future(self.folded(index)) for index in range(len(self.work))]
        try:
            return await asyncio.gather(*tasks)
        finally:
            await _stop(tasks)

    async def _sit(self, index: int) -> Seat:
        seat = await self.served.line.take(self.grant.caller.account.org_id, self.size.tokens_each)
        self._in_engine += 1
        if self.request.constrained:
            self.served.suspects.enter(self.grant.caller.account.org_id)
        tally = self.tallies[index] = Tally()
        if seat.time is not None:
            tally.stint = seat.time.enter(time.monotonic())
        return seat

    def _stand(self, index: int, seat: Seat) -> None:
        tally = self.tallies[index]
        if seat.time is not None and tally.stint is not None:
            tally.prefill_us, tally.decode_us = seat.time.leave(tally.stint, time.monotonic())
            tally.time = seat.time
        tally.version = seat.version
        self._in_engine -= 1
        if self.request.constrained:
            cut_off = isinstance(sys.exc_info()[1], WireError | Unavailable | asyncio.CancelledError | GeneratorExit)
            org_id = self.grant.caller.account.org_id
            self.served.suspects.leave(org_id, time.monotonic(), finished=not cut_off)
        self.served.line.leave(seat, self.size.tokens_each)

    def _went_away(self, seat: Seat, error: WireError, *, final: bool) -> None:
        final = final or self.request.constrained  # it may be what the engine died of
        self.served.suspect(seat)
        if not final:
            self.desk.metrics.retries.inc()
        _log.warning("engine went away", model=self.request.model, error=str(error), final=final)
        if final:
            raise Unavailable(
                "The engine stopped while answering; nothing was billed.",
                code="engine_lost",
                hint="Try again.",
                retry_after_s=2,
            ) from error

    # -- close -------------------------------------------------------------------------------------------------------

    async def close(self, status: str) -> None:
        """Record and settle, or give back. Only the first close counts; it returns when the event is durable."""
        if self._closed:
            return
        self._closed = True
        counts = self.counts()
        generated = status == "ok" or (
            status == "aborted"
            and self.grant.plan.terms.aborted == "bill"
            and (counts[2] > 0 or (not self.request.generates and self._answered()))
        )
        for tally in self.tallies:
            if tally.time is not None:
                tally.time.book(tally.prefill_us + tally.decode_us, billed=generated)
        self._observe(status, counts)
        if not generated:
            crashpoint("call.before_release")
            self.desk.access.release(self.grant)
            return
        crashpoint("call.before_settle")
        event = self._settle(status, counts)
        crashpoint("call.before_record")
        wallet = self.grant.plan.terms.currency if self.grant.wallet else None
        await self.desk.recorder.record(event, wallet, lambda: self._unsettle(event))
        crashpoint("call.after_record")

    def counts(self) -> tuple[int, int, int]:
        """(input, cached, output) tokens of the whole call, never more than was held, whatever an upstream says it used:
        a wallet cannot be overdrawn. Choices of one prompt share its input, as callers expect."""
        size = self.size
        if len(self.tallies) == 1:
            fresh, cached, output = self.tallies[0].counts(size.input_tokens)
            cached = min(cached, size.input_tokens)
            return min(fresh, size.input_tokens - cached), cached, min(output, size.output_tokens)
        per_part = [tally.counts(self.size.input_tokens) for tally in self.tallies]
        firsts = per_part[:: self.request.choices] if self.request.generates else per_part
        output = min(sum(part[2] for part in per_part), self.size.output_tokens)
        cached = min(sum(part[1] for part in firsts), self.size.input_tokens)
        fresh = min(sum(part[0] for part in firsts), self.size.input_tokens - cached)
        return fresh, cached, output

    def usage(self) -> dict[str, Any]:
        """The usage object of the answer."""
        fresh, cached, output = self.counts()
        usage: dict[str, Any] = {"prompt_tokens": fresh + cached, "total_tokens": fresh + cached + output}
        if self.request.generates:
            usage |= {"completion_tokens": output, "prompt_tokens_details": {"cached_tokens": cached}}
        return usage | self.counted()

    def counted(self) -> dict[str, int]:
        """What is used besides tokens."""
        return {self.size.meter: self.size.units} if self.size.meter else {}

    def _answered(self) -> bool:
        """Whether an engine that answers in one piece has done its work."""
        return all(tally.usage is not None for tally in self.tallies)

    def corrected(self, answer: bytes) -> bytes:
        """An engine's whole answer with the usage that is billed, should the engine have counted otherwise."""
        if self.tallies[0].counts(self.size.input_tokens) == self.counts():
            return answer
        return msgspec.json.encode(msgspec.json.decode(answer) | {"usage": self.usage()})

    def last_events(self) -> list[bytes]:
        """What ends a stream: usage, if it was asked for, and [DONE]."""
        options = self.request.stream_options if isinstance(self.request, ChatRequest | CompletionRequest) else None
        if options is None or not options.include_usage:
            return [b"[DONE]"]
        chat = isinstance(self.request, ChatRequest)
        usage: dict[str, Any] = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{self.id}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": self.at_ms // 1000,
            "model": self.request.model,
            "choices": [],
            "usage": self.usage(),
        }
        if chat and len(self.work) == 1:
            usage |= self._head  # its events were passed on as they came
        return [msgspec.json.encode(usage), b"[DONE]"]

    def renamed(self, answer: bytes) -> bytes:
        """The answer under the name the caller used."""
        if not self.served.renames:
            return answer
        return answer.replace(
            b'"model":"%b"' % self.served.engine_model.encode(), b'"model":"%b"' % self.request.model.encode(), 1
        )

    def first_piece_at(self) -> float | None:
        """When the first piece came (monotonic), of any choice."""
        return min((tally.first_piece_at for tally in self.tallies if tally.first_piece_at is not None), default=None)

    def _observe(self, status: str, counts: tuple[int, int, int]) -> None:
        now, first = time.monotonic(), self.first_piece_at()
        first_s = None if first is None else first - self.began
        tokens = (counts[0] + counts[1], counts[2])
        self.desk.metrics.call(self.request.operation, self.request.model, status, now - self.began, first_s, tokens)

    def _unsettle(self, event: UsageEvent) -> None:
        """The event could not be kept."""
        self.desk.access.unsettle(self.grant, event.quantities(), event.price_picos)

    def _settle(self, status: str, counts: tuple[int, int, int]) -> UsageEvent:
        fresh, cached, output = counts
        grant, account = self.grant, self.grant.caller.account
        self.price_picos = self.desk.access.settle(grant, _quantities(fresh, cached, output) | self.counted())
        first = self.first_piece_at()
        return UsageEvent(
            id=f"evt_{self.id}",
            request_id=f"req_{self.id}",
            org_id=account.org_id,
            key_id=grant.caller.key.id,
            subscription_id=grant.subscription_id,
            plan_version_id=grant.plan.id,
            model=self.request.model,
            model_version=self.tallies[0].version,
            operation=self.request.operation,
            status=status,
            at_ms=self.at_ms,
            input_tokens=fresh,
            cached_tokens=cached,
            output_tokens=output,
            price_picos=self.price_picos,
            prefill_us=sum(tally.prefill_us for tally in self.tallies),
            decode_us=sum(tally.decode_us for tally in self.tallies),
            first_token_us=round((first - self.began) * 1e6) if first is not None else None,
            duration_us=round((time.monotonic() - self.began) * 1e6),
            streamed=bool(self.request.stream),
            meter=self.size.meter,
            units=self.size.units,
        )


def _quantities(fresh: int, cached: int, output: int) -> dict[str, int]:
    return {"input_tokens": fresh, "cached_tokens": cached, "output_tokens": output, "requests": 1}


async def _stop(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel what still runs and wait until it has stopped; its outcome was already dealt with."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def new_call_id() -> str:
    """The id of a call: its event is evt_ID, its request req_ID."""
    return new_code()
