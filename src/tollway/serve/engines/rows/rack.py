"""The rack: rows that wait for a lane, and which of them make the next batch. Pure, so that it can be tested without a clock.

Everyone who asks (`who`: an organization as the gateway numbers it) has a counter of what was computed for them, divided by
their weight. The least served goes first with its most urgent row; rows of nearly the same length join it, those of the least
served before others', as long as the padding they cause costs less than a batch of their own would. Who is new, or comes back,
starts at the level of the least served who wait: nobody saves up, nobody waits for being new.
"""

import heapq
import itertools
import math
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from tollway.inference import Encoded

Row = Mapping[str, Any]
Answers = list[dict[str, Any]]
TIERS: Final = ("priority", "standard", "batch", "background")
_LOOKED_AT: Final = 8  # of those who wait, for one batch
_PATIENCE_S: Final = 10.0  # who is in no hurry has waited long enough after this
_FEW: Final = 4
_LOWER_TIER_EVERY: Final = 8  # batches: a flood of priority calls leaves the standard ones this share


class Turn(msgspec.Struct, frozen=True):
    """Whose turn a call is: sent by the gateway in its body. `left_ms` until nobody waits for the answer; 0: no limit."""

    who: int = 0
    weight: float = 1.0
    left_ms: float = 0.0
    tier: int = 1


class Call:
    """The rows of one call, and their answers as they come. `told` is called once, from a lane's thread. `call_id`: the
    gateway's, if it named one."""

    def __init__(self, rows: Sequence[Row], turn: Turn, now: float, call_id: str = "") -> None:
        self.rows, self.turn, self.id = rows, turn, call_id
        self.until = now + turn.left_ms / 1000 if turn.left_ms > 0 else math.inf
        self.urgency = min(self.until, now + _PATIENCE_S)
        self.answers: Answers = [{}] * len(rows)
        self.left = len(rows)
        self.begun = 0  # rows that a lane took up
        self.recalled = False
        self.error: Exception | None = None
        self.told: Callable[[], None] | None = None


class Piece:
    """One row on the rack."""

    __slots__ = ("call", "encoded", "length", "number", "place", "waits")

    def __init__(self, call: Call, place: int, encoded: Encoded, length: int) -> None:
        self.call, self.place, self.encoded, self.length = call, place, encoded, length
        self.number, self.waits = 0, True


class Shape(msgspec.Struct, frozen=True):
    """How large a batch may be: rows times the longest, rows, and the tokens that a batch costs besides its own."""

    budget: int = 384
    rows: int = 64
    overhead: float = 24.0


class _Asker:
    """The rows of one who asks: by urgency and by length."""

    __slots__ = ("by_length", "served", "urgent", "weight", "who")

    def __init__(self, who: int, served: float) -> None:
        self.who, self.served, self.weight = who, served, 1.0
        self.urgent: list[tuple[float, int, Piece]] = []  # a heap; what was taken by length falls out when it comes up
        self.by_length: list[tuple[int, int, Piece]] = []

    def first(self) -> Piece:
        """The most urgent; the oldest of them."""
        while not self.urgent[0][2].waits:
            heapq.heappop(self.urgent)
        return self.urgent[0][2]

    def nearest(self, length: int) -> list[Piece]:
        """The nearest in length: the longest that is not longer, and the shortest that is."""
        at = bisect_left(self.by_length, (length + 1,))
        return [self.by_length[place][2] for place in (at - 1, at) if 0 <= place < len(self.by_length)]

    def add(self, piece: Piece) -> None:
        heapq.heappush(self.urgent, (piece.call.urgency, piece.number, piece))
        insort(self.by_length, (piece.length, piece.number, piece))

    def remove(self, piece: Piece) -> None:
        piece.waits = False
        del self.by_length[bisect_left(self.by_length, (piece.length, piece.number))]


class Rack:
    """The waiting rows of one tier."""

    def __init__(self) -> None:
        self.waiting = 0
        self.tokens = 0
        self._askers: dict[int, _Asker] = {}
        self._gone: dict[int, float] = {}  # counters of those who have nothing waiting, as long as they say something
        self._floor = 0.0  # how far the least served of those who wait were when one was last served
        self._numbers = itertools.count()

    def put(self, pieces: Sequence[Piece]) -> None:
        """Rows of one call."""
        turn = pieces[0].call.turn
        asker = self._askers.get(turn.who)
        if asker is None:
            level = max(
                self._gone.pop(turn.who, 0.0), min((one.served for one in self._askers.values()), default=self._floor)
            )
            asker = self._askers[turn.who] = _Asker(turn.who, level)
        asker.weight = turn.weight if turn.weight > 0 else 1.0
        for piece in pieces:
            piece.number = next(self._numbers)
            asker.add(piece)
            self.tokens += piece.length
        self.waiting += len(pieces)

    def drop(self, call: Call) -> None:
        """A call is over before its time: its rows that wait do so no more."""
        asker = self._askers.get(call.turn.who)
        for piece in [entry[2] for entry in asker.by_length if entry[2].call is call] if asker else ():
            self._take(asker, piece)  # type: ignore[arg-type]

    def pick(self, shape: Shape, most: int, now: float) -> tuple[list[Piece], list[Call]]:
        """The next batch of at most `most` rows, and the calls that nobody waits for any more: they were dropped."""
        late: list[Call] = []
        while self._askers:
            asker = min(self._askers.values(), key=lambda one: (one.served, len(one.by_length), one.first().number))
            anchor = asker.first()
            if anchor.call.until > now:
                return self._filled(asker, anchor, shape, min(most, shape.rows), now, late), late
            self.drop(anchor.call)
            late.append(anchor.call)
        return [], late

    def _filled(
        self, asker: _Asker, anchor: Piece, shape: Shape, most: int, now: float, late: list[Call]
    ) -> list[Piece]:
        self._floor = asker.served
        batch, longest = [anchor], anchor.length
        self._charge(asker, anchor)
        askers = self._looked_at()
        if len(asker.by_length) < _FEW and any(
            2 * len(one.by_length) > self.waiting + 1 for one in askers if one is not asker
        ):
            askers = [asker]  # who asks little is not held up by the rows of who floods
        askers = [one for one in askers if one.by_length]
        while len(batch) < most and askers:
            level = min(one.served for one in askers) + shape.budget
            found = _best(askers, anchor.length, longest, len(batch), shape, level)
            if found is None:
                break
            asker, piece = found
            if piece.call.until > now:
                batch.append(piece)
                longest = max(longest, piece.length)
                self._charge(asker, piece)
            else:
                self.drop(piece.call)
                late.append(piece.call)
            if not asker.by_length:
                askers.remove(asker)
        return batch

    def _looked_at(self) -> list[_Asker]:
        if len(self._askers) <= _LOOKED_AT:
            return list(self._askers.values())
        return heapq.nsmallest(_LOOKED_AT, self._askers.values(), key=lambda one: one.served)

    def _charge(self, asker: _Asker, piece: Piece) -> None:
        asker.served += piece.length / asker.weight
        piece.call.begun += 1
        self._take(asker, piece)

    def _take(self, asker: _Asker, piece: Piece) -> None:
        asker.remove(piece)
        self.waiting -= 1
        self.tokens -= piece.length
        if not asker.by_length:
            del self._askers[asker.who]
            self._gone[asker.who] = asker.served
            if len(self._gone) > 4096:  # those whom the others have overtaken start at the floor anyway
                self._gone = {who: served for who, served in self._gone.items() if served > self._floor}


def _best(
    askers: list[_Asker], anchor: int, longest: int, rows: int, shape: Shape, level: float
) -> tuple[_Asker, Piece] | None:
    """Of all rows that fit, one whose owner is not ahead of the others by more than a batch; then the nearest in length."""
    best: tuple[bool, int, _Asker, Piece] | None = None
    for asker in askers:
        for piece in asker.nearest(anchor):
            length = piece.length
            padding = (length - longest) * rows if length > longest else longest - length
            if max(longest, length) * (rows + 1) > shape.budget or padding > shape.overhead + longest // 8:
                continue
            rank = (asker.served > level, abs(length - anchor))
            if best is None or rank < best[:2]:
                best = (*rank, asker, piece)
    return best and best[2:]


class Racks:
    """A rack for each tier: the higher first, what is in the background only when nothing else waits."""

    def __init__(self) -> None:
        self.tiers = tuple(Rack() for _ in TIERS)
        self._higher = 0  # batches in a row that went past a lower tier that may not starve

    def __bool__(self) -> bool:
        return any(rack.waiting for rack in self.tiers)

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return sum(rack.waiting for rack in self.tiers)

    @property
    def tokens(self) -> int:
        """Their tokens."""
        return sum(rack.tokens for rack in self.tiers)

    def put(self, pieces: Sequence[Piece]) -> None:
        """Rows of one call."""
        self.tiers[min(max(pieces[0].call.turn.tier, 0), len(TIERS) - 1)].put(pieces)

    def drop(self, call: Call) -> None:
        """Its caller has left."""
        self.tiers[min(max(call.turn.tier, 0), len(TIERS) - 1)].drop(call)

    def pick(self, shape: Shape, most: int, now: float) -> tuple[list[Piece], list[Call]]:
        """The next batch of the tier whose turn it is."""
        late: list[Call] = []
        priority, standard = self.tiers[:2]
        self._higher = self._higher + 1 if priority.waiting and standard.waiting else 0
        order = self.tiers
        if self._higher >= _LOWER_TIER_EVERY:
            self._higher, order = 0, (standard, priority, *self.tiers[2:])
        for rack in order:
            batch, dropped = rack.pick(shape, most, now)
            late += dropped
            if batch:
                return batch, late
        return [], late
