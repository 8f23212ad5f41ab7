"""Work that goes on beside its caller. Held until it is over: the event loop alone would let go of it half way."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any


class Tasks:
    """What was begun and is not over. Use it from one event loop."""

    def __init__(self) -> None:
        self._open: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter(tuple(self._open))

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin it; nobody waits for it."""
        task = asyncio.create_task(work)
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    def cancel(self) -> None:
        """Tell all of it to end."""
        for task in self:
            task.cancel()
