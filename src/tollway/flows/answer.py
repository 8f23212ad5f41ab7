"""A request's whole path: authorise -> admit -> route -> run -> record -> settle. Read it downwards.

`open_call` takes a request as far as a held grant; `answer_whole` and `answer_stream` run it. Leaving the `async with`
closes the call exactly once: what was delivered is billed and durable before the answer ends, the rest is given back.
"""

import asyncio
import time
from collections.abc import AsyncGenerator

from tollway.flows.call import Call, Service, refuse_suspect, turn_of
from tollway.kit.crash import crashpoint
from tollway.kit.errors import TollwayError, Unavailable
from tollway.sell.access import Caller, Grant
from tollway.sell.demand import Demand
from tollway.serve.line import Turn
from tollway.serve.requests import OnePiece, Request
from tollway.serve.served import Served
from tollway.serve.sizing import Size


async def open_call(
    service: Service, caller: Caller, request: Request, call_id: str, tier: str = "", timeout_s: float | None = None
) -> Call:
    """Find the model, count the input, hold the most the call can cost (as a `tier` is sold). Raises 400, 402, 403, 404,
    429, and 503 when it could not be answered within `timeout_s`: before anything is held for it."""
    served = service.fleet.find(request.model, caller.account.org_id)
    request.refuse_unsupported(served.caps)
    refuse_suspect(served, caller, request)
    turn = turn_of(service, caller, timeout_s, tier)
    size = served.size_at_once(request)
    # The engine counts, a model is loaded and a line looks crowded for nobody who may not call or cannot pay.
    least = size or served.least(request)
    claim = service.access.look(caller, _demand(request, least, tier))
    tokens = size.tokens_each if size else served.rough_size(request)
    served.line.require(tokens, turn)
    crashpoint("answer.before_hold")
    if size is not None and claim is not None:
        grant = service.access.hold(claim)
    else:
        with served.line.expecting(tokens, turn):
            size, grant = await _asked(service, caller, served, request, size, turn, tier)
    crashpoint("answer.after_hold")
    try:
        return Call(service, served, request, size, grant, call_id, tier, turn)
    except BaseException:
        service.access.release(grant)
        raise


def _demand(request: Request, size: Size, tier: str) -> Demand:
    return Demand(request.model, size.input_tokens, size.output_tokens, size.counted(), tier)


async def _asked(
    service: Service, caller: Caller, served: Served, request: Request, size: Size | None, turn: Turn, tier: str
) -> tuple[Size, Grant]:
    """The size where only the engine can tell it, and the grant where other gateways may have to give up a share for it."""
    counts = size is None and not tier
    try:
        if size is None:
            size = await _sized(served, request, turn)
        return size, await service.admit(caller, _demand(request, size, tier))
    except TollwayError as error:
        # An engine decoded a recording or counted a prompt for it: it has used a request of the minute, or refused calls
        # would be work for nothing without a limit.
        if counts and not isinstance(error, Unavailable):
            service.access.count(caller)
        raise


async def _sized(served: Served, request: Request, turn: Turn) -> Size:
    """As the engine counts it, in the time that the call has: a template can be written so that it never ends."""
    try:
        async with asyncio.timeout(turn.deadline - time.monotonic()):
            return await served.size(request)
    except TimeoutError:
        raise Unavailable(f"The model {served.name!r} did not count this call in time.", code="timeout") from None


async def answer_whole(call: Call) -> bytes:
    """Run a call and answer in one piece; its event is durable when this returns. Raises Unavailable (503)."""
    async with call:
        raw = await call.run.answer()
        answer = shown(call, raw)  # what cannot be shown was not answered: nobody pays for it
    crashpoint("answer.before_last_byte")
    if call.service.copies is not None:
        call.service.copies.after(call, raw)
    return answer


def shown(call: Call, raw: bytes) -> bytes:
    """What the engine answered, as the caller asked for it."""
    named = call.run.renamed(raw)
    if isinstance(call.request, OnePiece) and call.request.shapes:
        return call.request.shaped(named, call.id, call.at_ms // 1000)
    return named


async def answer_stream(call: Call) -> AsyncGenerator[list[bytes]]:
    """Run a call and yield its events in groups as they come; the last group only after the event is durable.
    If the caller leaves, the engine stops and what was generated is billed."""
    copies = call.service.copies
    heard = copies.listen(call) if copies is not None else None
    async with call:
        async for events in call.run.events():
            if heard is not None:
                for event in events:
                    heard.add(event)
            yield events
    crashpoint("answer.before_last_byte")
    if copies is not None and heard is not None:
        copies.heard(call, heard)
    yield call.run.last_events()
