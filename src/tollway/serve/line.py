"""The line in front of one model: who runs next on which replica, fairly between organizations.

A replica takes as many calls as it has slots and as many tokens as its context cache holds. What does not fit waits in a
bounded queue, one lane per organization, served in turn, so that a flood from one does not bury another. A full queue
refuses at once; a wait has an end.
"""

import asyncio
from collections import OrderedDict, deque

import msgspec

from tollway.kit.errors import Unavailable
from tollway.serve.engine_time import EngineTime
from tollway.serve.outliers import Health
from tollway.serve.wire import Pool


class Seat(msgspec.Struct):
    """One replica (or upstream) as the line sees it."""

    pool: Pool
    slots: int
    context_tokens: int  # of all slots together; 0: the engine does not say
    version: str
    prefix: str = ""  # before OpenAI's paths
    ready: bool = True
    running: int = 0
    tokens: int = 0
    time: EngineTime | None = None  # None for upstreams: not our machine
    life: int = 0  # how often its replica was started
    health: Health = msgspec.field(default_factory=Health)

    def fits(self, tokens: int) -> bool:
        """Whether a call of so many tokens may start here now."""
        if not self.ready or self.running >= self.slots:
            return False
        return self.context_tokens == 0 or self.running == 0 or self.tokens + tokens <= self.context_tokens


class _Waiting(msgspec.Struct):
    tokens: int
    since: float
    seat: "asyncio.Future[Seat]"


class Line:
    """Seats of one model and the calls waiting for them."""

    def __init__(self, model: str, queue_max: int, queue_timeout_s: float) -> None:
        self.model = model
        self.seats: list[Seat] = []
        self._queue_max = queue_max
        self._timeout_s = queue_timeout_s
        self._lanes: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        self.waiting = 0

    def take_at_once(self, tokens: int, avoid: Seat | None = None) -> Seat | None:
        """A seat for a call of at most `tokens`, if one is free and nobody waits for it; give it back with `leave`.
        `avoid`: not this one, where the call has failed before."""
        seat = None if self.waiting else self._free_seat(tokens, avoid)
        return None if seat is None else _sit(seat, tokens)

    async def take(self, org_id: str, tokens: int) -> Seat:
        """A seat for a call of at most `tokens`; give it back with `leave`. Raises Unavailable when there is none."""
        seat = self.take_at_once(tokens)
        if seat is not None:
            return seat
        if self.waiting >= self._queue_max:
            self._make_room(org_id)
        loop = asyncio.get_running_loop()
        place = _Waiting(tokens, loop.time(), loop.create_future())
        self._lanes.setdefault(org_id, deque()).append(place)
        self.waiting += 1
        self.seat_next()  # those before may all be seated and not have noticed yet
        try:
            async with asyncio.timeout(self._timeout_s):
                return await place.seat
        except BaseException as error:
            seated = place.seat.done() and not place.seat.cancelled() and place.seat.exception() is None
            if seated:  # in the very moment we gave up
                self.leave(place.seat.result(), tokens)
            if isinstance(error, TimeoutError):
                raise self._refusal(f"had no replica free within {self._timeout_s:g} s") from None
            raise
        finally:
            self._forget(org_id, place)

    def leave(self, seat: Seat, tokens: int) -> None:
        """The call is over; whoever is next may sit down."""
        seat.running -= 1
        seat.tokens -= tokens
        self.seat_next()

    def seat_next(self) -> None:
        """Hand free seats to those waiting, one organization after the other. Called when anything became free."""
        if not self._lanes:
            return
        passed, now = 0, asyncio.get_running_loop().time()
        while self._lanes and passed < len(self._lanes):
            org_id, lane = next(iter(self._lanes.items()))
            self._lanes.move_to_end(org_id)
            place = next((p for p in lane if not p.seat.done()), None)
            seat = self._free_seat(place.tokens) if place else None
            if place is not None and seat is None and now - place.since > self._timeout_s / 4:
                self._lanes.move_to_end(org_id, last=False)
                return  # a large call has let smaller ones pass for long enough: now they wait until it fits
            if place is None or seat is None:
                passed += 1
                continue
            passed = 0
            place.seat.set_result(_sit(seat, place.tokens))

    def _make_room(self, org_id: str) -> None:
        """The line is full: whoever fills it gives up the last of its places to one who has fewer. Raises Unavailable when
        that is who asks."""
        waiting = {org: [place for place in lane if not place.seat.done()] for org, lane in self._lanes.items()}
        longest = max(waiting.values(), key=len, default=[])
        refusal = self._refusal("has too many calls waiting")
        if len(longest) <= len(waiting.get(org_id, ())) + 1:
            raise refusal
        longest[-1].seat.set_exception(refusal)

    def _free_seat(self, tokens: int, avoid: Seat | None = None) -> Seat | None:
        """The least busy seat where the call fits."""
        best = None
        for seat in self.seats:
            if seat.fits(tokens) and (best is None or seat.running < best.running) and seat is not avoid:
                best = seat
        return best

    def _forget(self, org_id: str, place: _Waiting) -> None:
        self.waiting -= 1
        lane = self._lanes.get(org_id)
        if lane is not None:
            lane.remove(place)
            if not lane:
                del self._lanes[org_id]

    def _refusal(self, why: str) -> Unavailable:
        return Unavailable(
            f"The model {self.model!r} {why}.",
            code="overloaded",
            hint="Try again after the time in Retry-After.",
            retry_after_s=2,
        )


def _sit(seat: Seat, tokens: int) -> Seat:
    seat.running += 1
    seat.tokens += tokens
    return seat
