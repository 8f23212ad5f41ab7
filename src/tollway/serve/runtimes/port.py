"""What a runtime is: something that starts an engine's process somewhere and says where it answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from tollway.serve.engines import Address, Engine


class Failed(Exception):
    """This life of a replica is over; the text says why."""


class Confinement(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica's process may take and see."""

    memory_bytes: int = 0  # of its own: heap and private pages, not the weights that it maps; 0: as much as it likes
    home: str = ""  # the shop's, of which it sees the packages only; "": it is elsewhere


Waits = Callable[[str], None]
"""Told why there is no room for a replica, and "" when there is: its start begins then."""


class Place(Protocol):
    """Where one engine runs now. A replica answers HTTP there: on a unix socket here, on TCP with a key elsewhere."""

    @property
    def address(self) -> Address:
        """Where to send calls."""
        ...

    @property
    def pid(self) -> int | None:
        """Of its process; None when it has ended."""
        ...

    @property
    def node(self) -> str:
        """The machine: "local", or a node's address."""
        ...

    async def ended(self) -> str:
        """Return when the process has ended, with why."""
        ...

    def kill(self) -> None:
        """End the process at once; `ended` tells."""
        ...


class Runtime(Protocol):
    """Starts and ends places."""

    async def start(self, engine: Engine, folder: Path, confinement: Confinement, waits: Waits) -> Place | None:
        """Start the engine and wait until it has loaded its model. `folder` is private to this replica. While there is no room
        for it, it waits for as long as that takes, and `waits` is told. None: the engine has nothing to start (an upstream).
        Raises Failed."""
        ...

    async def stop(self, place: Place, within_s: float) -> None:
        """End it for certain: politely, and after `within_s` otherwise."""
        ...

    async def crowded(self) -> list[Place]:
        """Replicas, one of each version at most, that share a machine with another of their version while a machine with fewer
        of them has room: what starts beside one of these goes there."""
        ...

    def expect(self, replicas: int) -> None:
        """So many replicas are to run, and not all do: have room for them. 0: all do. Returns at once; it is only a hint."""
        ...

    async def close(self) -> None:
        """Let go of whatever this runtime holds."""
        ...
