"""A client's connection, with limits: HTTP/1.1 in, the app's answers out, so that the box stands without a proxy.

A server that waits for ever for headers and bodies is stopped by 1,500 slow connections. Here a connection must have sent
its headers within `header_timeout_s` of opening (or of its first byte after idling), its body within `body_timeout_s`
of its headers (else 408), must read what it is sent (no progress for `body_timeout_s` ends it). When the cap is reached a newcomer
takes the place of the one whose request has been on its way longest, else of one whose refusal is kept back, else of the one
that has idled longest, else of the one that has not read its answer for longest: who holds connections open without asking
for anything, or without reading, keeps nobody out. While all are being answered, newcomers are closed at once.

uvicorn accepts the connections, counts them and ends them in good order; parsing is httptools'.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.server import ServerState

from tollway.faces.http.exchange import Exchange
from tollway.faces.http.wire import MEMO, PUT_OFF, Scope, error_body
from tollway.kit.errors import BadRequest

HEAD_BYTES_MAX = 64 * 1024
PIPELINED_MAX = 64  # requests behind one that is being answered: each takes a hundred times the memory of its bytes
_BUFFERED_MAX = 64 * 1024  # of a body that the app has not asked for yet
_EXPECT = b"expect"
_HOST = b"host"


class _Hosts(ValueError):
    """None or several (RFC 9112, 3.2): a server in front of us may have gone by another one than we would."""


def guarded(header_timeout_s: float, body_timeout_s: float, connections_max: int) -> type["GuardedProtocol"]:
    """The protocol class for one server, with its limits."""
    limits = {
        "header_timeout_s": header_timeout_s,
        "body_timeout_s": body_timeout_s,
        "connections_max": connections_max,
        "_unasked": {},
        "_unread": {},
        "_put_off": {},
    }
    return type("LimitedProtocol", (GuardedProtocol,), limits)


class GuardedProtocol(asyncio.Protocol):
    """One client's connection, with limits."""

    header_timeout_s: ClassVar[float]
    body_timeout_s: ClassVar[float]
    connections_max: ClassVar[int]
    _unasked: ClassVar[
        dict["GuardedProtocol", None]
    ]  # whose request is not complete, in the order of their deadlines' start
    _put_off: ClassVar[dict["GuardedProtocol", None]]  # whose refusal is kept back
    _unread: ClassVar[dict["GuardedProtocol", None]]  # whose client does not read, in the order of when it stopped

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app: Any = config.loaded_app
        self._idle_s = config.timeout_keep_alive
        self._state = server_state
        self._connections: set[Any] = server_state.connections
        self._loop = _loop or asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        # What a client sends behind its last request is not an error of that request.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._transport: Any = None
        self._base: Scope = {}
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._continues = False
        self._hosts = 0  # how many lines of the head say which host is meant
        self._exchange: Exchange | None = None  # the newest
        self._running: Exchange | None = None  # the one that is answered, or was last
        self._pipeline: deque[Exchange] = deque()
        self._written: list[bytes] = []
        self.writable: asyncio.Event | None = None  # not now, when there is one
        self._read_paused = False
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self.idle_since = 0.0  # on the loop's clock
        self._awaiting = "headers"  # request (idle), headers, body
        self._armed_for = ""
        self._head_bytes = 0  # of a head, or of what stands behind a body in pieces
        self._moved_on = False  # the last data was more than a part of a head

    # -- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if len(self._connections) >= self.connections_max and not self._make_room():
            transport.abort()
            return
        self._connections.add(self)
        self._base = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "server": _address(transport.get_extra_info("sockname")),
            "client": _address(transport.get_extra_info("peername")),
            "scheme": "http",
            "root_path": "",
            MEMO: {PUT_OFF: self.put_off},
        }
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._idle is not None:
            self._idle.cancel()
        self._connections.discard(self)
        if self._running is not None:
            self._running.lost()
        for waiting in self._pipeline:
            waiting.lost()
        self.resume_writing()
        # All of these refer to this: left in a ring, a closed connection would keep its last request until the next round of
        # the collector, thousands of connections later.
        self._parser = self._running = self._exchange = None
        self._pipeline.clear()
        self._base, self._headers = {}, []

    def data_received(self, data: bytes) -> None:
        if self not in self._connections:
            return
        if self._awaiting == "request":
            self._awaiting = "headers"
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._end_after_this()  # we speak nothing else: the request was answered as it stands
        except httptools.HttpParserError as error:
            why = error.__context__
            self._refuse(400, "Bad Request", str(why) if isinstance(why, _Hosts) else "This is not a valid HTTP request.")
            return
        if self._awaiting == "headers" or (self._awaiting == "body" and not self._moved_on):
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX and not self._transport.is_closing():
                self._refuse(431, "Request Header Fields Too Large", "The request's headers are too large.")
        self._moved_on = False
        if self._awaiting == "request":
            if self._armed_for:
                self._disarm()
        elif self._armed_for != self._awaiting:
            self._arm()

    def pause_writing(self) -> None:
        self.writable = asyncio.Event()
        self._unread[self] = None
        self._stalled = self._loop.call_later(self.body_timeout_s, self._too_slow)

    def resume_writing(self) -> None:
        if self.writable is not None:
            self.writable.set()
            self.writable = None
            self._unread.pop(self, None)
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    # -- httptools ---------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        self._continues = False
        self._hosts = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._awaiting == "body":
            return  # behind a body in pieces there may be more of them: they are none of the request's
        name = name.lower()
        if name == _EXPECT:
            self._continues = value.lower() == b"100-continue"
        elif name == _HOST:
            self._hosts += 1
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if len(self._pipeline) >= PIPELINED_MAX:
            raise ValueError("too many requests at once")
        version = self._parser.get_http_version()
        if self._hosts != 1 and (self._hosts or version == "1.1"):
            raise _Hosts("A request must have one Host header, and no more.")
        path, raw, query = _target(self._url)
        self._awaiting, self._moved_on = "body", True
        self._head_bytes = 0
        if self._transport.is_closing():
            return  # what comes behind a last request is not answered, so it is not run
        scope: Scope = {
            **self._base,
            "http_version": version,
            "method": self._parser.get_method().decode("ascii"),
            "path": path,
            "raw_path": raw,
            "query_string": query,
            "headers": self._headers,
        }
        alive = version != "1.0" and self._parser.should_keep_alive()
        before, self._exchange = self._exchange, Exchange(self, scope, keep_alive=alive, continues=self._continues)
        if before is None or before.complete:
            self._run(self._exchange)
        else:
            self._pause_reading()
            self._pipeline.append(self._exchange)

    def on_body(self, body: bytes) -> None:
        self._moved_on, self._head_bytes = True, 0
        if self._exchange is not None and not self._exchange.complete:
            self._exchange.body_came(body, more=True)
            if self._exchange.buffered > _BUFFERED_MAX:
                self._pause_reading()

    def on_message_complete(self) -> None:
        self._awaiting = "request"
        if self._exchange is not None and not self._exchange.complete:
            self._exchange.body_came(b"", more=False)

    # -- for the exchange (its Connection) ---------------------------------------------------------------------------

    def write(self, data: bytes, *, last: bool) -> None:
        """Send; all but the last of an answer at the end of this turn of the loop, so that what belongs together wakes the
        client once. To a client that is gone: nothing."""
        if self._transport.is_closing():
            return
        if last:
            if self._written:
                self._written.append(data)
                self._flush()
            else:
                self._transport.write(data)
        elif data:
            if not self._written:
                self._loop.call_soon(self._flush)
            self._written.append(data)

    def close(self) -> None:
        """End the connection when what was written has left."""
        self._flush()
        self._transport.close()

    def answered(self) -> None:
        """The exchange is complete: the next in the pipeline, or idling."""
        self._state.total_requests += 1
        if self._transport.is_closing():
            return
        if self._pipeline:
            self._run(self._pipeline.popleft())
        else:
            self.idle_since = self._loop.time()
            if self._idle is None:
                self._idle = self._loop.call_later(self._idle_s, self._look_idle)
        if not self._pipeline:
            self.resume_reading()

    def resume_reading(self) -> None:
        """The app wants more."""
        if self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()

    def fixed_headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer says: the date."""
        return self._state.default_headers

    @contextmanager
    def put_off(self) -> Iterator[None]:
        """While a refusal is kept back, so that who asks too often asks less: nobody waits for this connection's place."""
        self._put_off[self] = None
        try:
            yield
        finally:
            self._put_off.pop(self, None)

    # -- for the server ----------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """End when the running answer is complete."""
        if self._exchange is None or self._exchange.complete:
            self._transport.close()
        else:
            self._end_after_this()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _run(self, exchange: Exchange) -> None:
        self._running = exchange
        exchange.task = task = self._loop.create_task(self._answer(exchange))
        self._state.tasks.add(task)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await exchange.run(self._app)
        finally:
            if exchange.task is not None:
                self._state.tasks.discard(exchange.task)
                exchange.task = None  # it refers to the exchange

    def _end_after_this(self) -> None:
        if self._exchange is not None:
            self._exchange.keep_alive = False

    def _flush(self) -> None:
        written, self._written = self._written, []
        if written and not self._transport.is_closing():
            self._transport.write(written[0] if len(written) == 1 else b"".join(written))

    def _pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def _refuse(self, status: int, phrase: str, message: str, code: str = "invalid_http") -> None:
        """Say what is wrong, where nothing else was said to it, and hang up: never in the midst of another answer, nor
        behind the answer to the same request."""
        running = self._running if self._running is not None and not self._running.complete else None
        if self._awaiting == "body":
            unanswered = running is not None and running is self._exchange and not running.started
        else:
            unanswered = running is None
        if not unanswered:
            self._flush()
            self._transport.close()
            return
        body = error_body(BadRequest(message, code=code))
        head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self._flush()
        self._transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self._transport.close()

    def _arm(self) -> None:
        self._disarm()
        self._armed_for = self._awaiting
        self._unasked[self] = None
        seconds = self.body_timeout_s if self._awaiting == "body" else self.header_timeout_s
        self._deadline = self._loop.call_later(seconds, self._too_late)

    def _disarm(self) -> None:
        self._armed_for = ""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            del self._unasked[self]

    def _make_room(self) -> bool:
        """Close the connection that others should not wait for; False when all are being answered."""
        leaving = next(iter(self._unasked), None) or next(iter(self._put_off), None)
        if leaving is None:
            idle = (one for one in self._connections if one.idles)
            leaving = min(idle, key=lambda one: one.idle_since, default=None)
        if leaving is None:
            leaving = next(iter(self._unread), None)
        if leaving is None:
            return False
        leaving.leave()
        return True

    @property
    def idles(self) -> bool:
        """Whether nothing is asked or answered on it now, and what was answered is read."""
        answered = self._exchange is None or self._exchange.complete
        return self._awaiting == "request" and answered and self.writable is None

    def leave(self) -> None:
        """End at once; the place is free when this returns."""
        self._disarm()
        self._unread.pop(self, None)
        self._put_off.pop(self, None)
        self._connections.discard(self)
        self._transport.abort()

    def _too_slow(self) -> None:
        if not self._transport.is_closing():
            self._transport.abort()

    def _too_late(self) -> None:
        """A head or a body did not come in time: who sent a part of it is told so, but for who does not read either."""
        if self._transport.is_closing():
            return
        part = "body" if self._awaiting == "body" else "head"
        if (part == "head" and not self._head_bytes) or self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            message = f"The {part} of the request did not come in time."
            self._refuse(408, "Request Timeout", message, "request_timeout")

    def _look_idle(self) -> None:
        """A connection on which nothing was asked for long is closed. One timer, not one for each answer."""
        self._idle = None
        running = self._exchange is not None and not self._exchange.complete
        if running or self._transport.is_closing():
            return  # the next answer starts it again
        left = self.idle_since + self._idle_s - self._loop.time()
        if left <= 0 and self._awaiting == "request":
            self._transport.close()
        else:
            self._idle = self._loop.call_later(max(left, 1.0), self._look_idle)


def _target(url: bytes) -> tuple[str, bytes, bytes]:
    """(path, as it was sent, query) of a request's target. Raises ValueError and the parser's errors."""
    if url[:1] == b"/" and url[1:2] != b"/" and b"%" not in url and b"#" not in url:
        raw, _, query = url.partition(b"?")
        return raw.decode("ascii"), raw, query
    parsed = httptools.parse_url(url)
    if parsed.path is None:
        raise ValueError("a target without a path")
    path = parsed.path.decode("ascii")
    return unquote(path) if "%" in path else path, parsed.path, parsed.query or b""


def _address(given: Any) -> tuple[str, int] | None:
    return (str(given[0]), int(given[1])) if isinstance(given, tuple) else None
