"""What runs on a node of the cluster for one replica: gets the package, starts the engine's process, relays its socket.

`Host` is an actor there (see `ray`). The process is the very one that a gateway starts for itself; it ends with the actor.
"""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tollway.kit.said import say
from tollway.serve.engines import Launch
from tollway.serve.runtimes import local, parcel
from tollway.serve.runtimes.port import Confinement, Failed
from tollway.serve.runtimes.relay import Relay

SOCKET: Final = "/@replica@.sock"
"""Stands for the socket in the orders of a launch, until a node knows where it will be."""


class Host:
    """One replica's host. Paths in what it is sent are the sender's; `moved` says where they are here."""

    def __init__(self) -> None:
        self._moved: dict[str, str] = {}
        self._incoming: dict[str, parcel.Incoming] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._relay: Relay | None = None
        self._folder: Path | None = None

    async def lacks(self, folder: str, seen: str, share: bool) -> bool:
        """Whether a folder must be sent: this node does not see it."""
        if share and await asyncio.to_thread(parcel.sees, Path(folder), seen):
            return False
        return folder not in self._moved

    async def has(self, folder: str, digest: str) -> bool:
        """Whether it was sent here before."""
        place = parcel.cache() / digest
        if place.is_dir():
            self._moved[folder] = str(place)
            return True
        self._incoming[folder] = parcel.Incoming(digest)
        return False

    async def add(self, folder: str, name: str, offset: int, data: bytes) -> None:
        """A piece of it."""
        await asyncio.to_thread(self._incoming[folder].add, name, offset, data)

    async def keep(self, folder: str, files: dict[str, str]) -> None:
        """It is all here."""
        self._moved[folder] = str(await asyncio.to_thread(self._incoming.pop(folder).keep, files))

    async def begin(self, argv: list[str], first_line: bytes, memory_bytes: int, key: str, ip: str) -> dict[str, Any]:
        """Start the engine and the relay. What became of it: {"ip", "port", "pid", "member"} or {"why"}."""
        self._folder = Path(tempfile.mkdtemp(prefix=f"tollway-replica-{os.getpid()}-"))
        socket = self._folder / local.SOCKET
        orders = self._here(json.loads(first_line), str(socket))
        if isinstance(orders, dict) and "parent" in orders:
            orders["parent"] = os.getpid()
        words = [self._here(word, str(socket)) for word in argv[1:]]
        launch = Launch(argv=(sys.executable, *words), first_line=json.dumps(orders).encode() + b"\n")
        try:
            self._process = await local.started(launch, socket, Confinement(memory_bytes=memory_bytes))
        except Failed as failure:
            return {"why": failure.args[0]}  # with its code, if it has one
        self._relay = Relay(str(socket), key)
        ip = ip or _node_ip()
        return {"ip": ip, "port": await self._relay.listen(ip), "pid": self._process.pid, "member": _member()}

    async def ended(self) -> str:
        """Return when the engine's process has ended, with why."""
        if self._process is None:
            return say("replica.not_started", "its process was not started")
        return say("replica.ended", "its process ended with code {status}", status=await self._process.wait())

    async def lives(self) -> str:
        """A sign of life: of this host and its node, whatever its engine is doing."""
        return "here"

    async def end(self, within_s: float) -> None:
        """End it all, politely."""
        if self._relay is not None:
            self._relay.close()
        if self._process is not None:
            await local.buried(self._process, within_s)
        for incoming in self._incoming.values():
            incoming.drop()
        if self._folder is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(self._folder)

    def _here(self, told: Any, socket: str) -> Any:
        """The same orders with this node's paths."""
        if isinstance(told, dict):
            return {name: self._here(value, socket) for name, value in told.items()}
        if isinstance(told, list):
            return [self._here(value, socket) for value in told]
        if not isinstance(told, str):
            return told
        if told == SOCKET:
            return socket
        for folder, place in self._moved.items():
            if told == folder or told.startswith(folder + "/"):
                return place + told[len(folder) :]
        return told


def _member() -> str:
    """This node, as the cluster calls it."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _node_ip() -> str:
    import ray

    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
