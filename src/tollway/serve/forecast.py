"""How long until a call would be answered? Measured, for the line in front of a model.

Work is counted in what the engine does for a call (`cost`: tokens, rows), known for certain only when the call is over; until
then it is what was held for it times the share that its organization's calls turn out to use (`Habit`). The rate is what left
the line a second while every seat had enough to do: nothing is learnt from idle times, so a quiet night does not make the
morning slow. Before the first calls it is what the replicas showed when they became ready (`Replica.rate`), so that the first
burst is not met blind.
"""

import math

import msgspec

_WINDOW_S = 0.2  # one look at the rate takes at least so long
_MEMORY_S = 2.0  # in which older looks fade
_SHARE_LEARNS = 0.05
_HABITS_MAX = 4096  # organizations
_USUAL_MOST = 256.0  # tokens: what a call is taken to cost at most, until one was seen
_OLD_S = 5.0  # after so long without a look a rate is no reason to send away who comes to an idle line
_BUSY_S = 10.0  # after so long what is done without being pressed is counted anew: earlier work says little about now
_CROWDED = 1.15  # what comes / what can be served: chance alone brings less
_PRESSED_AT = 8  # calls in a seat: an engine that takes many at once is at full speed from here


class _Look(msgspec.Struct):
    """What left the line from a moment on. `since`: monotonic seconds; inf: nobody looks."""

    since: float = math.inf
    cost: float = 0.0
    calls: int = 0

    @property
    def goes_on(self) -> bool:
        return self.since < math.inf

    def begin(self, now: float) -> None:
        self.since, self.cost, self.calls = now, 0.0, 0

    def end(self) -> None:
        self.since = math.inf

    def note(self, cost: float) -> None:
        self.cost += cost
        self.calls += 1


class _Mean(msgspec.Struct):
    """Of a few calls the average, of many it follows the newest."""

    value: float
    calls: int = 1


class Habit:
    """What the calls of one organization turn out to cost, by how much is held for them: who names no `max_tokens` holds ten
    times what is written in the end, who names one may use it up. One share for all would let in too much of the one and refuse
    the other for work that is never done. Every call asks: few steps, and none into other functions."""

    __slots__ = ("_everybody", "_shares")

    def __init__(self, everybody: "Forecast") -> None:
        self._everybody = everybody
        self._shares: dict[int, _Mean] = {}  # by the size of what is held

    def cost_of(self, tokens: int) -> float:
        """What a call for which so many tokens are held will cost."""
        seen = self._shares.get(size := tokens.bit_length())
        found = tokens * (self._everybody.share_of(size) if seen is None else seen.value)
        return found if found > 1.0 else 1.0

    def cost(self, held: "Held") -> float:
        """What all these calls will cost."""
        found = 0.0
        for size in held:
            seen = self._shares.get(size)
            found += held[size] * (self._everybody.share_of(size) if seen is None else seen.value)
        return found

    def learn(self, tokens: int, cost: float) -> None:
        """A call is over: this is what it cost."""
        share = cost / tokens
        seen = self._shares.get(size := tokens.bit_length())
        if seen is None:
            self._shares[size] = _Mean(share)
            return
        seen.calls += 1
        seen.value += (share - seen.value) * (1 / seen.calls if seen.calls < 1 / _SHARE_LEARNS else _SHARE_LEARNS)


class Held(dict[int, int]):
    """Tokens that are held for calls, by size: calls for which like amounts are held are of one kind."""

    def add(self, tokens: int) -> None:
        """A call comes."""
        size = tokens.bit_length()
        self[size] = self.get(size, 0) + tokens

    def drop(self, tokens: int) -> None:
        """It goes."""
        size = tokens.bit_length()
        self[size] -= tokens
        if not self[size]:
            del self[size]


class Forecast:
    """Rate and share of one line. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self.rate = 0.0  # cost per second; 0: not known yet
        self.share = 1.0  # cost per token held, of all calls
        self.usual = 0.0  # cost of a call
        self._over = 0  # calls that have shown what one costs
        self._habits: dict[str, Habit] = {}  # by organization, those known longest first
        self._held = self._supposed = 0.0  # before the first: tokens that calls would hold, and what they were taken to cost
        self._looked_at = self._sent_at = -math.inf  # when the rate was last looked at, and somebody sent to look
        self._full = _Look()  # since the seats are full: all that can be done
        self._busy = _Look()  # since somebody sat down where nobody was, or later: what can be done at least
        self._offered, self._offered_at = 0.0, -math.inf  # cost that came, fading

    @property
    def seen(self) -> bool:
        """Whether the rate was looked at, and is not only what was expected."""
        return self._looked_at > -math.inf

    def share_of(self, size: int) -> float:
        """Cost per token held where nothing else is known of calls of this size: they cost what calls usually do, however much is
        held for them. Who held much and was taken for expensive would never be let in, and never show what it costs."""
        usual = self.usual / (1 << max(0, size - 1))  # each holds so many tokens at least
        return min(self.share, usual) if usual > 0 else self.share

    def habit(self, org_id: str) -> Habit:
        """What is known of an organization's calls."""
        found = self._habits.get(org_id)
        if found is None:
            found = self._habits[org_id] = Habit(self)
            if len(self._habits) > _HABITS_MAX:  # who is still here keeps its own, and is learnt again after that
                del self._habits[next(iter(self._habits))]
        return found

    def seconds(self, cost: float) -> float:
        """How long so much work takes; 0 while nothing is known."""
        return cost / self.rate if self.rate > 0 else 0.0

    def expect(self, rate: float) -> None:
        """What the replicas showed when they became ready; 0: they could not. It is believed until calls show something else:
        measured with short prompts, and perhaps in a bad moment."""
        if not self.seen:
            self.rate = max(self.rate, rate)

    def learn(self, habit: Habit, tokens: int, cost: float) -> None:
        """A call of an organization is over: this is what it cost."""
        if tokens > 0:
            self._over += 1
            weight = max(_SHARE_LEARNS, 1 / self._over)
            self.share += weight * (cost / tokens - self.share)
            self.usual += weight * (cost - self.usual)
            habit.learn(tokens, cost)

    def offered(self, now: float, tokens: int, habit: Habit, left_s: float) -> tuple[float, bool]:
        """A call has come that would hold so many tokens, whatever becomes of it. What it will cost, and whether more has come
        lately than can be served. None asks for more than everything in the time that it has: who has none makes it tight for
        nobody."""
        if not self._over:
            self._suppose(tokens)
        cost = habit.cost_of(tokens)
        asked = max(1.0, min(cost, left_s * self.rate)) if self.rate > 0 else cost
        self._offered = self._offered * math.exp((self._offered_at - now) / _MEMORY_S) + asked
        self._offered_at = now
        return cost, self._offered > _CROWDED * self.rate * _MEMORY_S

    def _suppose(self, tokens: float) -> None:
        """Before a call has shown what one costs: all that is held, up to an answer of usual length. Who names no `max_tokens`
        holds far more than will be written."""
        self._held += tokens
        self._supposed += min(tokens, _USUAL_MOST)
        if self._held > 0:
            self.share = self._supposed / self._held

    def sat(self, now: float, *, pressed: bool, alone: bool = False) -> None:
        """Something took a seat. `pressed`: the seats are full now. A look begins with the first of them, and ends without a
        result when the next finds room: what is done from then on is no longer all that can be done. `alone`: nothing else
        runs."""
        if alone:
            self._busy.begin(now)
        if not pressed:
            self._full.end()
        elif not self._full.goes_on:
            self._full.begin(now)

    def left(self, now: float, done: float, *, pressed: bool, turn: int) -> None:
        """Something left a seat (`done`: its cost). `pressed`: the seats were full until now. A look takes a whole `turn` of
        calls: those that begin together in one engine end together too, and the first alone would make it look slow."""
        busy, full = self._busy, self._full
        busy.note(done)
        busy_s = now - busy.since
        unseen = now - self._looked_at > _OLD_S
        if unseen and busy.cost > self.rate * busy_s > 0:  # what is done without being pressed can be done
            self._blend(busy.cost, busy_s)
        if busy_s >= _BUSY_S:
            busy.begin(now)
        if full.goes_on:
            full.note(done)
            full_s = now - full.since
            if full_s < _WINDOW_S or full.calls < turn:
                return
            if full.cost > 0:  # else they all failed: that says nothing about speed
                self._blend(full.cost, full_s)
                self._looked_at = now
            full.end()
        self.sat(now, pressed=pressed)

    def _blend(self, done: float, seconds: float) -> None:
        """What was seen takes the place of what was only expected, or is one more look among several."""
        weight = 1 - math.exp(-seconds / _MEMORY_S) if self.seen else 1.0
        self.rate += weight * (done / seconds - self.rate)

    def is_doubted(self, now: float) -> bool:
        """Whether the rate was not looked at for a while. Asked where nothing runs: who asks may go and look."""
        if now - max(self._looked_at, self._sent_at) <= _OLD_S:
            return False
        self._sent_at = now
        return True


def pressed_at(slots: int) -> int:
    """Calls in a seat of so many slots from which it is at full speed."""
    return slots if slots < _PRESSED_AT else _PRESSED_AT
