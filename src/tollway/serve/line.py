"""The line in front of one version of a model: who runs next on which replica, and who had better not wait at all.

A replica takes as many calls as it has slots and as many tokens as its context cache holds. What does not fit waits. Free
seats go to the highest tier that waits (priority, standard, batch), there to the organization that was served least in
proportion to its weight. A call that cannot be answered in time is refused at once, with the time after which it could be:
the line knows its rate (`forecast.py`) and that it serves fairly, so that who floods it is refused and who is quiet is not.

Work is a number: tokens held until a call is over, then what it really was. Everything here runs on one event loop, in steps
of microseconds.
"""

import asyncio
import math
import time
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from tollway.kit.errors import Unavailable
from tollway.serve.engine_time import EngineTime
from tollway.serve.forecast import Forecast, Habit, Held, pressed_at
from tollway.serve.outliers import Health
from tollway.serve.wire import Pool

TIERS = ("priority", "standard", "batch")
_FAIR_S = 0.5  # who has less time than this proves nothing about a rate
_IN_TIME = 0.65  # a call must be expected to end within this part of the time it has: what is expected can be wrong
_STANDING = 0.11  # the same while more comes than can be served: a queue that stands adds nothing but waiting
_LOWER_TIER_EVERY = 8  # seats: a flood of priority calls leaves the standard ones this share
_GONE_MAX = 4096
_WAIT_LEAST_S = 0.05


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
    node: str = ""  # of the cluster; "": this machine, or an upstream
    number: int = 1  # of its replica, as people see it
    slots_sorted: int = 0  # calls that it takes while it matters whose they are; 0: as many as ever
    health: Health = msgspec.field(default_factory=Health)

    def fits(self, tokens: int, spare: int = 0) -> bool:
        """Whether a call of so many tokens may start here now, and leave `spare` slots."""
        if not self.ready or self.running + spare >= self.slots:
            return False
        return self.context_tokens == 0 or self.running == 0 or self.tokens + tokens <= self.context_tokens


class Turn(msgspec.Struct, frozen=True):
    """Whose call it is and how urgent. `deadline`: monotonic seconds by which the answer must be there."""

    org_id: str = ""
    deadline: float = math.inf
    tier: int = 1
    weight: float = 1.0

    def told(self, now: float) -> bytes:
        """What an engine with turns of its own is told: its rows wait once more, in its lanes."""
        left = 0 if self.deadline == math.inf else max(1, round((self.deadline - now) * 1000))
        who = zlib.crc32(self.org_id.encode())
        return b'"turn":{"who":%d,"weight":%.4g,"left_ms":%d,"tier":%d}' % (who, self.weight, left, self.tier)


ANYBODY = Turn()


class _Waiting(msgspec.Struct, eq=False):
    tokens: int
    since: float
    deadline: float
    seat: "asyncio.Future[Seat]"


class _Member:
    """One organization in one tier: what was done for it, by its weight, and the tokens of its calls that run (`running`) and
    that wait or are only being counted (`queued`)."""

    __slots__ = ("calls", "coming", "habit", "org_id", "queued", "running", "served", "tier", "weight")

    def __init__(self, org_id: str, tier: int, habit: Habit) -> None:
        self.org_id, self.tier, self.habit, self.served, self.weight = org_id, tier, habit, 0.0, 1.0
        self.calls: deque[_Waiting] = deque()
        self.running, self.queued, self.coming = Held(), Held(), 0

    @property
    def level(self) -> float:
        """How well it was served, with what runs for it."""
        return self.served + self.habit.cost(self.running) / self.weight

    @property
    def work(self) -> float:
        """What its calls that run and wait are expected to cost."""
        return self.habit.cost(self.running) + self.habit.cost(self.queued)


class Line:
    """Seats of one model and the calls waiting for them."""

    def __init__(
        self, model: str, queue_max: int, queue_timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.model = model
        self.seats: list[Seat] = []
        self.forecast = Forecast()
        self.waiting = self.running = 0
        self.refused: dict[str, int] = {}  # by reason
        self._queue_max = queue_max
        self._timeout_s = queue_timeout_s
        self._now = clock
        self._members: tuple[dict[str, _Member], ...] = tuple({} for _ in TIERS)
        self._waiting: tuple[dict[str, _Member], ...] = tuple({} for _ in TIERS)  # those with calls that wait
        self._gone: dict[tuple[int, str], float] = {}  # levels of those who are not here, as long as they say something
        self._floor = [0.0] * len(TIERS)  # the level of who was seated last
        self._ranks = defaultdict[tuple[int, float], int](int)  # tier and weight -> organizations that run or wait with them
        self._higher = 0  # seats in a row that went past a standard call that waited

    # -- coming and going --------------------------------------------------------------------------------------------

    def require(self, tokens: int, turn: Turn) -> None:
        """Raises Unavailable when a call of about so many tokens could not be answered in time: before anything is spent
        on it. Cheap; once for each call, for it is counted as what comes."""
        now = self._now()
        cost, crowded = self.forecast.offered(now, tokens, self.forecast.habit(turn.org_id), turn.deadline - now)
        if self.forecast.rate > 0:
            self._refuse_late(cost, turn, now, crowded=crowded)

    @contextmanager
    def expecting(self, tokens: int, turn: Turn) -> Iterator[None]:
        """While a call that was let in is counted by its engine, about so many tokens stand in the reckoning for it: those who
        come in the same moment must not all find the line empty."""
        member = self._member(turn)
        member.coming += 1
        member.queued.add(tokens)
        try:
            yield
        finally:
            member.coming -= 1
            member.queued.drop(tokens)
            self._let_go(member)

    def _refuse_late(self, cost: float, turn: Turn, now: float, *, crowded: bool) -> None:
        left_s, rate = turn.deadline - now, self.forecast.rate
        member = self._members[turn.tier].get(turn.org_id)
        own = cost + (member.work if member else 0.0)
        needed_s = own / rate
        if needed_s <= left_s * _IN_TIME:
            needed_s += self._others(own, turn) / rate
        bound_s = left_s * _IN_TIME
        if self.forecast.seen:  # nobody is sent away for our own impatience because of a rate that is only expected
            bound_s = min(bound_s, self._timeout_s + cost / rate)  # the rest of what is needed is waiting
        if crowded and needed_s > left_s * _STANDING:
            bound_s = min(bound_s, max(left_s * _STANDING, self._enough_s()))
        if needed_s > bound_s and not (bound_s >= _FAIR_S and self._goes_to_look(now)):
            raise self._refusal("late", "cannot answer this call in the time that it has", needed_s - bound_s)

    def _goes_to_look(self, now: float) -> bool:
        """Whether this is what an older rate says while nothing runs: a rate that was learnt in a bad moment would otherwise
        keep everybody out, and never be put right. One goes in and shows what can be done."""
        idle = not self.waiting and not self.running and not any(self._members)
        return idle and self.forecast.is_doubted(now)

    def _enough_s(self) -> float:
        """How much work, in seconds, keeps all seats at full speed: twice the calls that they need for that. Endless before a
        call has shown what one costs."""
        calls = sum(pressed_at(seat.slots) for seat in self.seats if seat.ready)
        return 2 * self.forecast.seconds(calls * self.forecast.usual) or math.inf

    def take_at_once(self, tokens: int, avoid: Seat | None = None, turn: Turn = ANYBODY) -> Seat | None:
        """A seat for a call of at most `tokens`, if one is free and nobody waits for it; give it back with `leave`.
        `avoid`: not this one, where the call has failed before."""
        if self.waiting:
            return None
        seat = self._free_seat(tokens, turn.tier, avoid)
        return None if seat is None else self._sit(seat, tokens, self._member(turn))

    async def take(
        self,
        org_id: str,
        tokens: int,
        *,
        deadline: float | None = None,
        priority: str = "standard",
        weight: float = 1.0,
    ) -> Seat:
        """A seat for a call of at most `tokens`; give it back with `leave`, in the name of the same turn. `deadline`: monotonic
        seconds. Raises Unavailable when there is none in time: at once, where that can be foreseen."""
        turn = Turn(org_id, math.inf if deadline is None else deadline, TIERS.index(priority), weight)
        self.require(tokens, turn)
        return await self.take_turn(tokens, turn)

    async def take_turn(self, tokens: int, turn: Turn, avoid: Seat | None = None) -> Seat:
        """The same for a turn, whether or not it can be expected to be in time: see `require`."""
        seat = self.take_at_once(tokens, avoid, turn)
        if seat is not None:
            return seat
        if self.waiting >= self._queue_max:
            self._make_room(turn)
        now = self._now()
        place = _Waiting(tokens, now, turn.deadline, asyncio.get_running_loop().create_future())
        member = self._member(turn)
        member.calls.append(place)
        member.queued.add(tokens)
        self._waiting[turn.tier][turn.org_id] = member
        self.waiting += 1
        self.seat_next()  # those before may all be seated and not have noticed yet
        patience_s = min(self._timeout_s, turn.deadline - now)
        try:
            async with asyncio.timeout(patience_s):
                return await place.seat
        except BaseException as error:
            seated = place.seat.done() and not place.seat.cancelled() and place.seat.exception() is None
            if seated:  # in the very moment we gave up
                self.leave(place.seat.result(), tokens, turn=turn, cost=0)
            if isinstance(error, TimeoutError):
                raise self._refusal("late", f"had no replica free within {max(0.0, patience_s):.3g} s") from None
            raise
        finally:
            self._forget(member, place)

    def leave(
        self, seat: Seat, tokens: int, *, turn: Turn = ANYBODY, cost: float | None = None, cut_off: bool = False
    ) -> None:
        """The call is over; whoever is next may sit down. `cost`: what it really was, where that is known. `cut_off`: it would
        have cost more."""
        pressed = self._pressed(seat)
        self.running -= 1
        seat.running -= 1
        seat.tokens -= tokens
        member = self._members[turn.tier].get(turn.org_id)
        habit = self.forecast.habit(turn.org_id) if member is None else member.habit
        done = habit.cost_of(tokens) if cost is None else cost
        turns = pressed_at(seat.slots) * len(self.seats)
        self.forecast.left(self._now(), cost or 0.0, pressed=pressed, turn=turns)
        if cost and not (cut_off and cost < habit.cost_of(tokens)):  # one that took too long did cost that much
            self.forecast.learn(habit, tokens, cost)
        if member is not None:
            member.running.drop(tokens)
            member.served += done / member.weight
            self._let_go(member)
        self.seat_next()

    def send_away(self, why: Callable[[], Unavailable]) -> None:
        """Nobody can be seated before who knows when: those who wait hear it now, each as an error of its own."""
        for tier in self._waiting:
            for place in (one for member in tier.values() for one in member.calls if not one.seat.done()):
                place.seat.set_exception(why())

    # -- who is next -------------------------------------------------------------------------------------------------

    def seat_next(self) -> None:
        """Hand free seats to those waiting. Called when anything became free."""
        if not self.waiting:
            return
        now = self._now()
        while self.waiting and any(
            seat.ready and seat.running + self._kept_free(seat) < seat.slots for seat in self.seats
        ):
            tiers = (0, 1, 2)
            if self._higher >= _LOWER_TIER_EVERY:
                self._higher, tiers = 0, (1, 0, 2)
            for tier in tiers:
                seated = self._seat_one(tier, now)
                if seated is None:
                    return
                if seated:
                    break
            else:
                return

    def _seat_one(self, tier: int, now: float) -> bool | None:
        """Whether one of this tier could be seated: the one that was served least whose call fits. None: nobody may be
        seated now, since a large call has let smaller ones pass for long enough; now they wait until it fits."""
        passed = set[str]()
        while True:
            waiting = [one for one in self._waiting[tier].values() if one.org_id not in passed]
            if not waiting:
                return False
            member = min(waiting, key=lambda one: one.level)
            place = _first(member, now)
            if place is None:
                passed.add(member.org_id)
                continue
            seat = self._free_seat(place.tokens, tier)
            if seat is None:
                if tier < 2 and now - place.since > self._timeout_s / 4:
                    return None
                passed.add(member.org_id)
                continue
            self._floor[tier] = member.level
            member.queued.drop(place.tokens)
            self._higher = self._higher + 1 if tier == 0 and self._waiting[1] else 0
            place.seat.set_result(self._sit(seat, place.tokens, member))
            return True

    def _free_seat(self, tokens: int, tier: int, avoid: Seat | None = None) -> Seat | None:
        """The least busy seat where the call fits. Batches leave a quarter of the slots for those who come in person."""
        best, sorts = None, len(self._ranks) > 1
        for seat in self.seats:
            spare = seat.slots // 4 if tier == 2 else 0
            if sorts:
                spare = max(spare, self._kept_free(seat))
            if seat.fits(tokens, spare) and (best is None or seat.running < best.running) and seat is not avoid:
                best = seat
        return best

    def _kept_free(self, seat: Seat) -> int:
        """Slots there that nobody gets while one is to have more than another: who is seated is not sorted any more."""
        return max(0, seat.slots - seat.slots_sorted) if seat.slots_sorted and len(self._ranks) > 1 else 0

    def _make_room(self, turn: Turn) -> None:
        """The line is full: whoever fills it gives up the last of its places to one who has fewer, or to a higher tier.
        Raises Unavailable when that is who asks."""
        mine = self._members[turn.tier].get(turn.org_id)
        for tier in range(len(TIERS) - 1, turn.tier - 1, -1):
            waiting = [[one for one in member.calls if not one.seat.done()] for member in self._waiting[tier].values()]
            longest = max(waiting, key=len, default=[])
            own = sum(not one.seat.done() for one in mine.calls) if mine else 0
            if tier > turn.tier:
                own = -1
            if len(longest) > own + 1:
                longest[-1].seat.set_exception(self._refusal("full", "has too many calls waiting"))
                return
        raise self._refusal("full", "has too many calls waiting")

    # -- accounts ----------------------------------------------------------------------------------------------------

    def _member(self, turn: Turn) -> _Member:
        """The account of who asks. Who is new or comes back starts where the least served are: not behind, not ahead."""
        members = self._members[turn.tier]
        member = members.get(turn.org_id)
        if member is None:
            least = min(one.level for one in members.values()) if members else self._floor[turn.tier]
            before = self._gone.pop((turn.tier, turn.org_id), 0.0)
            member = members[turn.org_id] = _Member(turn.org_id, turn.tier, self.forecast.habit(turn.org_id))
            member.served = before if before > least else least
            self._count(member, 1)
        weight = turn.weight if turn.weight > 0 else 1.0
        if weight != member.weight:
            self._count(member, -1)
            member.weight = weight
            self._count(member, 1)
        return member

    def _count(self, member: _Member, more: int) -> None:
        """One of this rank comes or goes."""
        rank = member.tier, member.weight
        self._ranks[rank] += more
        if not self._ranks[rank]:
            del self._ranks[rank]

    def _others(self, own: float, turn: Turn) -> float:
        """Work that is done for others before an organization with so much of its `own` has had that: as much as it, by weight,
        where they have as much. Higher tiers go first with all they have."""
        ahead = 0.0
        for tier in range(turn.tier + 1):
            for org_id, member in self._members[tier].items():
                if tier == turn.tier:
                    if org_id != turn.org_id:
                        ahead += min(member.work, own * member.weight / turn.weight)
                else:
                    ahead += member.work
        return ahead

    def _sit(self, seat: Seat, tokens: int, member: _Member) -> Seat:
        self.running += 1
        seat.running += 1
        seat.tokens += tokens
        member.running.add(tokens)
        self.forecast.sat(self._now(), pressed=self._pressed(seat), alone=self.running == 1)
        return seat

    def _pressed(self, seat: Seat) -> bool:
        """Whether it is full. A seat for one is, and the next moment empty: there only who waits shows that it has enough to
        do."""
        return self.waiting > 0 or 1 < seat.running >= pressed_at(seat.slots)

    def _forget(self, member: _Member, place: _Waiting) -> None:
        """A call waits no more, with or without a seat."""
        self.waiting -= 1
        member.calls.remove(place)
        if not place.seat.done() or place.seat.cancelled() or place.seat.exception() is not None:
            member.queued.drop(place.tokens)
        if not member.calls:
            self._waiting[member.tier].pop(member.org_id, None)
        self._let_go(member)

    def _let_go(self, member: _Member) -> None:
        """Nothing runs or waits for it: its account is closed, what it was served is remembered."""
        if member.running or member.calls or member.coming:
            return
        if self._members[member.tier].pop(member.org_id, None) is not None:
            self._count(member, -1)
        self._gone[member.tier, member.org_id] = member.served
        if len(self._gone) > _GONE_MAX:  # those whom the others have overtaken start at the floor anyway
            kept = [(key, served) for key, served in self._gone.items() if served > self._floor[key[0]]]
            self._gone = dict(kept[-_GONE_MAX // 2 :])

    def _refusal(self, reason: str, why: str, wait_s: float | None = None) -> Unavailable:
        """An honest one: after `wait_s` the same call would be expected to be in time."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        if wait_s is None:
            wait_s = 2.0
        return Unavailable(
            f"The model {self.model!r} {why}.",
            code="overloaded",
            hint="Try again after the time in Retry-After.",
            retry_after_s=max(_WAIT_LEAST_S, wait_s),
        )


def _first(member: _Member, now: float) -> _Waiting | None:
    """The oldest of its calls that still wait, and can still be in time."""
    for place in member.calls:
        if not place.seat.done() and place.deadline > now:
            return place
    return None
