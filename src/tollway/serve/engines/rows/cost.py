"""What a batch costs here: seconds for n rows padded to length L, fitted to what was measured and corrected by what is seen.

    seconds(n, L) = a + n (b + c L + d L²), none of them negative

and for each size of batch a factor that follows the newest batches. `turn` is what a batch costs its lane besides: taking it
up, waiting for the interpreter, telling its calls; much, beside a model of microseconds. From all that follows the best shape
of batches for lengths as they come (`shape`): nobody sets a batch size.
"""

import math
from collections.abc import Sequence

import msgspec

from tollway.serve.engines.rows.rack import Shape

_DEPTH = 64  # rows that wait together, as far as the best shape is concerned
_WORTH = 1.03  # a larger batch must gain more than this: it makes others wait longer
_LEARN = 0.05
_FORGET = 0.1
_BELIEVED = (0.6, 1.6)  # a batch that took longer was disturbed
_LONGEST_S = 0.25  # a batch longer than this holds up who comes meanwhile, unless a single row takes so long
_BUDGETS = tuple(2**half if whole else round(1.5 * 2**half) for half in range(13) for whole in (True, False))

Point = tuple[int, int, float]  # rows, length, seconds


class Cost(msgspec.Struct):
    """The fitted cost; not known yet while all is zero."""

    a: float = 0.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    turn: float = 0.0
    factors: dict[int, float] = {}  # by the binary logarithm of rows times length
    used: set[int] = set()  # of them since the last look

    @classmethod
    def fitted(cls, points: Sequence[Point]) -> "Cost":
        """By least squares of the relative errors; terms that would be negative are left out."""
        import numpy as np

        if not points:
            return cls()
        wanted = np.asarray([seconds for _, _, seconds in points])
        terms = np.asarray([(1.0, n, n * length, n * length**2) for n, length, _ in points])
        kept = list(range(4)) if len({length for _, length, _ in points}) > 2 else [0, 1]
        found = np.zeros(4)
        while kept:
            solved = np.linalg.lstsq(terms[:, kept] / wanted[:, None], np.ones(len(points)), rcond=None)[0]
            if (solved >= 0).all():
                found[kept] = solved
                break
            kept.pop(int(solved.argmin()))
        made = cls(a=float(found[0]), b=float(found[1]), c=float(found[2]), d=float(found[3]))
        near: dict[int, list[float]] = {}
        for n, length, seconds in points:
            near.setdefault(_size(n, length), []).append(seconds / max(made.plain(n, length), 1e-9))
        low, high = _BELIEVED
        made.factors = {size: min(high, max(low, sum(ratios) / len(ratios))) for size, ratios in near.items()}
        return made

    def seconds(self, rows: int, longest: int) -> float:
        """What a batch will take."""
        size = _size(rows, longest)
        factor = self.factors.get(size)
        if factor is None and self.factors:
            factor = self.factors[min(self.factors, key=lambda known: abs(known - size))]
        return self.plain(rows, longest) * (1.0 if factor is None else factor)

    def learn(self, rows: int, longest: int, seconds: float) -> None:
        """A batch took so long."""
        plain = self.plain(rows, longest)
        if plain <= 0:
            return
        size = _size(rows, longest)
        before = self.factors.get(size, seconds / plain)
        self.used.add(size)
        self.factors[size] = before + _LEARN * (min(seconds / plain, 4 * before) - before)

    def shape(self, lengths: Sequence[int], now: Shape) -> Shape:
        """The smallest batches with which rows of these lengths are as good as fastest."""
        if not lengths or self.plain(1, 1) <= 0:
            return now
        for size in self.factors.keys() - self.used:  # nothing is known to be slow for ever: it is tried again
            self.factors[size] += _FORGET * (1 - self.factors[size])
        self.used.clear()
        windows = [sorted(lengths[start : start + _DEPTH]) for start in range(0, len(lengths), _DEPTH)]
        mean = sum(lengths) / len(lengths)
        each = self.b / mean + self.c + self.d * mean  # of one token in a large batch
        overhead = min((self.a + self.turn) / each, 2 * mean) if each > 0 else 0.0
        rows = 64 if max(lengths) > 1 else 256
        slowest = max(_LONGEST_S, 1.5 * self.seconds(1, max(lengths)))
        found: list[tuple[float, Shape]] = []
        for budget in _BUDGETS:
            if budget > max(rows, 4096) or (max(lengths) == 1 and budget > rows):
                break
            shape = Shape(budget, rows, overhead)
            spent = [self.turn + self.seconds(n, longest) for window in windows for n, longest in _cut(window, shape)]
            if found and max(spent) > slowest:
                break
            found.append((sum(spent), shape))
        least = min(spent for spent, _ in found)
        return next(shape for spent, shape in found if spent <= _WORTH * least)

    def plain(self, rows: int, longest: int) -> float:
        """By the formula alone."""
        return self.a + rows * (self.b + self.c * longest + self.d * longest * longest)


def _cut(window: Sequence[int], shape: Shape) -> list[tuple[int, int]]:
    """(rows, longest) of the batches that rows of these lengths, sorted, fall into."""
    batches: list[tuple[int, int]] = []
    rows = longest = 0
    for length in window:
        padding = (length - longest) * rows
        if rows and (
            length * (rows + 1) > shape.budget or rows >= shape.rows or padding > shape.overhead + longest // 8
        ):
            batches.append((rows, longest))
            rows = 0
        rows, longest = rows + 1, length
    if rows:
        batches.append((rows, longest))
    return batches


def _size(rows: int, longest: int) -> int:
    return int(math.log2(max(1, rows * longest)))
