"""One request and its answer on a client's connection: what ASGI calls scope, receive and send. For `guard`.

uvicorn's own does the same for about twenty microseconds more: it makes an event and a timer for each request and holds
every header to a pattern. Here an answer's head is checked once, as a whole, and leaves with the first of its body.
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Protocol

from tollway.faces.http.wire import Message, Receive, Scope, Send
from tollway.kit import log

App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = log.get("faces.http")
_STATUS = {one.value: b"HTTP/1.1 %d %b\r\n" % (one.value, one.phrase.encode()) for one in HTTPStatus}
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_WITHOUT_BODY = (204, 304)


class Connection(Protocol):
    """The connection, as an exchange sees it."""

    writable: asyncio.Event | None

    def write(self, data: bytes, *, last: bool) -> None: ...
    def close(self) -> None: ...
    def resume_reading(self) -> None: ...
    def answered(self) -> None: ...
    def fixed_headers(self) -> list[tuple[bytes, bytes]]: ...


class Exchange:
    """A request whose head has come. The connection feeds it with `body_came` and `lost`."""

    __slots__ = (
        "_body",
        "_connection",
        "_continues",
        "_event",
        "_head",
        "_left",
        "_more",
        "_news",
        "buffered",
        "chunked",
        "complete",
        "gone",
        "keep_alive",
        "scope",
        "started",
        "task",
    )

    def __init__(self, connection: Connection, scope: Scope, *, keep_alive: bool, continues: bool) -> None:
        self._connection = connection
        self.scope = scope
        self.keep_alive = keep_alive
        self._continues = continues  # the client waits for our word before it sends the body
        self._body: list[bytes] = []
        self.buffered = 0
        self._more = True
        self._news = False
        self._event: asyncio.Event | None = None
        self.gone = False
        self.started = False
        self.complete = False
        self.chunked = False
        self._left = 0  # of the content-length that was promised
        self._head = b""
        self.task: asyncio.Task[None] | None = None

    # -- from the connection -----------------------------------------------------------------------------------------

    def body_came(self, body: bytes, *, more: bool) -> None:
        """Some of the body, or its end."""
        if body:
            self._body.append(body)
            self.buffered += len(body)
        self._more = more
        self._wake()

    def lost(self) -> None:
        """The client is gone."""
        self.gone = self.gone or not self.complete
        self._wake()

    def _wake(self) -> None:
        self._news = True
        if self._event is not None:
            self._event.set()

    # -- the app -----------------------------------------------------------------------------------------------------

    async def run(self, app: App) -> None:
        """Let the app answer; what it leaves undone is a 500 or ends the connection."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:  # noqa: BLE001 - the last wall: logged, and answered without its inside
            _log.error("unexpected", path=self.scope["path"][:80], exc_info=error)
            await self._fail()
        else:
            if not self.complete and not self.gone:
                _log.error("unexpected", path=self.scope["path"][:80], error="an answer without an end")
                await self._fail()

    async def _fail(self) -> None:
        if self.started:
            self._connection.close()
            return
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"21"),
            (b"connection", b"close"),
        ]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"Internal Server Error"})

    async def receive(self) -> Message:
        """The body as it comes; then, that the client is gone or the answer complete."""
        if self._continues:
            self._continues = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n", last=True)
        if not self.gone and not self.complete:
            if not self._news:
                self._connection.resume_reading()
                if self._event is None:
                    self._event = asyncio.Event()
                self._event.clear()
                await self._event.wait()
            self._news = False
        if self.gone or self.complete:
            return {"type": "http.disconnect"}
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body, self.buffered = [], 0
        return {"type": "http.request", "body": body, "more_body": self._more}

    async def send(self, message: Message) -> None:
        """The answer: its head, which is kept until there is something of its body, and its body."""
        if self._connection.writable is not None and not self.gone:
            await self._connection.writable.wait()
        if self.gone:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self.started:
            self.started, self._continues = True, False
            self._head = self._head_of(message["status"], message.get("headers", ()))
        elif kind == "http.response.body" and self.started and not self.complete:
            self._send_body(message.get("body", b""), last=not message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind!r} cannot be sent now")

    def _head_of(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        delimited = said_close = False
        lines = [b"%b: %b\r\n" % one for one in (*self._connection.fixed_headers(), *headers)]
        lines.insert(0, _STATUS.get(status) or b"HTTP/1.1 %d \r\n" % status)
        for name, value in [one for one in headers if one[0] in _FRAMING]:
            if name == b"content-length":
                delimited, self._left = True, int(value)
            elif name == b"transfer-encoding":
                delimited = self.chunked = True
            elif b"close" in value.lower():
                said_close, self.keep_alive = True, False
        if not self.keep_alive and not said_close:
            lines.append(b"connection: close\r\n")
        if self.scope["method"] == "HEAD":
            self._left = 0
        elif not delimited and status not in _WITHOUT_BODY:
            self.chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if not head.count(b"\n") == head.count(b"\r") == len(lines) or b"\0" in head:
            raise RuntimeError("a header with a line break")  # nobody adds headers to our answers
        return head + b"\r\n"

    def _send_body(self, body: bytes, *, last: bool) -> None:
        if self.scope["method"] == "HEAD":
            body = b""
        elif self.chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if last:
                body += b"0\r\n\r\n"
        else:
            self._left -= len(body)
            if self._left < 0 or (last and self._left):
                raise RuntimeError("the answer is not as long as its head says")
        data, self._head = self._head + body, b""
        if last:
            self.complete = True
        self._connection.write(data, last=last)
        if last:
            self._wake()
            if not self.keep_alive:
                self._connection.close()
            self._connection.answered()
