"""Replicas as if each were on a node of its own whose power can go: no process ends, no connection closes, nobody can end it.

    nodes = Unplugged()
    nodes.places[0].unplug()      from now on it is silent
    nodes.places[0].missed.set()  and now the cluster says so
"""

import asyncio
import signal
from pathlib import Path
from typing import Any

from tollway.serve.engines import Engine
from tollway.serve.runtimes import Confinement, Local, Place, Waits
from tollway.serve.runtimes.local import Process, buried


class Node(Process):
    """A node with one replica."""

    def __init__(self, process: asyncio.subprocess.Process, address: Any) -> None:
        super().__init__(process, address)
        self.dark, self.missed = False, asyncio.Event()

    def unplug(self) -> None:
        self.dark = True
        self.process.send_signal(signal.SIGSTOP)

    async def ended(self) -> str:
        await self.missed.wait()
        return "its node is gone"

    def kill(self) -> None:
        """Nothing arrives there."""


class Unplugged(Local):
    """The runtime of one box with such nodes; `close` ends what no longer hears."""

    def __init__(self) -> None:
        self.places: list[Node] = []

    async def start(self, engine: Engine, folder: Path, confinement: Confinement, waits: Waits) -> Place | None:
        made = await super().start(engine, folder, confinement, waits)
        assert isinstance(made, Process)
        self.places.append(Node(made.process, made.address))
        return self.places[-1]

    async def stop(self, place: Place, within_s: float) -> None:
        assert isinstance(place, Node)
        if not place.dark:
            await super().stop(place, within_s)

    async def close(self) -> None:
        for place in self.places:
            if place.dark:
                await buried(place.process, 0)
