"""Who was in an engine with a constrained call when the engine was lost: the brake on answers that stop a model.

A grammar (a JSON schema, tools) runs inside the engine, and some grammar may be found one day that hangs or kills it. Then
the replica comes back, and only that call should fail. So a constrained call is never tried twice, and an organization
whose constrained calls were there at a second loss within a day has to wait before its next one, each time longer. Its
other calls, and everybody else, go on.

All times are monotonic seconds.
"""

from collections import Counter

FORGIVEN_AFTER_S = 86_400.0
_FIRST_PAUSE_S = 600.0
_STILL_BLAMED_S = 90.0  # longer than a hang takes to be noticed: the caller may have left long before


class Suspects:
    """Counts the losses of one model's engine by organization. Use it from one event loop."""

    def __init__(self) -> None:
        self._inside: Counter[str] = Counter()
        self._left: dict[str, float] = {}  # when a constrained call was last cut off unfinished
        self._losses: dict[str, list[float]] = {}

    def enter(self, org_id: str) -> None:
        """A constrained call goes into the engine."""
        self._inside[org_id] += 1

    def leave(self, org_id: str, now: float, *, finished: bool) -> None:
        """It is out again; not `finished` if its caller or the engine went away."""
        self._inside[org_id] -= 1
        if not self._inside[org_id]:
            del self._inside[org_id]
        if not finished:
            self._left = {one: left for one, left in self._left.items() if left > now - _STILL_BLAMED_S}
            self._left[org_id] = now

    def lost(self, now: float) -> None:
        """The engine ended by itself, or had to be ended."""
        recent = {org_id for org_id, left in self._left.items() if left > now - _STILL_BLAMED_S}
        self._losses = {org_id: losses for org_id in self._losses if (losses := self._recent_losses(org_id, now))}
        for org_id in recent | self._inside.keys():
            self._losses[org_id] = [*self._losses.get(org_id, ()), now]
        self._left.clear()

    def wait_s(self, org_id: str, now: float) -> float:
        """Seconds until the organization may make its next constrained call; 0: now."""
        losses = self._recent_losses(org_id, now)
        if len(losses) < 2:
            return 0.0
        pause_s: float = min(_FIRST_PAUSE_S * 2 ** (len(losses) - 2), FORGIVEN_AFTER_S)
        return max(0.0, losses[-1] + pause_s - now)

    def _recent_losses(self, org_id: str, now: float) -> list[float]:
        return [at for at in self._losses.get(org_id, ()) if at > now - FORGIVEN_AFTER_S]
