"""A replica's unix socket, reachable over TCP by whoever knows its key. Bytes go through as they are.

Only the head of a connection's first request is looked at: it must carry `Authorization: Bearer <key>`. After that nothing
is read into anything; each side is held back when the other one is slow.
"""

import asyncio
import hmac
from typing import Any, Final

_HEAD_BYTES_MAX: Final = 16 * 1024
_HEAD_WITHIN_S: Final = 5.0
STRANGERS_MAX: Final = 128
"""Connections that have not shown the key yet: one more takes the place of the oldest, so that no crowd of them leaves the
process without a file for its gateway."""


class Relay:
    """A listening TCP socket in front of a unix socket."""

    def __init__(self, socket: str, key: str) -> None:
        self.socket, self._key = socket, f"authorization: bearer {key}".lower().encode("ascii")
        self._server: asyncio.Server | None = None
        self.open: set[_Caller] = set()
        self.strangers: dict[_Caller, None] = {}  # in the order in which they came

    async def listen(self, host: str) -> int:
        """Begin; the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Caller(self), host, 0, backlog=512)
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """End it and all that goes through it."""
        if self._server is not None:
            self._server.close()
        for caller in list(self.open):
            caller.abort()

    def allows(self, head: bytes) -> bool:
        """Whether the first request's head carries the key."""
        lines = head.lower().split(b"\r\n")
        return any(hmac.compare_digest(line.strip(), self._key) for line in lines)


class _Caller(asyncio.Protocol):
    """The connection of a gateway."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.transport: Any = None
        self._engine: _Engine | None = None
        self._waiting = b""
        self._known = False
        self._late: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._relay.open.add(self)
        if len(self._relay.strangers) >= STRANGERS_MAX:
            next(iter(self._relay.strangers)).abort()
        self._relay.strangers[self] = None
        self._late = asyncio.get_running_loop().call_later(_HEAD_WITHIN_S, self.abort)

    def data_received(self, data: bytes) -> None:
        if self._engine is not None:
            self._engine.transport.write(data)
            return
        self._waiting += data
        if self._known:
            return
        end = self._waiting.find(b"\r\n\r\n")
        if end < 0 and len(self._waiting) <= _HEAD_BYTES_MAX:
            return
        if self._late is not None:
            self._late.cancel()
        if end < 0 or not self._relay.allows(self._waiting[:end]):
            self.transport.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.transport.close()
            return
        self._known = True
        self._relay.strangers.pop(self, None)
        self.transport.pause_reading()
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            _, engine = await loop.create_unix_connection(lambda: _Engine(self), self._relay.socket)
        except OSError:
            self.abort()
            return
        self._engine = engine
        engine.transport.write(self._waiting)
        self._waiting = b""
        if self.transport.is_closing():
            engine.transport.abort()
        else:
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        return False  # who hangs up wants no answer any more

    def pause_writing(self) -> None:
        if self._engine is not None:
            self._engine.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._engine is not None:
            self._engine.transport.resume_reading()

    def connection_lost(self, _: Exception | None) -> None:
        self._relay.open.discard(self)
        self._relay.strangers.pop(self, None)
        if self._late is not None:
            self._late.cancel()
        if self._engine is not None:
            self._engine.transport.abort()

    def abort(self) -> None:
        """Cut it off."""
        self._relay.strangers.pop(self, None)
        self.transport.abort()


class _Engine(asyncio.Protocol):
    """The connection to the engine's process."""

    def __init__(self, caller: _Caller) -> None:
        self._caller = caller
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._caller.transport.write(data)

    def pause_writing(self) -> None:
        self._caller.transport.pause_reading()

    def resume_writing(self) -> None:
        self._caller.transport.resume_reading()

    def connection_lost(self, _: Exception | None) -> None:
        self._caller.transport.close()
