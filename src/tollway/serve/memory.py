"""Who has to leave memory so that another model can be loaded: the one that was called longest ago, unless it must stay.

    give_way(residents, needed_bytes, budget_bytes, now)     names to unload, in order; None when there is no room

What a model takes was measured when it was loaded. One that works, that is pinned, or that was loaded or called a moment
ago stays: two models that are called in turn must not throw each other out each time. Pure.
"""

from collections.abc import Iterable

import msgspec

STAY_S = 30.0
_ROOM_SHARE = 1.25  # of the size of its weights: what a model is reckoned with before it was measured
_ROOM_BYTES = 64 * 1024 * 1024


class Resident(msgspec.Struct, frozen=True):
    """A version that is loaded, or is being loaded."""

    name: str
    size_bytes: int
    used_at: float  # called or loaded, monotonic seconds
    pinned: bool = False
    busy: bool = False


def give_way(residents: Iterable[Resident], needed_bytes: int, budget_bytes: int, now: float) -> list[str] | None:
    """The names that have to go for `needed_bytes` more; [] when there is room, or nothing is limited; None when all that
    may go would not be enough now."""
    kept = list(residents)
    free = budget_bytes - sum(one.size_bytes for one in kept)
    if budget_bytes <= 0 or needed_bytes <= free:
        return []
    gone = []
    may_go = [one for one in kept if not one.pinned and not one.busy and now - one.used_at >= STAY_S]
    for one in sorted(may_go, key=lambda one: one.used_at):
        gone.append(one.name)
        free += one.size_bytes
        if needed_bytes <= free:
            return gone
    return None


def reckoned_bytes(weights_bytes: int) -> int:
    """What a model that was never loaded is expected to take."""
    return round(weights_bytes * _ROOM_SHARE) + _ROOM_BYTES
