"""The load: a raw asyncio client in a process of its own. One line of JSON with orders in, one with what happened out.

    {"mode": "closed", "connections": 64, "seconds": 5, "warmup": 1.5, ...}    each connection asks again when it has its answer
    {"mode": "open", "rate": 200, "seconds": 8, "patience_s": 1, ...}          Poisson; who waits longer leaves and disconnects

Every kind of caller (`callers`) has its own head and bodies; outcomes are [caller, began, seconds, status], status 0 for who
left and -1 for a connection that broke.
"""

import asyncio
import json
import random
import sys
import time
from typing import Any

import httptools

Outcome = list[Any]


class Connection(asyncio.Protocol):
    """A kept connection; one request at a time."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.waiter: asyncio.Future[int] | None = None
        self.parser = httptools.HttpResponseParser(self)
        self.kept = b""
        self.keeps = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._done(-1)

    def on_body(self, body: bytes) -> None:
        if self.keeps:
            self.kept += body

    def on_message_complete(self) -> None:
        status, alive = self.parser.get_status_code(), self.parser.should_keep_alive()
        if not alive and self.transport is not None:
            self.transport.abort()
            self.transport = None
        self.parser = httptools.HttpResponseParser(self)
        self._done(status)

    def _done(self, status: int) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(status)

    async def ask(self, request: bytes, patience_s: float | None) -> int:
        self.waiter = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        if patience_s is None:
            return await self.waiter
        try:
            return await asyncio.wait_for(self.waiter, patience_s)
        except TimeoutError:
            self.leave()
            return 0

    def leave(self) -> None:
        if self.transport is not None:
            self.transport.abort()
            self.transport = None


class Load:
    """All callers of one run."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self.orders = orders
        self.outcomes: list[Outcome] = []
        self.free: list[Connection] = []
        self.chance = random.Random(orders.get("seed", 1))
        self.callers = orders["callers"]

    def request(self, caller: int, number: int) -> bytes:
        about = self.callers[caller]
        body = about["bodies"][number % len(about["bodies"])].encode()
        return about["head"].replace("LENGTH", str(len(body))).encode() + body

    async def connected(self) -> Connection:
        while self.free:
            connection = self.free.pop()
            if connection.transport is not None:
                return connection
        loop = asyncio.get_running_loop()
        made: Any = await loop.create_connection(Connection, "127.0.0.1", self.orders["port"])
        return made[1]

    async def one(self, caller: int, number: int, patience_s: float | None) -> None:
        began = time.monotonic()
        try:
            connection = await self.connected()
            status = await connection.ask(self.request(caller, number), patience_s)
        except OSError:
            status = -1
        else:
            if connection.transport is not None:
                self.free.append(connection)
        self.outcomes.append([caller, began, time.monotonic() - began, status])

    async def looping(self, caller: int, first: int, end: float) -> None:
        number = first * 31
        while time.monotonic() < end:
            await self.one(caller, number, self.callers[caller].get("patience_s"))
            number += 1
            if self.outcomes[-1][3] != 200:
                await asyncio.sleep(0.05)

    async def arriving(self, caller: int, rate: float, end: float) -> None:
        """Poisson arrivals of one kind of caller."""
        tasks = set()
        due, number = time.monotonic(), 0
        while due < end:
            due += self.chance.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.ensure_future(self.one(caller, number, self.callers[caller].get("patience_s")))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        if tasks:
            await asyncio.wait(tasks, timeout=60)

    async def run(self) -> None:
        end = time.monotonic() + self.orders["seconds"]
        work = []
        for caller, about in enumerate(self.callers):
            if "rate" in about:
                work.append(self.arriving(caller, about["rate"], end))
            else:
                work += [self.looping(caller, first, end) for first in range(about["connections"])]
        await asyncio.gather(*work)


async def check(orders: dict[str, Any]) -> None:
    """One request; its answer as text."""
    load = Load(orders)
    connection = await load.connected()
    connection.keeps = True
    status = await connection.ask(load.request(0, 0), 60)
    print(json.dumps({"status": status, "body": connection.kept.decode(errors="replace")}), flush=True)


def main() -> int:
    orders = json.loads(sys.stdin.readline())
    try:
        import uvloop

        runner: Any = uvloop.run
    except ImportError:
        runner = asyncio.run
    if orders.get("check"):
        runner(check(orders))
        return 0
    load = Load(orders)
    began, used = time.monotonic(), time.process_time()
    runner(load.run())
    told = {"began": began, "cpu_s": time.process_time() - used, "outcomes": load.outcomes}
    print(json.dumps(told), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
