"""A small HTTP/1.1 client for the neighbours of the gateway: replicas on unix sockets and upstreams by URL.

Why our own: under 32 calls in flight the usual clients cost more than the whole rest of the gateway (measured: aiohttp a
seventh, httpx a two-hundredth of this pool's throughput). Parsing is httptools', TLS is asyncio's; ours is the pool.

    pool = Pool("http://127.0.0.1:8000/v1", key="…")        or Pool("unix:/run/replica.sock")
    reply = await pool.post("/chat/completions", body)       # Reply(status, body)
    async with pool.stream("/chat/completions", body) as answer: async for chunk in answer.chunks(): …

Leaving `stream` early closes the connection: that is how a generation is cancelled. A reused connection that dies before
the first byte of an answer (the server closed it while idle) is replaced once, silently.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec

_IDLE_S = 4.0  # llama.cpp's server closes an idle connection after 5 s ...
_USES_MAX = 95  # ... and any connection after 100 requests
_HIGH_WATER = 256 * 1024
_CONNECT_S = 5.0
_JSON = "application/json"
REPLY_BYTES_MAX = 64 * 1024 * 1024


class WireError(Exception):
    """The neighbour could not be reached, or went away. `started`: whether any byte of an answer had come."""

    def __init__(self, message: str, *, started: bool) -> None:
        super().__init__(message)
        self.started = started


class Reply(msgspec.Struct):
    """A whole answer."""

    status: int
    body: bytes


class _Connection(asyncio.Protocol):
    """One keep-alive connection; one answer at a time. `siblings`: those of its pool that are open."""

    def __init__(self, siblings: "set[_Connection]") -> None:
        self._siblings = siblings
        self.transport: Any = None
        self.closed = False
        self.uses = 0
        self.idle_since = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self.paused = False
        self.parser: Any = httptools.HttpResponseParser(self)
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.headers_done = False
        self.complete = False
        self.failure = ""
        self.chunks: deque[bytes] = deque()
        self.buffered = 0
        self.received_any = False
        self.keep_alive = True
        self._delimited = False  # the answer says where it ends; else it ends with the connection

    # asyncio.Protocol
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._siblings.add(self)

    def data_received(self, data: bytes) -> None:
        self.received_any = True
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.failure = f"the answer is not valid HTTP ({type(error).__name__})"
            self.transport.abort()
        if self.buffered > _HIGH_WATER and not self.paused:
            self.paused = True
            self.transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._siblings.discard(self)
        if exc is None and self.headers_done and not self._delimited and not self.failure:
            self.complete = True
        self.parser = None  # it refers to this: what refers to nothing that refers to it is gone at once
        self._wake()

    # httptools
    def on_message_begin(self) -> None:
        if self.complete:  # nobody asked for this: neither part of our answer nor of the next one
            self.failure = "more came than was asked for"
            self.keep_alive = False
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._delimited = True

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        self.status = self.parser.get_status_code()
        self.keep_alive = self.parser.should_keep_alive()
        self.headers_done = self.status >= 200

    def on_body(self, body: bytes) -> None:
        if self.complete:
            return
        self.chunks.append(body)
        self.buffered += len(body)

    def on_message_complete(self) -> None:
        if self.status >= 200:
            self.complete = True

    # for the pool
    def send(self, head: bytes, body: bytes) -> None:
        self._begin()
        self.uses += 1
        self.transport.write(head + body)

    async def wait_headers(self) -> None:
        while not self.headers_done:
            await self._wait()

    async def read(self) -> bytes:
        """All body bytes that are here, waiting for some; b"" at the end of the answer."""
        while not self.chunks:
            if self.complete:
                return b""
            await self._wait()
        data = self.chunks.popleft() if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks.clear()
        self.buffered = 0
        if self.paused:
            self.paused = False
            self.transport.resume_reading()
        return data

    @property
    def reusable(self) -> bool:
        return self.complete and self.keep_alive and not self.closed and self.uses < _USES_MAX

    async def _wait(self) -> None:
        if self.closed:
            raise WireError(self.failure or "the connection was closed", started=self.received_any)
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Answer:
    """An answer whose headers are here and whose body is coming."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self.status = connection.status

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, in pieces as large as what has arrived."""
        while data := await self._connection.read():
            yield data

    async def body(self) -> bytes:
        """The whole body, bounded."""
        parts: list[bytes] = []
        size = 0
        async for data in self.chunks():
            parts.append(data)
            size += len(data)
            if size > REPLY_BYTES_MAX:
                raise WireError("the answer is larger than 64 MiB", started=True)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Pool:
    """Keep-alive connections to one neighbour."""

    def __init__(self, address: str, key: str = "") -> None:
        self.address = address
        self._unix = address.removeprefix("unix:") if address.startswith("unix:") else ""
        parts = urlsplit("http://replica" if self._unix else address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{address!r} is neither unix:PATH nor an http(s) URL")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname, parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        host_header = parts.netloc.rpartition("@")[2]
        lines = [f"Host: {host_header}", "Accept: */*"]
        if key:
            lines.append(f"Authorization: Bearer {key}")
        self._fixed = ("\r\n".join(lines) + "\r\n").encode("latin-1")
        self._heads: dict[tuple[str, str], bytes] = {}
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()

    async def post(self, path: str, body: bytes, kind: str = _JSON) -> Reply:
        """POST a body of this content type and read the whole answer. Raises WireError."""
        return await self._whole("POST", path, body, kind)

    async def get(self, path: str) -> Reply:
        """GET and read the whole answer. Raises WireError."""
        return await self._whole("GET", path, b"")

    @asynccontextmanager
    async def stream(self, path: str, body: bytes) -> AsyncIterator[Answer]:
        """POST and hand out the answer once its headers are here. Raises WireError."""
        connection = await self._exchange(self._head("POST", path, body), body)
        try:
            yield Answer(connection)
        finally:
            self._give_back(connection)

    def close(self) -> None:
        """Close what idles."""
        while self._idle:
            self._idle.popleft().transport.abort()

    def cut(self) -> None:
        """The neighbour is gone: whoever still waits for it gets a WireError now. A machine that lost its power closes
        nothing."""
        for connection in tuple(self._open):
            connection.failure = "the neighbour is gone"
            connection.transport.abort()

    async def _whole(self, method: str, path: str, body: bytes, kind: str = _JSON) -> Reply:
        connection = await self._exchange(self._head(method, path, body, kind), body)
        try:
            if connection.complete and not connection.paused and len(connection.chunks) == 1:  # in one piece, as most
                return Reply(connection.status, connection.chunks.popleft())
            return Reply(connection.status, await Answer(connection).body())
        finally:
            self._give_back(connection)

    def _head(self, method: str, path: str, body: bytes, kind: str = _JSON) -> bytes:
        head = self._heads.get((method, path)) if kind == _JSON else None
        if head is None:
            first = f"{method} {self._prefix}{path} HTTP/1.1\r\nContent-Type: {kind}\r\n"
            head = first.encode("latin-1") + self._fixed + b"Content-Length: "
            if kind == _JSON:  # a form's names its boundary: each is another
                self._heads[method, path] = head
        return b"%b%d\r\n\r\n" % (head, len(body))

    async def _exchange(self, head: bytes, body: bytes) -> _Connection:
        while True:
            idle = self._take_idle()
            connection, fresh = (idle, False) if idle is not None else (await self._connect(), True)
            connection.send(head, body)
            try:
                await connection.wait_headers()
            except WireError as error:
                if fresh or error.started or connection.failure:
                    raise
                continue  # it had been closed while idle: no byte of an answer came, so nothing ran
            except BaseException:
                connection.transport.abort()
                raise
            return connection

    def _take_idle(self) -> _Connection | None:
        now = time.monotonic()
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and now - connection.idle_since < _IDLE_S:
                return connection
            connection.transport.abort()
        return None

    async def _connect(self) -> _Connection:
        loop, made = asyncio.get_running_loop(), _Connection(self._open)
        try:
            # A path on this machine is there or not, at once: only this loop, held up by a busy machine, can make it seem late.
            async with asyncio.timeout(None if self._unix else _CONNECT_S):
                if self._unix:
                    await loop.create_unix_connection(lambda: made, self._unix)
                else:
                    await loop.create_connection(lambda: made, self._host, self._port, ssl=self._tls)
        except (OSError, TimeoutError) as error:
            raise WireError(f"no connection ({type(error).__name__})", started=False) from error
        return made

    def _give_back(self, connection: _Connection) -> None:
        if connection.reusable:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            with suppress(RuntimeError):
                connection.transport.abort()
