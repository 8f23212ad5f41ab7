"""Learning-rate schedules as pure functions of the step: what the loop multiplies the base rate with.

Pure, so that a resumed run needs no state to be exactly where it was.
"""

import math

from tollway.kit.errors import BadRequest

_CYCLE_RISE, _CYCLE_START, _CYCLE_END = 0.3, 1 / 25, 1 / 25e4  # Smith's one-cycle, as most libraries set it


def factor(schedule: str, step: int, total: int, warmup: int = 0) -> float:
    """The share of the base rate at `step` (counted from 0) of `total`."""
    if schedule == "one-cycle":
        return _one_cycle(step, total, warmup)
    if warmup and step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return max(0.0, 1.0 - done)
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    raise BadRequest(f"There is no schedule {schedule!r}.", hint="Take constant, linear, cosine or one-cycle.")


def _one_cycle(step: int, total: int, warmup: int) -> float:
    """Up by half a cosine for the warm-up (30 % of the steps when none is given), then down to almost nothing."""
    rise = warmup or max(1, round(_CYCLE_RISE * total))
    if step < rise:
        return _between(_CYCLE_START, 1.0, step / rise)
    return _between(1.0, _CYCLE_END, min(1.0, (step - rise) / max(1, total - 1 - rise)))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * share))
