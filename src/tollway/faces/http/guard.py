"""Slow and too many clients: uvicorn's HTTP protocol with deadlines and a cap, so that the box stands without a proxy.

Default uvicorn waits for ever for headers and bodies: 1,500 slow connections stop it. Here a connection must have sent
its headers within `header_timeout_s` of opening (or of its first byte after idling), its body within `body_timeout_s`
of its headers, must read what it is sent (no progress for `body_timeout_s` ends it), and connections above the cap are
closed at once. A request that comes in one piece, as most do, starts no timer at all.
"""

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tollway.faces.http.wire import error_body
from tollway.kit.errors import BadRequest

HEAD_BYTES_MAX = 64 * 1024


def guarded(header_timeout_s: float, body_timeout_s: float, connections_max: int) -> type[HttpToolsProtocol]:
    """The protocol class for one server, with its limits."""
    limits = {
        "header_timeout_s": header_timeout_s,
        "body_timeout_s": body_timeout_s,
        "connections_max": connections_max,
    }
    return type("LimitedProtocol", (GuardedProtocol,), limits)


class Corked:
    """A transport that sends what is written within one turn of the loop as one piece: uvicorn writes an answer's head
    and body apart, which would wake the client twice."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        written, self._written = self._written, []
        if written:
            self._transport.write(written[0] if len(written) == 1 else b"".join(written))


class GuardedProtocol(HttpToolsProtocol):
    """One client's connection, with limits."""

    header_timeout_s: ClassVar[float]
    body_timeout_s: ClassVar[float]
    connections_max: ClassVar[int]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._awaiting = "headers"  # request (idle), headers, body
        self._armed_for = ""
        self._head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        if len(self.connections) >= self.connections_max:
            transport.abort()
            self.transport = transport
            return
        super().connection_made(Corked(transport, self.loop))  # type: ignore[arg-type]
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._unstall()
        if self in self.connections:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self not in self.connections:
            return
        if self._awaiting == "request":
            self._awaiting = "headers"
        super().data_received(data)
        if self._awaiting == "headers":
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
                self._refuse(431, "Request Header Fields Too Large", "The request's headers are too large.")
        if self._awaiting == "request":
            self._disarm()
        elif self._armed_for != self._awaiting:
            self._arm()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._awaiting = "body"
        self._head_bytes = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._awaiting = "request"

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "Bad Request", "This is not a valid HTTP request.")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.body_timeout_s, self._too_slow)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unstall()

    def _unstall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _refuse(self, status: int, phrase: str, message: str) -> None:
        body = error_body(BadRequest(message, code="invalid_http"))
        head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _arm(self) -> None:
        self._disarm()
        self._armed_for = self._awaiting
        seconds = self.body_timeout_s if self._awaiting == "body" else self.header_timeout_s
        self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        self._armed_for = ""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.abort()
