"""Many timers of one length, nearly all of which are cancelled: the deadlines of calls. For the hot path of the gateway.

A timer of the event loop's own costs microseconds to make, to cancel and to sweep up, for every call. All of these
together keep one: since each waits equally long, the first that was started is the first that is due.
"""

import asyncio
import time
from collections.abc import Callable


class Delays:
    """Calls back `seconds` after `start`, unless cancelled before. Use it from one event loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._started: dict[int, tuple[float, Callable[[], None]]] = {}  # in the order of their ends
        self._last = 0
        self._watching = False

    def start(self, fire: Callable[[], None]) -> int:
        """Begin a delay; its ticket is for `cancel`."""
        self._last = ticket = self._last + 1
        self._started[ticket] = (time.monotonic() + self._seconds, fire)
        if not self._watching:
            self._watch(self._seconds)
        return ticket

    def cancel(self, ticket: int) -> None:
        """End a delay; one that has fired is none."""
        self._started.pop(ticket, None)

    def _watch(self, seconds: float) -> None:
        self._watching = True
        asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._watching = False
        now, loop = time.monotonic(), asyncio.get_running_loop()
        while self._started:
            ticket, (end, fire) = next(iter(self._started.items()))
            if end > now:
                self._watch(end - now)
                return
            del self._started[ticket]
            loop.call_soon(fire)
