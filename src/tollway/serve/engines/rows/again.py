"""Measuring again: a plan that was found while others held the cores is not kept for good.

A model is often loaded for the first time in a restless moment: the gateway starts, other models load. `calibration.py` notes
with the plan how much others took meanwhile. When that was much, and later nobody has called for a while and the machine is
quiet, the replica measures once more beside its idle lanes and goes over to what it finds. The first call that comes breaks
the measuring off, between two batches. A measurement that was disturbed as well is kept only when it was disturbed less, and
the next try waits longer.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from tollway.serve.engines.rows.calibration import Broken, Ready
from tollway.serve.engines.rows.lanes import Lanes
from tollway.serve.engines.rows.neighbours import DISTURBED

LOOK_S: Final = 10.0
_QUIET_LOOKS: Final = 3  # in a row: nobody called, and the machine was quiet
_QUIET_LOOKS_MOST: Final = 360

Measure = Callable[[threading.Event], Ready]
"""Another try, in a thread; raises Broken once the event is set."""


class Counter(Protocol):
    """Where calls come in."""

    on_call: Callable[[], None] | None
    calls: int  # that came so far
    lanes: Lanes

    @property
    def running(self) -> bool:
        """Whether something is computed."""
        ...

    def take(self, lanes: Lanes) -> None:
        """Calls from now on go to these lanes."""
        ...


async def watch(
    counter: Counter,
    measure: Measure,
    share: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Returns once the plan was found in a quiet moment."""
    wanted, quiet, seen = _QUIET_LOOKS, 0, counter.calls
    share()
    while counter.lanes.plan.disturbed > DISTURBED:
        await sleep(LOOK_S)
        calm = share() <= DISTURBED and counter.calls == seen and not counter.running
        quiet, seen = quiet + 1 if calm else 0, counter.calls
        if quiet >= wanted:
            await _tried(counter, measure)
            quiet, wanted = 0, min(2 * wanted, _QUIET_LOOKS_MOST)
            share()


async def _tried(counter: Counter, measure: Measure) -> None:
    stop = threading.Event()
    counter.on_call = stop.set
    try:
        found = await asyncio.to_thread(measure, stop)
    except (Broken, MemoryError):
        return
    finally:
        counter.on_call = None
        stop.set()
    if found.plan.disturbed >= counter.lanes.plan.disturbed or counter.running:
        return
    counter.take(Lanes(found.lanes, found.wide, found.plan))
