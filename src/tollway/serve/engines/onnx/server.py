"""A small HTTP/1.1 server for one neighbour: the gateway, over a private unix socket. Parsing is httptools'.

A call whose connection is closed is cancelled. Bodies are bounded; whatever goes wrong is an error object, never a text.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httptools
import msgspec

from tollway.kit.errors import TollwayError

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
_REASONS: Final = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 413: b"Payload Too Large"}
Answer = Callable[[str, str, bytes], Awaitable[bytes]]
"""(method, path, body) -> JSON. Raises TollwayError."""


async def listen(path: str, answer: Answer) -> asyncio.AbstractServer:
    """Serve on a unix socket."""
    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(lambda: _Connection(answer), path, backlog=1024)


class _Connection(asyncio.Protocol):
    """One keep-alive connection; its requests one after the other."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._transport: Any = None
        self._running: asyncio.Task[None] | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._reset()

    def _reset(self) -> None:
        self._path = b""
        self._body: list[bytes] = []
        self._size = 0

    # asyncio.Protocol
    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        if self._running is not None:
            self._running.cancel()

    # httptools
    def on_message_begin(self) -> None:
        self._reset()

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size <= BODY_BYTES_MAX:
            self._body.append(body)

    def on_message_complete(self) -> None:
        method, keep = self._parser.get_method().decode(), self._parser.should_keep_alive()
        if self._running is not None and not self._running.done():
            self._transport.abort()  # our neighbour does not send the next before the last was answered
            return
        body = b"".join(self._body)
        too_large = self._size > BODY_BYTES_MAX
        self._running = asyncio.ensure_future(self._run(method, self._path.decode("latin-1"), body, keep, too_large))

    async def _run(self, method: str, path: str, body: bytes, keep: bool, too_large: bool) -> None:
        try:
            if too_large:
                status, shown = 413, _error("The body is too large.", "request_too_large")
            else:
                status, shown = 200, await self._answer(method, path, body)
        except TollwayError as error:
            status, shown = error.status, _error(str(error), error.code, error.type, error.param)
        except Exception as error:  # noqa: BLE001 - its text may quote a prompt: only the kind is told
            status, shown = 500, _error(f"The engine failed ({type(error).__name__}).", "engine_failed", "server_error")
        if self._transport.is_closing():
            return
        reason = _REASONS.get(status, b"Error")
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % (
            status,
            reason,
            len(shown),
        )
        self._transport.write(head + (b"\r\n" if keep else b"connection: close\r\n\r\n") + shown)
        if not keep:
            self._transport.close()


def _error(message: str, code: str, kind: str = "invalid_request_error", param: str | None = None) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": kind, "code": code, "param": param}})
