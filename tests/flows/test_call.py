"""How a call ends that its caller left, or that took too long: what was used is billed, what nobody got is not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tollway.flows.answer import answer_stream, answer_whole
from tollway.flows.call import Call, Service
from tollway.kit.clock import SystemClock
from tollway.kit.errors import Unavailable
from tollway.kit.settings import Settings
from tollway.sell.catalog import Terms
from tollway.serve.engines import Caps, UpstreamServer
from tollway.serve.line import Seat
from tollway.serve.models import Model
from tollway.serve.requests import ChatRequest, EmbeddingRequest, Message, Request
from tollway.serve.served import Served
from tollway.serve.sizing import Size
from tollway.watch.metrics import Metrics


class Engine:
    """A pool that answers embeddings after a while, and chats for ever."""

    def __init__(self) -> None:
        self.busy = self.calls = self.hold_at = 0
        self.held = asyncio.Event()
        self.held.set()

    async def post(self, path: str, body: bytes, kind: str = "") -> Any:
        self.busy += 1
        self.calls += 1
        if self.calls == self.hold_at:
            self.held.clear()
        await asyncio.sleep(0.1)
        await self.held.wait()
        self.busy -= 1
        return SimpleNamespace(status=200, body=b'{"data":[],"usage":{"prompt_tokens":7,"total_tokens":7}}')

    @asynccontextmanager
    async def stream(self, path: str, body: bytes) -> AsyncIterator[Any]:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                yield b'data: {"id":"x","created":1,"choices":[{"delta":{"content":"a"}}]}\n\n'
                await asyncio.sleep(0.01)

        yield SimpleNamespace(status=200, chunks=chunks)


class Books:
    """Access and recorder in one: remembers how calls ended."""

    def __init__(self) -> None:
        self.released = 0
        self.events: list[Any] = []

    def release(self, grant: Any) -> None:
        self.released += 1

    def settle(self, grant: Any, quantities: Any) -> int:
        return 1

    async def record(self, event: Any, wallet: Any, undo: Any, draws: Any = None) -> None:
        self.events.append(event)


def a_call(request: Request, caps: Caps, engine: Engine, books: Books, timeout_s: float = 5.0) -> Call:
    service = Service(SystemClock(), books, books, None, Metrics(), timeout_s)  # type: ignore[arg-type]
    model = Model("m", "chat", "M", "llama_cpp", "1", None, 0)
    settings = Settings(Path("/nonexistent"), environment={})
    served = Served(
        model, [UpstreamServer("http://localhost/v1", "m", caps=caps)], {}, settings, SystemClock(), lambda *_: None
    )
    served.line.seats.append(Seat(engine, 4, 0, "1"))  # type: ignore[arg-type]
    grant = SimpleNamespace(
        caller=SimpleNamespace(account=SimpleNamespace(org_id="org"), key=SimpleNamespace(id="key")),
        plan=SimpleNamespace(id="plan", terms=Terms()),
        subscription_id="sub",
        wallet=False,
        draws=None,
    )
    return Call(service, served, request, Size(50, 50, 1, 100), grant, "id")  # type: ignore[arg-type]


async def test_who_leaves_embeddings_keeps_the_seat_until_they_are_done_and_pays() -> None:
    engine, books = Engine(), Books()
    call = a_call(EmbeddingRequest(model="m", input="text"), Caps(embeddings=True), engine, books)
    engine.held.clear()
    leaver = asyncio.ensure_future(answer_whole(call))
    while not engine.busy:
        await asyncio.sleep(0.01)
    leaver.cancel()
    await asyncio.sleep(0.02)
    assert engine.busy == 1 and call.served.line.seats[0].running == 1
    engine.held.set()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    assert call.served.line.seats[0].running == 0
    assert [(event.status, event.input_tokens) for event in books.events] == [("aborted", 7)] and not books.released


async def test_who_leaves_many_inputs_pays_for_those_that_were_read() -> None:
    engine, books = Engine(), Books()
    engine.hold_at = 2
    request = EmbeddingRequest(model="m", input=["text"] * 64)
    leaver = asyncio.ensure_future(answer_whole(a_call(request, Caps(embeddings=True, one_by_one=True), engine, books)))
    while engine.calls < 2:
        await asyncio.sleep(0.01)
    leaver.cancel()
    await asyncio.sleep(0)
    engine.held.set()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    assert engine.calls == 2, "what had not begun was never sent"
    assert [(event.status, event.input_tokens) for event in books.events] == [("aborted", 14)]


async def test_a_stream_that_takes_too_long_is_billed_as_far_as_it_came() -> None:
    books = Books()
    request = ChatRequest(model="m", messages=[Message(role="user", content="x")], stream=True)
    call = a_call(request, Caps(chat=True, cancel=True), Engine(), books, timeout_s=1.0)
    with pytest.raises(Unavailable, match="what was generated is billed"):
        async for _ in answer_stream(call):
            pass
    assert [event.status for event in books.events] == ["aborted"] and books.events[0].output_tokens > 0


async def test_a_whole_answer_that_takes_too_long_costs_nothing() -> None:
    books = Books()
    request = ChatRequest(model="m", messages=[Message(role="user", content="x")])
    call = a_call(request, Caps(chat=True, cancel=True), Engine(), books, timeout_s=0.3)
    with pytest.raises(Unavailable, match="nothing was billed"):
        await answer_whole(call)
    assert books.released == 1 and not books.events
