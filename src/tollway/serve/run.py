"""A request's way through the engine: its seats, its engine calls, its answer, and the tally of what they used.

    run = Run(served, request, size, org_id, call_id, at_ms)
    raw = await run.answer()                      one piece          async for events in run.events(): …      a stream
    run.counts(), run.usage(), run.tallies        what was used, whenever it ends and however

Nothing here knows prices or wallets; `org_id` is for turns in the line. A call whose engine fails is tried again, on
another replica if there is one, as long as nothing of its answer has reached the caller and the budget for second tries
is not used up. Leaving early stops the engine.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from itertools import count
from typing import Any

import msgspec

from tollway.kit import log
from tollway.kit.errors import BadRequest, Unavailable
from tollway.serve import fold
from tollway.serve.engine_call import Tally, once, relay
from tollway.serve.line import Seat, Turn
from tollway.serve.requests import ChatRequest, CompletionRequest, Request, StreamOptions
from tollway.serve.requests.parts import EngineCall
from tollway.serve.retries import TRIES_MAX, Patience
from tollway.serve.served import Served
from tollway.serve.sizing import Size
from tollway.serve.wire import WireError

_log = log.get("serve.run")
_FAULTS = ("engine_failed", "engine_busy")  # what an engine answers that another one need not


class Run:
    """One request in the engine: one engine call, or one for each choice and prompt, or for some of its inputs each."""

    def __init__(
        self,
        served: Served,
        request: Request,
        size: Size,
        org_id: str,
        call_id: str,
        at_ms: int,
        turn: Turn | None = None,
    ) -> None:
        self.served, self.request, self.size, self.org_id = served, request, size, org_id
        self.turn = turn or Turn(org_id)
        self._constrained = request.constrained
        self._seat: Seat | None = None
        self.id, self.at_ms = call_id, at_ms
        stream = bool(request.stream) or (not served.passes_through and request.generates)
        each = size.output_tokens // size.parts
        self.engine_calls = request.engine_calls(
            served.engine_model, served.caps, each, stream=stream, defaults=served.defaults
        )
        self.tallies = [Tally() for _ in self.engine_calls]
        # what one of its engine calls takes a seat for; of a request in pieces, its part of the whole
        self._tokens = size.tokens_each if request.generates else -(-size.tokens_each // len(self.engine_calls))
        self.retries = 0
        self.expired = False  # it took too long and is being stopped
        self._in_engine = 0
        self._doubted: dict[int, Seat] = {}  # where an engine call met an error, until another replica has answered it
        self._head: dict[str, Any] = {}  # id and time of the engine's own stream

    async def answer(self) -> bytes:
        """The whole answer, with the usage that is billed. Raises Unavailable (503)."""
        served, request, alone = self.served, self.request, len(self.engine_calls) == 1
        in_one_piece = alone and (served.passes_through or not served.caps.cancel)
        if isinstance(request, ChatRequest | CompletionRequest) and not in_one_piece:
            return fold.whole(request, await self._all_folded(), self.id, self.at_ms // 1000, self.usage())
        parts = []
        # one after the other: between two of them it is somebody else's turn
        for index in range(len(self.engine_calls)):
            parts.append(await (self._whole(index) if served.caps.cancel else self._to_its_end(index)))
        return self._corrected(parts[0]) if alone else fold.joined(parts, self.usage())

    def events(self) -> AsyncGenerator[list[bytes]]:
        """The events of a streamed answer as they come, all but `last_events`."""
        events = self._relayed(0) if len(self.engine_calls) == 1 and self.request.operation == "chat" else self._woven()
        options = self._stream_options()
        return self._counting(events) if options is not None and options.continuous_usage_stats else events

    async def _counting(self, events: AsyncGenerator[list[bytes]]) -> AsyncGenerator[list[bytes]]:
        """The same events, each with the usage so far."""
        async with contextlib.aclosing(events):
            async for group in events:
                usage = msgspec.json.encode(self.usage())
                yield [b'%b,"usage":%b}' % (event[:-1], usage) for event in group]

    async def _whole(self, index: int) -> bytes:
        """Run one engine call that answers in one piece. Tried again if the engine fails."""
        seat: Seat | None = None
        for attempt in count(1):
            seat, done = await self._sit(index, seat), False
            try:
                call = self._in_turn(self.engine_calls[index]) if self.served.caps.turns else self.engine_calls[index]
                patience_s = self._patience_s(index, attempt, seat, whole=True)
                if patience_s is None:
                    answer = await once(seat, call, self.tallies[index])
                else:
                    async with asyncio.timeout(patience_s):
                        answer = await once(seat, call, self.tallies[index])
                done = True
                return answer
            except (WireError, Unavailable, TimeoutError) as error:
                self._failed(index, seat, error, final=attempt == TRIES_MAX)
            finally:
                self._stand(index, seat, done=done)
        raise AssertionError("unreachable")

    async def _to_its_end(self, index: int) -> bytes:
        """`whole` for an engine that cannot be stopped: when the caller leaves, the seat and what is held for the call
        stay taken until the engine has done its work, which is then billed. Else leaving would be a way to use it free.
        An engine that can is told, and does not begin what it has not begun."""
        work = asyncio.ensure_future(self._whole(index))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if self._in_engine and not self.expired:
                await self._recall()
                await asyncio.wait({work})
            raise
        finally:
            await _stop([work])

    async def _folded(self, index: int) -> fold.Folded:
        """Run one streamed engine call and fold it. Tried again: nothing has reached the caller."""
        seat: Seat | None = None
        for attempt in count(1):
            seat, done = await self._sit(index, seat), False
            choice = fold.Folded()
            try:
                async for events in self._pieces(index, seat, self._patience_s(index, attempt, seat, whole=False)):
                    for event in events:
                        choice.add(event)
                done = True
                return choice
            except (WireError, Unavailable, TimeoutError) as error:
                self._failed(index, seat, error, final=attempt == TRIES_MAX)
            finally:
                self._stand(index, seat, done=done)
        raise AssertionError("unreachable")

    async def _relayed(self, index: int) -> AsyncGenerator[list[bytes]]:
        """Run one streamed engine call and pass its events on. Tried again only until the first event."""
        seat: Seat | None = None
        started = False
        for attempt in count(1):
            seat, done = await self._sit(index, seat), False
            try:
                async for events in self._pieces(index, seat, self._patience_s(index, attempt, seat, whole=False)):
                    if not started:
                        started, self._head = True, fold.head_of(events[0])
                    yield [self.renamed(event) for event in events] if self.served.renames else events
                done = True
                return
            except (WireError, Unavailable, TimeoutError) as error:
                self._failed(index, seat, error, final=started or attempt == TRIES_MAX)
            finally:
                self._stand(index, seat, done=done)

    def _pieces(self, index: int, seat: Seat, patience_s: float | None) -> AsyncIterator[list[bytes]]:
        events = relay(seat, self.engine_calls[index], self.tallies[index])
        return events if patience_s is None else _begun_within(events, patience_s)

    async def _woven(self) -> AsyncGenerator[list[bytes]]:
        """Run all engine calls of a streamed answer at once, each event with its choice's index."""
        assert isinstance(self.request, ChatRequest | CompletionRequest)
        arrived = asyncio.Queue[tuple[int, list[bytes]] | BaseException | None]()
        weave = fold.Weave(self.id, self.at_ms // 1000, self.request)

        async def run(index: int) -> None:
            try:
                async for events in self._relayed(index):
                    arrived.put_nowait((index, events))
            except Exception as error:
                arrived.put_nowait(error)
                raise
            arrived.put_nowait(None)

        tasks = [asyncio.ensure_future(run(index)) for index in range(len(self.engine_calls))]
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

    async def _all_folded(self) -> list[fold.Folded]:
        """Run all engine calls of one answer at once and fold each."""
        if len(self.engine_calls) == 1:
            return [await self._folded(0)]
        tasks = [asyncio.ensure_future(self._folded(index)) for index in range(len(self.engine_calls))]
        try:
            return await asyncio.gather(*tasks)
        finally:
            await _stop(tasks)

    async def _sit(self, index: int, avoid: Seat | None) -> Seat:
        served, tokens = self.served, self._tokens
        line, tally = served.line, Tally()
        if served.away:
            served.come(self.turn)
        if served.quarantine.marks:
            tally.guest = await served.quarantine.enter(self.engine_calls[index].body, time.monotonic())
        try:
            seat = line.take_at_once(tokens, avoid, self.turn) or await line.take_turn(tokens, self.turn, avoid)
        except BaseException:
            if tally.guest is not None:
                served.quarantine.leave(tally.guest, answered=False)
            raise
        self._in_engine += 1
        self._seat = seat
        if self._constrained:
            served.suspects.enter(self.org_id)
        self.tallies[index] = tally
        tally.sat_at = now = time.monotonic()
        tally.life = (id(seat), seat.life)
        if tally.guest is not None:
            tally.guest.life = tally.life
        if seat.time is not None:
            tally.stint = seat.time.enter(now)
        if avoid is None:
            served.retries.earn()
        return seat

    def _stand(self, index: int, seat: Seat, *, done: bool) -> None:
        tally, served, now = self.tallies[index], self.served, time.monotonic()
        if seat.time is not None and tally.stint is not None:
            tally.prefill_us, tally.decode_us = seat.time.leave(tally.stint, now)
            tally.time = seat.time
        tally.version = seat.version
        self._in_engine -= 1
        served.stats.calls += 1
        error = None if done else sys.exc_info()[1]
        if self._constrained:
            cut_off = isinstance(error, WireError | Unavailable | asyncio.CancelledError | GeneratorExit)
            served.suspects.leave(self.org_id, now, finished=not cut_off)
        if tally.guest is not None:
            served.quarantine.leave(tally.guest, answered=done)
        if done:
            served.went_well(seat, tally, now)
            if self._doubted:
                self._settle_doubt(index, seat)
        elif isinstance(error, BadRequest):
            served.stats.refused += 1
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            if self.expired:
                served.went_wrong()
                self._give_up(index)
                if self._waited_too_long(index):
                    served.fault(seat)
            else:
                served.stats.left += 1
        cost = self._cost(tally, done=done)
        served.line.leave(seat, self._tokens, turn=self.turn, cost=cost, cut_off=not done)

    def _blame(self, index: int, seat: Seat, error: Exception) -> None:
        """Whose fault it is. A lost connection is the replica's, and silence for longer than anybody needs; an error may
        be the request's: that shows when another replica answers it. Else one caller could have replicas ejected."""
        if isinstance(error, WireError):
            self.served.fault(seat, gone=True)
        elif isinstance(error, TimeoutError):
            self._patience.give_up(time.monotonic() - self.tallies[index].sat_at)
            self._give_up(index)
            if self._waited_too_long(index):
                self.served.fault(seat)
        else:
            self._doubted.setdefault(index, seat)

    def _give_up(self, index: int) -> None:
        """Nobody waits for this try any more. Where rows of several calls make a batch, the engine may be at it still."""
        if self.served.caps.turns:
            tally, now = self.tallies[index], time.monotonic()
            self.served.quarantine.give_up(self.id, self.engine_calls[index].body, tally.life, tally.sat_at, now)

    def _settle_doubt(self, index: int, seat: Seat) -> None:
        doubted = self._doubted.pop(index, None)
        if doubted is not None and doubted is not seat:
            self.served.fault(doubted)

    @property
    def _patience(self) -> Patience:
        return self.served.first_piece if self.request.generates else self.served.whole_answer

    def _waited_too_long(self, index: int) -> bool:
        """Whether nothing came for longer than the slowest of calls take, however little time this one had."""
        tally = self.tallies[index]
        waited_s = time.monotonic() - tally.sat_at
        return tally.first_piece_at is None and waited_s >= self._patience.within_s * 0.99

    def _in_turn(self, call: EngineCall) -> EngineCall:
        """What is asked, with whose turn it is: an engine whose rows wait once more serves them in the same order."""
        told = b',"call":"%b",%b}' % (self.id.encode(), self.turn.told(time.monotonic()))
        return EngineCall(call.path, call.body[:-1] + told)

    async def _recall(self) -> None:
        """Tell the engine that nobody waits any more: what it has not begun it never will."""
        if self.served.caps.turns and self._seat is not None:
            with contextlib.suppress(WireError):
                await self._seat.pool.post(self._seat.prefix + "/recall", b'{"call":"%b"}' % self.id.encode())

    def _cost(self, tally: Tally, *, done: bool) -> float | None:
        """What the engine did for a call, in the line's own measure; reading costs an eighth of writing. None: unknown."""
        if not done and tally.usage is None and not tally.pieces:
            return None
        fresh, _, output = tally.counts(self.size.input_tokens)
        return output + fresh / 8 if self.request.generates else max(fresh, self.size.units, 1)

    def _patience_s(self, index: int, attempt: int, seat: Seat, *, whole: bool) -> float | None:
        """How long this try may take until its first piece, when somebody else could be asked then; None: until the
        deadline. How long a `whole` answer takes depends on what is written: nothing can be said of it."""
        served = self.served
        suspected = self._constrained or self.tallies[index].guest is not None  # one replica that hangs is enough
        if attempt == TRIES_MAX or not served.others(seat) or suspected:
            return None
        if whole and self.request.generates:
            return served.whole_answer.most_s
        patience = served.whole_answer if whole else served.first_piece
        return patience.within(self.turn.deadline - time.monotonic())

    def _failed(self, index: int, seat: Seat, error: Exception, *, final: bool) -> None:
        """A try failed. Returns if the call may be tried again; else raises what the caller is told."""
        served = self.served
        if isinstance(error, Unavailable) and error.code not in _FAULTS:
            raise error
        gone = isinstance(error, WireError)
        served.went_wrong()
        self._blame(index, seat, error)
        if gone and seat.time is not None:
            tally, now = self.tallies[index], time.monotonic()
            refusal = served.quarantine.lost(
                self.engine_calls[index].body, tally.life, now, since=tally.sat_at, node=seat.node
            )
            if refusal is not None:
                _log.error("a request stops the engine", model=self.request.model, call=self.id)
                raise refusal from error
        final = final or self._constrained  # it may be what the engine died of
        # What said no would say it again; what was lost or silent may be asked a second time, if nobody else is left.
        final = final or (isinstance(error, Unavailable) and not served.others(seat)) or not served.retries.take()
        if not final:
            self.retries += 1
        _log.warning("engine failed", model=self.request.model, error=str(error) or "no answer in time", final=final)
        if final and isinstance(error, Unavailable):
            raise error
        if final:
            raise Unavailable(
                "The engine stopped while answering; nothing was billed.",
                code="engine_lost",
                hint="Try again.",
                retry_after_s=2,
            ) from error

    # -- what was used, and how the answer tells it ---------------------------------------------------------------------

    def counts(self) -> tuple[int, int, int]:
        """(input, cached, output) tokens of the whole call, never more than was held, whatever an upstream says it used:
        a wallet cannot be overdrawn. Choices of one prompt share its input, as callers expect."""
        size = self.size
        if len(self.tallies) == 1:
            fresh, cached, output = self.tallies[0].counts(size.input_tokens)
            if fresh + cached <= size.input_tokens and output <= size.output_tokens:
                return fresh, cached, output  # as nearly always
        else:
            per_part = [tally.counts(size.input_tokens) for tally in self.tallies]
            firsts = per_part[:: self.request.choices] if self.request.generates else per_part
            output = sum(part[2] for part in per_part)
            fresh, cached = sum(part[0] for part in firsts), sum(part[1] for part in firsts)
        cached = min(cached, size.input_tokens)
        return min(fresh, size.input_tokens - cached), cached, min(output, size.output_tokens)

    def engine_us(self) -> tuple[int, int]:
        """Microseconds of engine time, of all its engine calls: (prefill, decode)."""
        prefill = decode = 0
        for tally in self.tallies:
            prefill += tally.prefill_us
            decode += tally.decode_us
        return prefill, decode

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

    def answered(self) -> bool:
        """Whether an engine that answers in one piece has done its work, or that part of it that it was given."""
        given = [tally for tally in self.tallies if tally.sat_at]
        return bool(given) and all(tally.usage is not None for tally in given)

    def _corrected(self, answer: bytes) -> bytes:
        """An engine's whole answer with the usage that is billed, should the engine have counted otherwise."""
        if self.tallies[0].counts(self.size.input_tokens) == self.counts():
            return answer
        return msgspec.json.encode(msgspec.json.decode(answer) | {"usage": self.usage()})

    def last_events(self) -> list[bytes]:
        """What ends a stream: usage, if it was asked for, and [DONE]."""
        options = self._stream_options()
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
        if chat and len(self.engine_calls) == 1:
            usage |= self._head  # its events were passed on as they came
        return [msgspec.json.encode(usage), b"[DONE]"]

    def _stream_options(self) -> StreamOptions | None:
        return self.request.stream_options if isinstance(self.request, ChatRequest | CompletionRequest) else None

    def renamed(self, answer: bytes) -> bytes:
        """The answer under the name the caller used."""
        if not self.served.renames:
            return answer
        return answer.replace(
            b'"model":"%b"' % self.served.engine_model.encode(), b'"model":"%b"' % self.request.model.encode(), 1
        )

    def first_piece_at(self) -> float | None:
        """When the first piece came (monotonic), of any choice."""
        if len(self.tallies) == 1:
            return self.tallies[0].first_piece_at
        return min((tally.first_piece_at for tally in self.tallies if tally.first_piece_at is not None), default=None)


async def _stop(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel what still runs and wait until it has stopped; its outcome was already dealt with."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _begun_within(events: AsyncIterator[list[bytes]], patience_s: float) -> AsyncIterator[list[bytes]]:
    """The same events; raises TimeoutError when the first does not come in time."""
    async with asyncio.timeout(patience_s):
        first = await anext(events, None)
    if first is not None:
        yield first
        async for more in events:
            yield more
