"""A connection's requests and answers to the letter: framing, pipelines, what the app leaves undone. A real server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from tollway.faces.http.guard import guarded
from tollway.faces.http.server import listen

HEAD = b"Host: x\r\n"


class Server:
    """An app with one path for each way to answer."""

    def __init__(self) -> None:
        self.port = 0
        self.ran: list[str] = []
        self.scopes: list[Any] = []
        self.heard: list[Any] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.ran.append(path)
        self.scopes.append(scope)
        body = b""
        if path != "/deaf":
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
        if path == "/fails":
            raise ValueError("inside")
        if path == "/silent":
            return
        headers = [(b"content-length", b"%d" % len(body))] if path == "/echo" else []
        headers += [(b"x-evil", b"a\r\nx-injected: b")] if path == "/evil" else []
        headers += [(b"content-length", b"3")] if path == "/short" else []
        status = 204 if path == "/nothing" else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if path == "/breaks":
            await send({"type": "http.response.body", "body": b"some", "more_body": True})
            raise ValueError("inside")
        if path == "/parts":
            for part in (b"one", b"", b"two"):
                await send({"type": "http.response.body", "body": part, "more_body": True})
                await asyncio.sleep(0.01)
            await send({"type": "http.response.body", "body": b""})
        elif path == "/slow":
            await asyncio.sleep(0.1)
            await send({"type": "http.response.body", "body": b"slow"})
        elif path == "/left":
            self.heard.append(await receive())
        else:
            given = path in ("/nothing", "/echo")
            await send({"type": "http.response.body", "body": body if given else body or b"ok"})

    async def ask(self, data: bytes) -> bytes:
        """Everything that comes until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        came = await asyncio.wait_for(reader.read(-1), 60)
        writer.close()
        return came


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A running server."""
    made = Server()
    config = uvicorn.Config(
        made.app, http=guarded(60, 60, 50), ws="none", lifespan="off", interface="asgi3", log_config=None
    )
    running = uvicorn.Server(config)
    running.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    listener = listen("127.0.0.1", 0)
    made.port = listener.getsockname()[1]
    task = asyncio.ensure_future(running.serve(sockets=[listener]))
    while not running.started:
        await asyncio.sleep(0.01)
    yield made
    running.should_exit = running.force_exit = True
    await task


def get(path: bytes, last: bool = True, method: bytes = b"GET", more: bytes = b"") -> bytes:
    return method + b" " + path + b" HTTP/1.1\r\n" + HEAD + (b"Connection: close\r\n" if last else b"") + more + b"\r\n"


async def test_an_answer_without_a_length_is_chunked_and_one_with_it_is_not(server: Server) -> None:
    chunked = await server.ask(get(b"/"))
    assert b"transfer-encoding: chunked\r\n" in chunked and chunked.endswith(b"\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    echoed = await server.ask(get(b"/echo", method=b"POST", more=b"Content-Length: 5\r\n") + b"hello")
    assert b"transfer-encoding" not in echoed and echoed.endswith(
        b"content-length: 5\r\nconnection: close\r\n\r\nhello"
    )
    assert echoed.startswith(b"HTTP/1.1 200 OK\r\n") and b"\r\ndate: " in echoed


async def test_parts_come_as_they_are_sent(server: Server) -> None:
    assert (await server.ask(get(b"/parts"))).endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_a_head_and_an_answer_without_content_have_no_body(server: Server) -> None:
    assert (await server.ask(get(b"/", method=b"HEAD"))).endswith(b"\r\n\r\n")
    nothing = await server.ask(get(b"/nothing"))
    assert nothing.startswith(b"HTTP/1.1 204 ") and nothing.endswith(b"\r\n\r\n") and b"chunked" not in nothing


async def test_pipelined_requests_are_answered_one_after_another(server: Server) -> None:
    came = await server.ask(get(b"/slow", False) + get(b"/echo", False) + get(b"/parts"))
    assert came.count(b"HTTP/1.1 200 OK") == 3
    assert came.index(b"slow") < came.index(b"content-length: 0") < came.index(b"one")


async def test_what_comes_behind_a_last_request_is_not_run(server: Server) -> None:
    came = await server.ask(get(b"/echo") + get(b"/never"))
    assert came.count(b"HTTP/1.1") == 1
    assert server.ran == ["/echo"]


async def test_an_older_client_is_answered_and_let_go(server: Server) -> None:
    came = await server.ask(b"GET / HTTP/1.0\r\n\r\n")
    assert came.startswith(b"HTTP/1.1 200 OK") and b"connection: close" in came


async def test_who_waits_for_a_word_before_the_body_gets_it(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(get(b"/echo", method=b"POST", more=b"Content-Length: 2\r\nExpect: 100-continue\r\n"))
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hi")
    assert (await asyncio.wait_for(reader.read(-1), 60)).endswith(b"\r\n\r\nhi")
    writer.close()


async def test_an_app_that_fails_is_a_500_and_one_that_breaks_off_ends_the_connection(server: Server) -> None:
    for path in (b"/fails", b"/silent", b"/evil", b"/short"):
        came = await server.ask(get(path))
        assert b"inside" not in came and b"x-injected" not in came
        assert came.startswith(b"HTTP/1.1 500 ") or came == b"", path
    broken = await server.ask(get(b"/breaks", False))
    assert broken.endswith(b"4\r\nsome\r\n"), "no end that would make it look whole"


async def test_an_app_that_listens_hears_that_the_client_left(server: Server) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(get(b"/left", False))
    await asyncio.sleep(0.1)
    writer.close()
    async with asyncio.timeout(60):
        while not server.heard:
            await asyncio.sleep(0.01)
    assert server.heard == [{"type": "http.disconnect"}]


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a/b?c=d&e", "/a/b", b"c=d&e"),
        (b"/a%20b%2Fc?x=%20", "/a b/c", b"x=%20"),
        (b"//a", "//a", b""),
        (b"/a?b?c", "/a", b"b?c"),
        (b"http://x/a?b=c", "/a", b"b=c"),
    ],
)
async def test_targets(server: Server, target: bytes, path: str, query: bytes) -> None:
    await server.ask(get(target))
    (scope,) = server.scopes
    assert (scope["path"], scope["query_string"]) == (path, query)


async def test_a_large_body_comes_whole(server: Server) -> None:
    data = bytes(range(256)) * 8192
    came = await server.ask(get(b"/echo", method=b"POST", more=b"Content-Length: %d\r\n" % len(data)) + data)
    assert came.endswith(data)
