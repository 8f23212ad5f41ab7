"""A TCP proxy that breaks things on demand, between the gateway and an upstream.

    async with FaultProxy(upstream.port) as proxy: proxy.fault = "reset"; …; proxy.seen

It looks into requests only to count those of callers (`seen`: each has a name in its prompt). Faults:

    refuse      the connection is reset before anything is read     reset    the request is read, then the connection is reset
    half_open   the request is read, and nothing ever comes back    error    HTTP 503
    drip        the answer comes byte by byte                       cut      the answer is cut off in the middle
"""

import asyncio
import contextlib
import socket
import struct
from typing import Literal, Self

Fault = Literal["", "refuse", "reset", "half_open", "error", "drip", "cut"]
FAULTS: tuple[Fault, ...] = ("error", "reset", "half_open", "drip", "cut", "refuse")
_ERROR = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_CUT_AFTER = 300
_DRIP_S = 0.05


class FaultProxy:
    """One listening port in front of one upstream port."""

    def __init__(self, upstream_port: int) -> None:
        self.fault: Fault = ""
        self.seen = 0  # requests of callers, whatever became of them
        self.broken = 0  # of these, those that met a fault
        self._to = upstream_port
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._carry(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.fault == "refuse":
            _reset(writer)
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._to)
        answers = asyncio.create_task(self._answers(up_reader, writer))
        try:
            while data := await reader.read(65536):
                self.seen += data.count(b"id=call-")
                fault = self.fault
                if fault and b"id=call-" in data:
                    self.broken += 1
                if fault in ("reset", "refuse"):
                    _reset(writer)
                    return
                if fault == "error":
                    writer.write(_ERROR)
                elif fault != "half_open":
                    up_writer.write(data)
        finally:
            answers.cancel()
            up_writer.transport.abort()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.fault == "drip":
                    for place in range(len(data)):
                        writer.write(data[place : place + 1])
                        await asyncio.sleep(_DRIP_S)
                elif self.fault == "cut" and passed + len(data) > _CUT_AFTER:
                    writer.write(data[: max(0, _CUT_AFTER - passed)])
                    await writer.drain()
                    writer.transport.abort()
                else:
                    writer.write(data)
                passed += len(data)
        writer.transport.abort()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, not FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
