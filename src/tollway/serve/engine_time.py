"""Whose work was the machine doing? Engine time of one replica, shared out to the calls that ran in it.

While n calls are in the engine together, each is given 1/n of the time that passes (its share of the batched steps);
while none is, the time is idle. A call's share before its first token is prefill, after it decode. Shares of billed
calls, shares of calls that failed, of copies made for a shadow version, and idle time add up to the time that the
replica was alive: the books close.

Kept as a virtual clock that runs at 1/n of real speed, so a call costs two readings, however many run beside it.
"""

import msgspec


class Stint(msgspec.Struct):
    """One call's stay in the engine."""

    began: float
    first_token: float | None = None


class Totals(msgspec.Struct):
    """Microseconds since the last `take_totals`."""

    busy_us: int = 0
    failed_us: int = 0
    idle_us: int = 0
    shadow_us: int = 0


class EngineTime:
    """Engine time of one replica. `now` is monotonic seconds; never runs backwards."""

    def __init__(self, now: float) -> None:
        self._last = now
        self._shared = 0.0  # the virtual clock
        self._inside = 0
        self._idle = 0.0
        self._down = False
        self._totals = Totals()

    def enter(self, now: float) -> Stint:
        """A call starts in the engine."""
        self._pass(now)
        self._inside += 1
        return Stint(self._shared)

    def first_token(self, stint: Stint, now: float) -> None:
        """Prefill is over for this call."""
        if stint.first_token is None:
            self._pass(now)
            stint.first_token = self._shared

    def leave(self, stint: Stint, now: float) -> tuple[int, int]:
        """The call is over. Its share as (prefill, decode) microseconds; without a first token all of it is prefill.
        `book` it once it is known whether the call was answered."""
        self._pass(now)
        self._inside -= 1
        border = self._shared if stint.first_token is None else stint.first_token
        return round((border - stint.began) * 1e6), round((self._shared - border) * 1e6)

    def book(self, share_us: int, *, billed: bool) -> None:
        """Put a call's share on the account it belongs to."""
        if billed:
            self._totals.busy_us += share_us
        else:
            self._totals.failed_us += share_us

    def book_shadow(self, share_us: int) -> None:
        """Put the share of a copied call on its own account: nobody asked for it, so nobody pays for it but the operator."""
        self._totals.shadow_us += share_us

    def pause(self, now: float) -> None:
        """The replica is down from here: no machine time passes until `resume`."""
        self._pass(now)
        self._down = True

    def resume(self, now: float) -> None:
        """The replica is up again."""
        self._pass(now)
        self._down = False

    def take_totals(self, now: float) -> Totals:
        """What accumulated since the last time, and start again."""
        self._pass(now)
        self._totals.idle_us += round(self._idle * 1e6)
        self._idle = 0.0
        taken, self._totals = self._totals, Totals()
        return taken

    def _pass(self, now: float) -> None:
        step = now - self._last
        self._last = now
        if self._down:
            return
        if self._inside:
            self._shared += step / self._inside
        else:
            self._idle += step
