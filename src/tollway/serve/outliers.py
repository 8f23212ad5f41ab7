"""Which replica is unwell, told by the calls that went through it: the breaker of one seat, and its way back.

A fault is the replica's, never the caller's: it hung up, answered 5xx, broke off, or did not begin in time. Three in a
row, or clearly more of them than its neighbours have, and it is ejected: nobody is sent there for a while, each time twice
as long, unless it was well in between. Then it has to answer a probe, and then one call, before it has its place back.
Who is the last one is never ejected: a bad answer is better than none.

"Clearly more" compares 95 % intervals (Wilson, 1927) of the shares of faults, so that a few calls prove nothing.
All times are monotonic seconds.
"""

import math
from collections.abc import Iterable

import msgspec

IN_A_ROW = 3
_FAULTS_LEAST = 3
_FIRST_S = 1.0
_MOST_S = 30.0
_WELL_TIMES = 2.0
_Z = 1.96
_KEPT = 0.9  # of the counts each second: what happened half a minute ago weighs 4 %


class Health(msgspec.Struct):
    """What is known of one seat. Counts fade: see `fade`."""

    calls: float = 0.0
    faults: float = 0.0
    in_row: int = 0
    answered: int = 0  # calls; never fades
    tokens: int = 0  # read and written by calls that were answered; never fades
    watched: bool = False  # something is to be done when its next call goes well
    trial: bool = False  # it has had its probe and now has one call to prove itself
    ejected: bool = False
    ejections: int = 0  # in a row: without having been well for twice as long as it was out
    pause_s: float = 0.0  # of the last one
    ended_at: float = 0.0  # when it had proven itself after it

    def fault(self) -> bool:
        """One more call met a fault. True when that is enough to eject it by itself."""
        self.calls += 1
        self.faults += 1
        self.in_row += 1
        self.watched = True
        return self.trial or self.in_row >= IN_A_ROW

    def fade(self) -> None:
        """A second has passed."""
        self.calls *= _KEPT
        self.faults *= _KEPT

    def eject(self, now: float) -> float:
        """Out, for how many seconds."""
        if not (self.trial or self.ejected) and now - self.ended_at > _WELL_TIMES * self.pause_s:
            self.ejections = 0
        self.ejections += 1
        self.pause_s = min(_FIRST_S * 2.0 ** (self.ejections - 1), _MOST_S)
        self.ejected, self.trial, self.watched = True, False, True
        self.ended_at = now
        return self.pause_s

    def try_again(self) -> None:
        """It answered its probe: one call may go there."""
        self.ejected, self.trial, self.watched = False, True, True
        self.in_row = 0
        self.calls = self.faults = 0.0

    def recovered(self, now: float) -> None:
        """A call went well."""
        if self.trial:
            self.ended_at = now
        self.in_row, self.trial, self.watched = 0, False, self.ejected


def stands_out(one: Health, others: Iterable[Health]) -> bool:
    """Whether it has clearly more faults than the others together."""
    if one.faults < _FAULTS_LEAST:
        return False
    calls = faults = 0.0
    for other in others:
        calls += other.calls
        faults += other.faults
    return calls > 0 and _bounds(one.faults, one.calls)[0] > _bounds(faults, calls)[1]


def _bounds(faults: float, calls: float) -> tuple[float, float]:
    """Wilson's interval of a share."""
    share, z2 = faults / calls, _Z * _Z
    middle = share + z2 / (2 * calls)
    half = _Z * math.sqrt(max(0.0, share * (1 - share) / calls + z2 / (4 * calls * calls)))
    return (middle - half) / (1 + z2 / calls), (middle + half) / (1 + z2 / calls)
