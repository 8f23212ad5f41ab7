"""A row that finds everything idle: is it faster on all cores, or in a lane like any other? Known by length from the
calibration, and followed while serving: now and then the other way is tried, for machines and their neighbours change."""

import msgspec

_LEARN = 0.15
_TRY_EVERY = 32  # lone rows of a length


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
        return (wide < narrow) != (number % _TRY_EVERY == 0)

    def learn(self, length: int, *, wide: bool, seconds: float) -> None:
        """It took so long."""
        size, known = length.bit_length(), self.wide if wide else self.narrow
        before = known.get(size, seconds)
        known[size] = before + _LEARN * (min(seconds, 4 * before) - before)
