"""The guard in front of the app: deadlines for senders and readers, bounded heads, a cap on connections. A real server."""

import asyncio
import contextlib
import gc
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
import uvloop

from tollway.faces.http.exchange import Exchange
from tollway.faces.http.guard import HEAD_BYTES_MAX, PIPELINED_MAX, GuardedProtocol, guarded
from tollway.faces.http.server import listen
from tollway.faces.http.wire import MEMO, PUT_OFF

CONNECTIONS = 20


class Server:
    """An app that streams for ever at /flood, sleeps at /sleep and says ok elsewhere, behind a guard."""

    def __init__(self) -> None:
        self.flooding = 0
        self.asked: list[str] = []
        self.headers: list[Any] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        while scope["path"] != "/early" and (await receive()).get("more_body"):
            pass
        self.asked.append(scope["path"])
        self.headers = scope["headers"]
        if scope["path"] == "/put-off":
            with scope[MEMO][PUT_OFF]():
                assert (await receive())["type"] == "http.disconnect"
            return
        if scope["path"] == "/sleep":
            assert (await receive())["type"] == "http.disconnect"
            self.asked.append("left")
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/flood":
            self.flooding += 1
            gone = asyncio.ensure_future(receive())
            while not gone.done():
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                await asyncio.sleep(0)
            self.flooding -= 1
        await send({"type": "http.response.body", "body": b"ok"})

    async def ask(self, data: bytes) -> bytes:
        """Everything that comes until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        came = b""
        with contextlib.suppress(ConnectionError):
            came = await asyncio.wait_for(reader.read(-1), 60)
        writer.transport.abort()
        return came


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A running server whose deadlines nobody here meets, however busy the machine."""
    async with running() as made:
        yield made


@pytest.fixture
async def hasty() -> AsyncIterator[Server]:
    """One with short deadlines."""
    async with running(0.4, 0.6) as made:
        yield made


@contextlib.asynccontextmanager
async def running(head_s: float = 60, body_s: float = 60) -> AsyncIterator[Server]:
    made = Server()
    http = guarded(head_s, body_s, CONNECTIONS)
    config = uvicorn.Config(made.app, http=http, ws="none", lifespan="off", interface="asgi3", log_config=None)
    serving = uvicorn.Server(config)
    serving.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    listener = listen("127.0.0.1", 0)
    made.port = listener.getsockname()[1]  # type: ignore[attr-defined]
    task = asyncio.ensure_future(serving.serve(sockets=[listener]))
    while not serving.started:
        await asyncio.sleep(0.01)
    yield made
    serving.should_exit = serving.force_exit = True
    await task


GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def test_a_good_request_passes(server: Server) -> None:
    assert (await server.ask(GET)).endswith(b"ok\r\n0\r\n\r\n")


@pytest.mark.parametrize("head", [b"", b"Host: a\r\nHost: b\r\n", b"Host: a\r\nhost: a\r\n"], ids=["none", "two", "one twice"])
async def test_a_request_names_its_host_once(server: Server, head: bytes) -> None:
    answer = await server.ask(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n" + head + b"\r\nhi" + GET)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"one Host header" in answer and b"connection: close" in answer
    assert answer.count(b"HTTP/1.1") == 1 and not server.asked
    await server.ask(GET.replace(b"Connection: close\r\n", b"") + b"GET /second HTTP/1.1\r\n" + head + b"\r\n")
    assert "/second" not in server.asked


async def test_an_old_client_need_not_name_a_host(server: Server) -> None:
    assert (await server.ask(b"GET / HTTP/1.0\r\n\r\n")).endswith(b"ok\r\n0\r\n\r\n")
    assert (await server.ask(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


def too_late(answer: bytes, part: str) -> bool:
    """Whether a client was told, once and in our shape, what did not come."""
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert head.startswith(b"HTTP/1.1 408 ") and b"connection: close" in head
    return error["code"] == "request_timeout" and part in error["message"]


@pytest.mark.parametrize("data", [b"GET / HT", GET[:-2]])
async def test_headers_that_do_not_come_end_the_connection(hasty: Server, data: bytes) -> None:
    began = time.monotonic()
    assert too_late(await hasty.ask(data), "head")
    assert 0.3 < time.monotonic() - began < 30


async def test_who_says_nothing_is_told_nothing(hasty: Server) -> None:
    assert await hasty.ask(b"") == b""


async def test_a_body_that_does_not_come_ends_the_connection(hasty: Server) -> None:
    began = time.monotonic()
    for way in (b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"):
        assert too_late(await hasty.ask(b"POST / HTTP/1.1\r\nHost: x\r\n" + way), "body")
    assert 1.0 < time.monotonic() - began < 60


async def test_a_slow_body_behind_its_own_answer_is_not_told_into_it(hasty: Server) -> None:
    """The app answered without the body: what comes, or does not, is no second answer."""
    answer = await hasty.ask(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 200 ") and b"408" not in answer


async def test_the_deadline_begins_anew_with_each_request_and_not_while_idle(hasty: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hasty.port)
    for _ in range(2):
        writer.write(GET.replace(b"Connection: close\r\n", b""))
        assert await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 60)
        await asyncio.sleep(0.8)  # longer than any deadline: idling is no crime
    writer.write(b"GET")
    assert too_late(await asyncio.wait_for(reader.read(-1), 60), "head")
    writer.close()


async def test_a_reader_that_stops_reading_is_let_go(hasty: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hasty.port, limit=1024)
    writer.write(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.read(10)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(600):
        await asyncio.sleep(0.1)
        if hasty.flooding == 0:
            break
    assert hasty.flooding == 0
    writer.transport.abort()


async def test_large_heads_are_refused_in_our_shape(server: Server) -> None:
    answer = await server.ask(b"GET / HTTP/1.1\r\nX-Big: " + b"a" * (HEAD_BYTES_MAX + 300_000))
    assert answer.startswith(b"HTTP/1.1 431 ") or answer == b""  # the refusal may drown in what we still send
    slowly = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % number for number in range(8000))
    answer = await server.ask(slowly)
    assert (
        answer.startswith(b"HTTP/1.1 431 ")
        and json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"
    )


async def test_a_websocket_is_not_opened(server: Server) -> None:
    upgrade = GET.replace(
        b"Connection: close",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13",
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(upgrade)
    assert not (await asyncio.wait_for(reader.readline(), 60)).startswith(b"HTTP/1.1 101")
    writer.close()


async def test_who_asks_for_nothing_makes_room(server: Server) -> None:
    """The cap is full of connections that were opened, began a request, or idle after one: newcomers are served."""
    silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(CONNECTIONS // 2)]
    begun = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(CONNECTIONS - len(silent))]
    for _, writer in begun:
        writer.write(b"GET / HT")
    await asyncio.sleep(0.1)
    for _ in range(CONNECTIONS + 5):
        assert (await server.ask(GET)).endswith(b"ok\r\n0\r\n\r\n")
    for _, writer in silent + begun:
        writer.transport.abort()


async def test_an_idle_connection_makes_room_when_all_others_are_answered(server: Server) -> None:
    idle_reader, idle = await asyncio.open_connection("127.0.0.1", server.port)
    idle.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200" in await idle_reader.readline()
    floods = [await flood(server) for _ in range(CONNECTIONS - 1)]
    await asyncio.sleep(0.1)
    assert (await server.ask(GET)).endswith(b"ok\r\n0\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(idle_reader.read(-1), 60)  # what was left of its answer, then the end
    for writer in floods:
        writer.transport.abort()


async def test_while_all_are_answered_newcomers_are_closed_and_served_again_later(server: Server) -> None:
    floods = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(CONNECTIONS)]
    readers = [asyncio.ensure_future(drink(reader)) for reader, _ in floods]
    for _, writer in floods:
        writer.write(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: server.flooding == CONNECTIONS)
    assert await server.ask(GET) == b""
    for _, writer in floods:
        writer.transport.abort()
    await asyncio.gather(*readers)
    await until(lambda: server.flooding == 0)
    assert (await server.ask(GET)).endswith(b"ok\r\n0\r\n\r\n")


async def test_who_does_not_read_an_answer_makes_room(server: Server) -> None:
    """All places are taken by answers that nobody reads: each newcomer takes one of them."""
    floods = [await flood(server) for _ in range(CONNECTIONS)]
    await until(lambda: server.flooding == CONNECTIONS)
    await asyncio.sleep(0.1)
    for _ in range(5):
        assert (await server.ask(GET)).endswith(b"ok\r\n0\r\n\r\n")
    for writer in floods:
        writer.transport.abort()


async def test_whose_refusal_is_kept_back_makes_room(server: Server) -> None:
    """All places are taken by those who ask too often: each newcomer takes one of them, and is answered."""
    waiting = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(CONNECTIONS)]
    for _, writer in waiting:
        writer.write(GET.replace(b"/", b"/put-off", 1))
    while server.asked.count("/put-off") < CONNECTIONS:
        await asyncio.sleep(0.01)
    for _ in range(5):
        assert (await server.ask(GET)).endswith(b"ok\r\n0\r\n\r\n")
    for _, writer in waiting:
        writer.transport.abort()


async def test_more_requests_at_once_than_anybody_sends_are_not_kept(server: Server) -> None:
    """Each takes memory until its turn comes; the connection ends, and the app hears that its client is gone."""
    few = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert (await server.ask(few * PIPELINED_MAX + GET)).count(b"HTTP/1.1 200") == PIPELINED_MAX + 1
    assert await server.ask(few.replace(b"/", b"/sleep", 1) + few * (PIPELINED_MAX + 1)) == b""
    await until(lambda: "left" in server.asked)


async def test_who_leaves_with_more_requests_behind_is_missed_at_once(server: Server) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /sleep HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: server.asked == ["/sleep"])
    writer.transport.abort()
    await until(lambda: server.asked == ["/sleep", "left"])


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_headers_behind_a_body_are_none_of_the_requests(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(CHUNKED + b"2\r\nab\r\n0\r\nAuthorization: Bearer x\r\n\r\n")
    assert b"200" in await asyncio.wait_for(reader.readline(), 60)
    assert b"authorization" not in dict(server.headers)
    writer.close()


@pytest.mark.parametrize("one", [b"a" * 65536, b"X: 1\r\n" * 10_000])
async def test_what_stands_behind_a_body_has_bounds(server: Server, one: bytes) -> None:
    """Whether it is one header that does not end or very many: a few hundred kilobytes are read of them, not all that come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(CHUNKED + b"2\r\nab\r\n0\r\n")
    sent = 0
    with contextlib.suppress(ConnectionError, TimeoutError):
        while sent < 200_000_000:
            writer.write(one)
            sent += len(one)
            await asyncio.wait_for(writer.drain(), 60)
    assert sent < 50_000_000  # what the kernel holds for us among it
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(-1), 60)
    writer.transport.abort()


@pytest.mark.parametrize("path", [b"/flood", b"/sleep"])
async def test_a_refusal_is_never_written_into_another_answer(server: Server, path: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
    await until(lambda: bool(server.asked))
    writer.write(b"NONSENSE\r\n\r\n")
    came = b""
    with contextlib.suppress(ConnectionError):
        came = await asyncio.wait_for(reader.read(-1), 60)
    assert b"HTTP/1.1 400" not in came
    writer.transport.abort()


async def test_what_was_answered_already_is_not_refused_as_well(server: Server) -> None:
    """The app answers before it has the body; then the body turns out to be broken: one request, one answer."""
    broken = CHUNKED.replace(b"POST /", b"POST /early") + b"zz\r\n"
    assert (await server.ask(CHUNKED + b"zz\r\n")).startswith(b"HTTP/1.1 400 ")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(broken[:-4])
    assert b"200" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 60)
    writer.write(broken[-4:])
    assert await asyncio.wait_for(reader.read(-1), 60) == b""
    writer.close()


def test_who_leaves_in_the_midst_of_an_answer_leaves_no_error_behind() -> None:
    """On the loop that serves: it takes it amiss to be given something to send for a client that is gone."""
    errors: list[Any] = []

    async def leave_often() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with running() as server:
            for round_ in range(60):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
                await reader.read(10 + 1000 * (round_ % 7))
                writer.transport.abort()
            await until(lambda: server.flooding == 0)

    uvloop.run(leave_often())
    assert not errors


@pytest.mark.parametrize("path", [b"/", b"/sleep"])
def test_of_a_connection_that_ended_nothing_waits_for_the_collector(path: bytes) -> None:
    """On the loop that serves. Else the last requests of thousands of connections, prompts and all, stay in memory."""

    def kept() -> int:
        return sum(isinstance(one, GuardedProtocol | Exchange) for one in gc.get_objects())

    async def come_and_go() -> None:
        async with running() as server:
            gc.collect()
            gc.disable()
            for _ in range(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
                if path == b"/":
                    await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 60)
                else:
                    await until(lambda: server.asked[-1:] == ["/sleep"])
                writer.transport.abort()
                if path == b"/sleep":
                    await until(lambda: server.asked[-1:] == ["left"])
            await until(lambda: kept() == 0)

    try:
        uvloop.run(come_and_go())
    finally:
        gc.enable()


async def until(true: Any) -> None:
    """Wait for a state."""
    for _ in range(3000):
        if true():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come to that")


async def drink(reader: asyncio.StreamReader) -> None:
    """Read all that comes."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(1 << 20):
            pass


async def flood(server: Server) -> asyncio.StreamWriter:
    """A connection in the middle of its answer, not read."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
    return writer
