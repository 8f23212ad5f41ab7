"""Who is unwell among the replicas of a version is sent nobody for a while, and then has to prove itself.

`outliers.py` says who is; here it is done. The last one is never sent away: a bad answer is better than none.
"""

import asyncio
from collections.abc import Sequence

from tollway.kit import log
from tollway.kit.clock import Clock
from tollway.kit.said import say
from tollway.kit.tasks import Tasks
from tollway.serve.line import Line, Seat
from tollway.serve.outliers import stands_out
from tollway.serve.posts import Post
from tollway.serve.replica import State

_log = log.get("serve.breaker")
_SUSPENDED_S = 0.3
_PROBE_WITHIN_S = 3.0
_PROBES_MOST = 3


class Breaker:
    """Of one version. `posts`: those that are wanted, as they are at the time; `timed`: on a machine of ours, so that one that
    does not answer can be ended."""

    def __init__(self, model: str, posts: Sequence[Post], line: Line, clock: Clock, *, timed: bool) -> None:
        self.ejections = 0
        self._model = model
        self._posts = posts
        self._line = line
        self._clock = clock
        self._timed = timed
        self._tasks = Tasks()

    def fault(self, seat: Seat, *, gone: bool) -> None:
        """A call met a fault there. `gone`: its connection was lost."""
        post, enough = self._post_of(seat), seat.health.fault()
        if post is None:
            return
        if any(one.ready for one in self._posts if one is not post):
            if enough and not seat.health.ejected:
                self._eject(post)
            elif gone and self._timed:
                self._suspend(seat)
        elif gone and (self._timed or seat.health.in_row > 1):
            self._suspend(seat)

    def recovered(self, seat: Seat) -> None:
        """A call went well there after faults."""
        post, trial = self._post_of(seat), seat.health.trial
        seat.health.recovered(self._clock.monotonic())
        if trial and post is not None:
            _log.info("replica is back", model=self._model, number=post.number)
            seat.slots = post.replica.slots
            self._line.seat_next()

    def tick(self) -> None:
        """A second has passed: eject who has clearly more faults than the others."""
        for post in self._posts:
            if post.ready and post.seat is not None:
                others = [
                    one.seat.health for one in self._posts if one.ready and one is not post and one.seat is not None
                ]
                if others and stands_out(post.seat.health, others):
                    self._eject(post)
        for post in self._posts:
            if post.seat is not None:
                post.seat.health.fade()

    def keep_one(self) -> None:
        """When no other is left, those that are ejected come back."""
        if any(post.ready for post in self._posts):
            return
        for post in self._posts:
            if post.seat is not None and post.seat.health.ejected and post.replica.state is State.READY:
                post.seat.health.try_again()
                post.seat.slots, post.seat.ready = post.replica.slots, True
                self._line.seat_next()

    def close(self) -> None:
        """Nobody is taken back any more."""
        self._tasks.cancel()

    def _post_of(self, seat: Seat) -> Post | None:
        return next((post for post in self._posts if post.seat is seat), None)

    def _suspend(self, seat: Seat) -> None:
        """Send nobody until it can be reached, or its supervisor has seen what it is: on a busy machine that takes a while, in
        which a call would lose all its tries."""
        seat.ready = False
        self._tasks.begin(self._take_back(seat))

    async def _take_back(self, seat: Seat) -> None:
        while True:
            await asyncio.sleep(_SUSPENDED_S)
            post = self._post_of(seat)
            if post is None or post.replica.state is not State.READY or seat.health.ejected:
                return
            if not self._timed or await post.replica.reachable(_PROBE_WITHIN_S):
                break
        if post.replica.state is State.READY and not seat.health.ejected:
            seat.ready = True
            self._line.seat_next()

    def _eject(self, post: Post) -> None:
        assert post.seat is not None
        post.seat.ready = False
        pause_s = post.seat.health.eject(self._clock.monotonic())
        self.ejections += 1
        _log.warning("replica ejected", model=self._model, number=post.number, for_s=pause_s)
        self._tasks.begin(self._try_back(post, pause_s))
        self.keep_one()

    async def _try_back(self, post: Post, pause_s: float) -> None:
        """Half-open after a pause: it has to answer its probe, then one call."""
        await asyncio.sleep(pause_s)
        seat = post.seat
        if seat is None or post.leaving or not seat.health.ejected or post.replica.state is not State.READY:
            return  # its supervisor is at it, or it is back already
        if await post.replica.answers(_PROBE_WITHIN_S):
            seat.health.try_again()
            seat.slots, seat.ready = 1, True
            self._line.seat_next()
        elif self._timed and (seat.running == 0 or seat.health.ejections >= _PROBES_MOST):
            post.replica.give_up(say("replica.no_probe", "it does not answer its probe"))
        else:
            self._eject(post)
