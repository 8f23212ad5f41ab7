"""A small HTTP/1.1 server for one neighbour: the gateway, over a private unix socket. Parsing is httptools'.

A call whose connection is closed is cancelled; an iterator is closed with it. Bodies are bounded; whatever goes wrong is an
error object, never a text. After an iterator's first piece an error can no longer be a status: it is the last event.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Final

import httptools
import msgspec

from tollway.kit.errors import TollwayError, TooLarge

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
_WAITING_MAX: Final = 256 * 1024  # bytes of a stream that the neighbour has not read: its writer waits
_REASONS: Final = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 413: b"Payload Too Large"}
Reply = bytes | tuple[str, bytes] | AsyncIterator[bytes]
"""JSON; (content type, anything); pieces of a stream of server-sent events, each a whole number of events."""
Answer = Callable[[str, str, bytes], Awaitable[Reply]]
"""(method, path, body) -> a reply. Raises TollwayError."""


async def listen(path: str, answer: Answer) -> asyncio.AbstractServer:
    """Serve on a unix socket."""
    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(lambda: _Connection(answer), path, backlog=1024)


async def serve(path: str, answer: Answer, ready: Callable[[], None]) -> None:
    """Serve there, say so, and go on for as long as the process lives."""
    listening = await listen(path, answer)  # held: uvloop closes what nobody refers to
    ready()
    await asyncio.Event().wait()
    listening.close()


class _Connection(asyncio.Protocol):
    """One keep-alive connection; its requests one after the other."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._transport: Any = None
        self._running: asyncio.Task[None] | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._reset()

    def _reset(self) -> None:
        self._path = b""
        self._body: list[bytes] = []
        self._size = 0

    # asyncio.Protocol
    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=_WAITING_MAX)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        self._may_write.set()
        if self._running is not None:
            self._running.cancel()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

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
        status, kind = 200, JSON
        try:
            if too_large:
                raise TooLarge("The body is too large.", code="request_too_large")
            reply = await self._answer(method, path, body)
            if isinstance(reply, bytes):
                shown = reply
            elif isinstance(reply, tuple):
                kind, shown = reply
            else:
                await self._stream(reply, keep)
                return
        except Exception as error:  # noqa: BLE001 - its text may quote a prompt: only the kind is told
            status, shown = error.status if isinstance(error, TollwayError) else 500, _error(error)
            kind = JSON
        self._head(status, b"content-type: %b\r\ncontent-length: %d" % (kind.encode(), len(shown)), keep, shown)

    async def _stream(self, pieces: AsyncIterator[bytes], keep: bool) -> None:
        """Send pieces as they come. What goes wrong before the first one is raised: it still has a status of its own."""
        try:
            piece: bytes | None = await anext(pieces, None)
            self._head(200, b"content-type: %b\r\ntransfer-encoding: chunked" % EVENTS.encode(), keep=True)
            try:
                while piece is not None:
                    if piece:
                        self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    await self._may_write.wait()
                    piece = await anext(pieces, None)
            except Exception as error:  # noqa: BLE001 - the last event says it; its text may quote a prompt
                event = b"data: %b\n\n" % _error(error)
                self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            self._transport.write(b"0\r\n\r\n")
            if not keep:
                self._transport.close()
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()

    def _head(self, status: int, fields: bytes, keep: bool, body: bytes = b"") -> None:
        if self._transport.is_closing():
            return
        end = b"\r\n\r\n" if keep else b"\r\nconnection: close\r\n\r\n"
        self._transport.write(b"HTTP/1.1 %d %b\r\n%b%b%b" % (status, _REASONS.get(status, b"Error"), fields, end, body))
        if not keep:
            self._transport.close()


def _error(error: Exception) -> bytes:
    if isinstance(error, TollwayError):
        told = {"message": str(error), "type": error.type, "code": error.code, "param": error.param}
    else:
        name = type(error).__name__
        told = {
            "message": f"The engine failed ({name}).",
            "type": "server_error",
            "code": "engine_failed",
            "param": None,
        }
    return msgspec.json.encode({"error": told})
