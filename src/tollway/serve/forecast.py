"""How long until a call would be answered? Measured, for the line in front of a model.

Work is counted in what the engine does for a call (`cost`: tokens, rows), known for certain only when the call is over; until
then it is what was held for it times the share that calls turn out to use. The rate is what left the line a second while
every seat had enough to do: nothing is learnt from idle times, so a quiet night does not make the morning slow.
"""

import math

_WINDOW_S = 0.2  # one look at the rate takes at least so long
_MEMORY_S = 2.0  # in which older looks fade
_SHARE_LEARNS = 0.05
_OLD_S = 5.0  # after so long without a look a rate is no reason to send away who comes to an idle line
_BUSY_S = 10.0  # after so long what is done without being pressed is counted anew: earlier work says little about now
_CROWDED = 1.15  # what comes / what can be served: chance alone brings less
_PRESSED_AT = 8  # calls in a seat: an engine that takes many at once is at full speed from here


class Forecast:
    """Rate and share of one line. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self.rate = 0.0  # cost per second; 0: not known yet
        self.share = 1.0  # cost per token held
        self.usual = 0.0  # cost of a call
        self._known = False
        self._looked_at = self._sent_at = -math.inf  # when the rate was last looked at, and somebody sent to look
        self._since = math.inf  # when this look began: the seats were full
        self._done, self._left = 0.0, 0  # cost and calls that left since then
        self._busy_since, self._busy_done = math.inf, 0.0  # when the first sat down where nobody was, or later; cost since then
        self._offered, self._offered_at = 0.0, -math.inf  # cost that came, fading

    def cost_of(self, tokens: float) -> float:
        """What a call for which so many tokens are held will cost."""
        return max(1.0, tokens * self.share)

    def seconds(self, cost: float) -> float:
        """How long so much work takes; 0 while nothing is known."""
        return cost / self.rate if self.rate > 0 else 0.0

    def learn(self, tokens: int, cost: float) -> None:
        """A call is over: this is what it cost."""
        if tokens > 0:
            found = cost / tokens
            self.share = self.share + _SHARE_LEARNS * (found - self.share) if self._known else found
            self.usual = self.usual + _SHARE_LEARNS * (cost - self.usual) if self._known else cost
            self._known = True

    def offered(self, now: float, tokens: float) -> bool:
        """A call has come, whatever becomes of it. Whether more has come lately than can be served."""
        self._offered = self._offered * math.exp(min(0.0, self._offered_at - now) / _MEMORY_S) + self.cost_of(tokens)
        self._offered_at = now
        return self._offered > _CROWDED * self.rate * _MEMORY_S

    def sat(self, now: float, *, pressed: bool, alone: bool = False) -> None:
        """Something took a seat. `pressed`: the seats are full now. A look begins with the first of them, and ends without a
        result when the next finds room: what is done from then on is no longer all that can be done. `alone`: nothing else
        runs."""
        if alone:
            self._busy_since, self._busy_done = now, 0.0
        if not pressed:
            self._since = math.inf
        elif self._since == math.inf:
            self._since, self._done, self._left = now, 0.0, 0

    def left(self, now: float, done: float, *, pressed: bool, turn: int) -> None:
        """Something left a seat (`done`: its cost). `pressed`: the seats were full until now. A look takes a whole `turn` of
        calls: those that begin together in one engine end together too, and the first alone would make it look slow."""
        self._busy_done += done
        busy_s = now - self._busy_since
        unseen = now - self._looked_at > _OLD_S
        if unseen and self._busy_done > self.rate * busy_s > 0:  # what is done without being pressed can be done
            self._blend(self._busy_done, busy_s)
        if busy_s >= _BUSY_S:
            self._busy_since, self._busy_done = now, 0.0
        if self._since == math.inf:
            self.sat(now, pressed=pressed)
            return
        self._done += done
        self._left += 1
        passed = now - self._since
        if passed < _WINDOW_S or self._left < turn:
            return
        if self._done > 0:  # else they all failed: that says nothing about speed
            self._blend(self._done, passed)
            self._looked_at = now
        self._since = math.inf
        self.sat(now, pressed=pressed)

    def _blend(self, done: float, seconds: float) -> None:
        weight = 1 - math.exp(-seconds / _MEMORY_S) if self.rate > 0 else 1.0
        self.rate += weight * (done / seconds - self.rate)

    def is_doubted(self, now: float) -> bool:
        """Whether the rate was not looked at for a while. Asked where nothing runs: who asks may go and look."""
        if now - max(self._looked_at, self._sent_at) <= _OLD_S:
            return False
        self._sent_at = now
        return True


def pressed_at(slots: int) -> int:
    """Calls in a seat of so many slots from which it is at full speed."""
    return min(slots, _PRESSED_AT)
