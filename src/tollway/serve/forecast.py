"""How long until a call would be answered? Measured, for the line in front of a model.

Work is counted in what the engine does for a call (`cost`: tokens, rows), known for certain only when the call is over; until
then it is what was held for it times the share that calls turn out to use. The rate is what left the line a second while
every seat had enough to do: nothing is learnt from idle times, so a quiet night does not make the morning slow.
"""

import math

_WINDOW_S = 0.2  # of work without a gap, for one look at the rate
_MEMORY_S = 2.0  # in which older looks fade
_SHARE_LEARNS = 0.05
_OLD_S = 60.0  # after so long without a look a rate is no reason to send away who comes to an idle line
_CROWDED = 1.15  # what comes / what can be served: chance alone brings less
_PRESSED_AT = 8  # calls in a seat: an engine that takes many at once is at full speed from here


class Forecast:
    """Rate and share of one line. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self.rate = 0.0  # cost per second; 0: not known yet
        self.share = 1.0  # cost per token held
        self.usual = 0.0  # cost of a call
        self._known = False
        self._looked_at = -math.inf  # when the rate was last looked at
        self._since = math.inf  # when the seats began to be full
        self._done = 0.0  # cost since then
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

    def observe(self, now: float, done: float, *, pressed: bool) -> None:
        """Something left a seat (`done`: its cost). `pressed`: the seats were full until now, and still are."""
        if not pressed:
            self._since = math.inf
            return
        if self._since == math.inf:
            self._since, self._done = now, 0.0
            return
        self._done += done
        passed = now - self._since
        if passed >= _WINDOW_S:
            found = self._done / passed
            if self.rate <= 0:
                self.rate = found
            else:
                self.rate += (1 - math.exp(-passed / _MEMORY_S)) * (found - self.rate)
            self._since, self._done, self._looked_at = now, 0.0, now

    def is_old(self, now: float) -> bool:
        """Whether the rate was not looked at for a while."""
        return now - self._looked_at > _OLD_S

    def forget(self) -> None:
        """The rate is not known any more."""
        self.rate, self._since = 0.0, math.inf


def pressed_at(slots: int) -> int:
    """Calls in a seat of so many slots from which it is at full speed."""
    return min(slots, _PRESSED_AT)
