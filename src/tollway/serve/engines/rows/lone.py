"""A row that finds everything idle: is it faster on all cores, or in a lane like any other? Known by length from the
calibration, and followed while serving: now and then the other way is tried, for machines and their neighbours change. How
often follows from what it costs: trying may not take more than a percent of the time."""

import msgspec

_LEARN, _LEARN_BETTER = 0.15, 0.4  # what disturbs only ever slows down: what was quicker is believed sooner
_TRY_EVERY = (32, 1024)  # lone rows of a length: at most so often, and at least
_TRYING = 0.01  # of the time


class Lone(msgspec.Struct):
    """Seconds of a lone row by the binary logarithm of its length: in one lane, and wide."""

    narrow: dict[int, float] = {}
    wide: dict[int, float] = {}
    seen: dict[int, int] = {}

    def goes_wide(self, length: int) -> bool:
        """Whether this one should run on all cores."""
        size = length.bit_length()
        narrow, wide = self.narrow.get(size), self.wide.get(size)
        number = self.seen[size] = self.seen.get(size, 0) + 1
        if wide is None or narrow is None:
            return wide is None
        slower = max(wide, narrow) / max(min(wide, narrow), 1e-9) - 1
        least, most = _TRY_EVERY
        every = min(most, max(least, round(slower / _TRYING)))
        return (wide < narrow) != (number % every == 0)

    def learn(self, length: int, *, wide: bool, seconds: float) -> None:
        """It took so long."""
        size, known = length.bit_length(), self.wide if wide else self.narrow
        before = known.get(size, seconds)
        share = _LEARN if seconds > before else _LEARN_BETTER
        known[size] = before + share * (min(seconds, 4 * before) - before)
