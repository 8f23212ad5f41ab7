"""Requests that stop an engine: found by who was inside when it was lost, and not let in again.

Every call that was in an engine when that was lost is marked by a digest of what it asked. One that was inside at two
losses, and the second time was the only marked one there, is what the engine died of: it is refused from then on (for a
day), by name, while everything else goes on. As long as it is not clear who it was, those marked twice go in one at a
time, so that the next loss tells. Whoever is answered loses its mark. Replicas that go together say nothing of a request: a
copy that was inside already when it was marked does not count, nor does a second loss on the node that is just dying.

Rows cannot be taken out of a batch: an engine may be at them, for ever, when their call has ended at its deadline or was sent
on. Such a call is inside as long as the engine says so, and is marked with its loss like one that still waits.

Nothing of a request is kept but the digest, and nothing is digested while no engine was lost and no call given up. Times are
monotonic seconds.
"""

import asyncio
import hashlib
import math
from collections.abc import Sequence

import msgspec

from tollway.kit.errors import BadRequest

_REFUSED_S = 86_400.0
_MARKED_S = 600.0
_MARKS_MAX = 4096
_GIVEN_UP_S = 120.0  # longer than a batch without an end takes to be noticed
_NODE_DIES_S = 5.0
"""For so long the processes of a node that dies may end one after the other."""
Life = tuple[int, int]
"""One life of one replica."""


class _Mark(msgspec.Struct):
    losses: int
    at: float
    life: Life
    node: str
    refused: bool = False


class _GivenUp(msgspec.Struct):
    """A call that ended, or was sent on, before the engine was through with it."""

    print: bytes
    since: float  # it was inside
    at: float


class Guest(msgspec.Struct, eq=False):
    """A marked request that is inside, or about to be."""

    print: bytes
    alone: bool
    life: Life | None = None  # set when it has its seat


class Quarantine:
    """The marked requests of one model. Use it from one event loop."""

    def __init__(self) -> None:
        self.marks: dict[bytes, _Mark] = {}  # empty, almost always: look at this before anything else
        self._guests: list[Guest] = []
        self._lost: dict[Life, set[bytes]] = {}  # marked ones that were inside when a life ended
        self._given_up: dict[tuple[Life, str], _GivenUp] = {}  # by their call; the oldest first
        self._one_at_a_time = asyncio.Lock()

    @property
    def refused(self) -> int:
        """How many requests are not let in."""
        return sum(mark.refused for mark in self.marks.values())

    async def enter(self, body: bytes, now: float) -> Guest | None:
        """A request wants to go in; None for one without a mark. Waits while another doubtful one is inside. Raises
        BadRequest for one that stops the engine."""
        self._forget(now)
        print_ = digest(body)
        mark = self._admitted(print_)
        if mark is None:
            return None
        guest = Guest(print_, mark.losses >= 2)
        if guest.alone:
            await self._one_at_a_time.acquire()
            try:
                mark = self._admitted(print_)  # the one before may have been the same request, and shown what it is
            except BadRequest:
                self._one_at_a_time.release()
                raise
            if mark is None:
                self._one_at_a_time.release()
                return None
        self._guests.append(guest)
        return guest

    def _admitted(self, print_: bytes) -> _Mark | None:
        """A request's mark, if it has one. Raises BadRequest for one that is refused."""
        mark = self.marks.get(print_)
        if mark is not None and mark.refused:
            raise refusal(mark.losses)
        return mark

    def leave(self, guest: Guest, *, answered: bool) -> None:
        """A marked request is out again."""
        self._guests.remove(guest)
        if guest.alone:
            self._one_at_a_time.release()
        mark = self.marks.get(guest.print)
        if answered and mark is not None and not mark.refused:
            del self.marks[guest.print]

    def lost(
        self, body: bytes, life: Life, now: float, *, since: float = math.inf, node: str = ""
    ) -> BadRequest | None:
        """A request that was inside `since` then was there when this life of an engine (on a `node` of a cluster) ended. Its
        refusal, when it is clear that the engine died of it."""
        mark = self._counted(digest(body), life, now, since, node)
        return refusal(mark.losses) if mark is not None and mark.refused else None

    def give_up(self, call_id: str, body: bytes, life: Life, since: float, now: float) -> None:
        """Nobody waits any more for a call that has been inside `since` then. This life of an engine may be at it still."""
        self._given_up.pop((life, call_id), None)
        self._let_go(now, _MARKS_MAX - 1)
        self._given_up[life, call_id] = _GivenUp(digest(body), since, now)

    def lost_at(self, calls: Sequence[str], life: Life, now: float, *, node: str = "") -> list[str]:
        """This life of an engine ended while it was at these calls: those of them that were given up were inside. Which calls
        it is now clear of that the engine died of them."""
        clear = []
        for call_id in calls:
            one = self._given_up.get((life, call_id))
            mark = self._counted(one.print, life, now, one.since, node) if one is not None else None
            if mark is not None and mark.refused:
                clear.append(call_id)
        return clear

    def _counted(self, print_: bytes, life: Life, now: float, since: float, node: str) -> _Mark | None:
        """A loss, noted; None when it says nothing of this request."""
        mark = self.marks.get(print_)
        if mark is None:
            if len(self.marks) >= _MARKS_MAX:
                del self.marks[next(iter(self.marks))]
            mark = self.marks[print_] = _Mark(1, now, life, node)
            return mark
        if mark.life == life or since <= mark.at:
            return None  # the same request from several callers
        if node and node == mark.node and now - mark.at < _NODE_DIES_S:
            return None  # it was sent from one replica to the next of a node that goes
        mark.losses, mark.at, mark.life, mark.node = mark.losses + 1, now, life, node
        beside = {guest.print for guest in self._guests if guest.life == life} | self._lost.setdefault(life, set())
        self._let_go(now)
        gone = {one.print for (where, _), one in self._given_up.items() if where == life}
        beside |= {one for one in gone if one in self.marks and self.marks[one].life != life}
        self._lost[life].add(print_)
        mark.refused = mark.refused or beside <= {print_}
        return mark

    def _let_go(self, now: float, most: int = _MARKS_MAX) -> None:
        while self._given_up:
            oldest = next(iter(self._given_up))
            if len(self._given_up) <= most and now - self._given_up[oldest].at <= _GIVEN_UP_S:
                return
            del self._given_up[oldest]

    def _forget(self, now: float) -> None:
        for print_, mark in list(self.marks.items()):
            if now - mark.at > (_REFUSED_S if mark.refused else _MARKED_S):
                del self.marks[print_]
        if not self.marks:
            self._lost.clear()


def digest(body: bytes) -> bytes:
    """What a request is known by."""
    return hashlib.blake2b(body, digest_size=16).digest()


def refusal(losses: int) -> BadRequest:
    """Why it is not tried again."""
    return BadRequest(
        f"This request was in the engine each time when the engine stopped ({losses} times); it is not tried again.",
        code="request_stops_engine",
        hint="Change the request; if you think that it is right, tell the operator the request id.",
    )
