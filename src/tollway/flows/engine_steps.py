"""How full the engines' steps are: what a replica works on at once, over the most that it would.

Engines that batch rows count for themselves and tell it with their pulse: rows and batches since they began, and how large
a batch may be. A language model's step goes on for every call inside, so its seat says it. Somebody else's server says neither.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec

from tollway.kit.clock import Clock
from tollway.serve.fleet import Fleet
from tollway.serve.line import Seat
from tollway.serve.wire import WireError

Place = tuple[str, str, int]  # model, version, number of the replica
_ANSWERED_WITHIN_S: Final = 0.5
_LATELY_S: Final = 10.0


class Counted(msgspec.Struct, frozen=True):
    """What an engine that batches rows did since it began, and the largest batch it would make."""

    rows: int = 0
    batches: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    budget: int = 0  # tokens of a batch, filled up
    rows_most: int = 0


_NOTHING: Final = Counted()


class Fill(msgspec.Struct, frozen=True):
    """A replica's newest steps. `unit`: rows or sequences; `useful_share`: of the tokens of a batch, those that are no padding."""

    unit: str
    inside: float
    capacity: float
    useful_share: float = 1.0

    @property
    def share(self) -> float:
        """How full."""
        return min(1.0, self.inside / self.capacity) if self.capacity > 0 else 0.0


async def counted(fleet: Fleet) -> dict[Place, Counted]:
    """What the engines that batch rows did so far; one that does not answer is left out."""
    seats = {
        (served.name, seat.version, seat.number): seat
        for served in fleet.versions()
        if served.caps.turns
        for seat in served.line.seats
        if seat.ready
    }
    told = await asyncio.gather(*(_told(seat) for seat in seats.values()))
    return {place: one for place, one in zip(seats, told, strict=True) if one is not None}


async def _told(seat: Seat) -> Counted | None:
    with suppress(WireError, TimeoutError, msgspec.DecodeError):
        async with asyncio.timeout(_ANSWERED_WITHIN_S):
            return msgspec.json.decode((await seat.pool.get("/health")).body, type=Counted)
    return None


class Steps:
    """Looked at again and again: what was counted between looks is what the engines did lately."""

    def __init__(self, fleet: Fleet, clock: Clock) -> None:
        self._fleet, self._clock = fleet, clock
        self._looks: dict[Place, deque[tuple[float, Counted]]] = {}

    async def look(self) -> dict[Place, Fill]:
        """How full the newest steps of each replica were; one that has done nothing yet is left out."""
        found = {
            (view.model, view.version, view.number): Fill("sequences", view.fill_share * view.slots, view.slots)
            for served in self._fleet.versions()
            if not (served.caps.turns or served.passes_through)
            for view in served.views()
            if view.fill_share > 0
        }
        return found | self._lately(await counted(self._fleet))

    def _lately(self, now: Mapping[Place, Counted]) -> dict[Place, Fill]:
        at, found = self._clock.monotonic(), {}
        self._looks = {place: looks for place, looks in self._looks.items() if place in now}
        for place, one in now.items():
            looks = self._looks.setdefault(place, deque([(at, _NOTHING)]))
            if one.batches < looks[-1][1].batches:  # it was started again
                looks.clear()
                looks.append((at, _NOTHING))
            if one.batches > looks[-1][1].batches:
                looks.append((at, one))
                while len(looks) > 2 and (looks[0][1] == _NOTHING or at - looks[1][0] >= _LATELY_S):
                    looks.popleft()
            fill = _between(looks[0][1], looks[-1][1])
            if fill is not None:
                found[place] = fill
        return found


def _between(before: Counted, after: Counted) -> Fill | None:
    """What was done from one look to another; None for nothing."""
    rows, batches = after.rows - before.rows, after.batches - before.batches
    padded = after.padded_tokens - before.padded_tokens
    if rows <= 0 or batches <= 0 or padded <= 0:
        return None
    fits = min(after.rows_most or rows, after.budget * rows / padded)  # rows of the length that came
    useful = (after.tokens - before.tokens) / padded
    return Fill("rows", rows / batches, max(1.0, fits), useful)
