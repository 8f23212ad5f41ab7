"""The replicas of one version in service: as many as wanted, each with a seat in the version's line.

A replica that is not wanted any more gives up its seat at once and ends with its last call. One is replaced by starting
another beside it first, so that callers never notice. What a replica is and how it is kept alive is `replica.py`'s; who is
unwell, `breaker.py`'s.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from tollway.kit import log
from tollway.kit.clock import Clock
from tollway.kit.errors import Unavailable
from tollway.kit.tasks import Tasks
from tollway.serve.breaker import Breaker
from tollway.serve.engine_time import EngineTime, Totals
from tollway.serve.engines import Engine
from tollway.serve.line import Line, Seat
from tollway.serve.outliers import Health
from tollway.serve.posts import Lately, Post, ReplicaView
from tollway.serve.replica import Replica, State
from tollway.serve.runtimes import Confinement, Runtime
from tollway.serve.wire import Pool

_log = log.get("serve.replicas")
_LOOK_EVERY_S = 0.05
_QUIET_LOOKS = 5
Turned = Callable[[Post, State], None]


class Replicas:
    """One version's replicas. `engines`: one that all replicas share, or for upstreams one for each address.
    `timed`: they run on a machine of ours, so what they do is booked. Use it from one event loop."""

    def __init__(
        self,
        name: str,
        engines: Sequence[Engine],
        line: Line,
        clock: Clock,
        on_turn: Turned,
        *,
        timed: bool,
        confinement: Confinement | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.name = name
        self.posts: list[Post] = []
        self.wanted = 0
        self.guests = 0  # calls that were sent here and are not in the line yet
        self.drain_within_s = 300.0
        self.none = Replica(engines[0], clock, name=name)  # stands for them while there is none
        self._engines = engines
        self._line = line
        self._clock = clock
        self._on_turn = on_turn
        self._timed = timed
        self._numbers = 0
        self._confinement = confinement
        self._runtime = runtime
        self._tasks = Tasks()
        self._leaving: list[Post] = []
        self._left = Totals()  # of replicas that are gone
        self._breaker = Breaker(name, self.posts, line, clock, timed=timed)

    @property
    def ready(self) -> bool:
        """Whether a call would find a replica now."""
        return any(post.ready for post in self.posts)

    @property
    def complete(self) -> bool:
        """Whether all that are wanted were tried, or have no room to be: what is to go may have it."""
        tried = sum(
            post.replica.state is State.READY or post.replica.restarts > 0 or bool(post.replica.waits) for post in self.posts
        )
        return tried >= self.wanted

    @property
    def ejections(self) -> int:
        """How often one was sent nobody for a while."""
        return self._breaker.ejections

    @property
    def running(self) -> int:
        """Calls in the engines."""
        return sum(post.seat.running for post in (*self.posts, *self._leaving) if post.seat is not None)

    def seats(self) -> list[Seat]:
        """Those that are ready, the least busy one first; none is taken by this."""
        ready = [post.seat for post in self.posts if post.ready and post.seat is not None]
        return sorted(ready, key=lambda seat: seat.running)

    def take_totals(self) -> Totals:
        """What all of them did since the last time."""
        totals, self._left = self._left, Totals()
        for post in (*self.posts, *self._leaving):
            _add(totals, self._totals(post))
        return totals

    async def scale(self, wanted: int) -> None:
        """Have this many. Returns when those that are new were ready once, or failed to be: they go on trying. Those that
        are too many end with their last call, in the background."""
        self.wanted = wanted
        while len(self.posts) > wanted:
            self._dismiss(self._spare())
        fresh = [self._add() for _ in range(wanted - len(self.posts))]
        for post in fresh:  # one after the other: the first can work while the next one loads
            if post in self.posts:
                await self._start(post)

    def rest(self) -> None:
        """Have none, for now."""
        self.wanted = 0
        for post in list(self.posts):
            self._dismiss(post)

    def views(self, version: str) -> list[ReplicaView]:
        """How each is, those on their way out too."""
        return [post.shown(self.name, version) for post in (*self.posts, *self._leaving)]

    def fault(self, seat: Seat, *, gone: bool) -> None:
        """A call met a fault there. `gone`: its connection was lost."""
        self._breaker.fault(seat, gone=gone)

    def recovered(self, seat: Seat) -> None:
        """A call went well there after faults."""
        self._breaker.recovered(seat)

    def tick(self) -> None:
        """A second has passed."""
        self._breaker.tick()
        for post in self.posts:
            if post.seat is not None:
                post.lately.tick(post.seat)

    async def replace(self, post: Post) -> bool:
        """Start another one beside it and let it go once the other one answers. False when the other one would not start:
        then all is as before."""
        fresh = self._add()
        if not await self._start(fresh) or fresh.leaving or post not in self.posts:
            await self._end(fresh)
            return False
        self._dismiss(post)
        return True

    async def stop(self, *, now: bool = False) -> None:
        """End all: with their last calls, or `now`."""
        self.wanted = 0
        if not now:
            await self._drained(lambda: bool(self.running or self._line.waiting or self.guests))
        self._tasks.cancel()
        self._breaker.close()
        await asyncio.gather(*(self._end(post) for post in (*self.posts, *self._leaving)))

    # -- one replica ---------------------------------------------------------------------------------------------------

    def _add(self) -> Post:
        self._numbers += 1
        number = self._numbers
        engine = self._engines[(number - 1) % len(self._engines)]

        def turned(_: Replica, state: State) -> None:
            self._turned(post, state)

        name = self._name_of(number)
        post = Post(
            number, Replica(engine, self._clock, name=name, on_state=turned, confinement=self._confinement, runtime=self._runtime)
        )
        self.posts.append(post)
        return post

    def _name_of(self, number: int) -> str:
        return f"{self.name}/{number}" if number > 1 else self.name

    async def _start(self, post: Post) -> bool:
        try:
            await post.replica.start()
        except Unavailable as error:
            if post.replica.last_failure:  # else it was stopped meanwhile
                _log.error("replica did not start", model=self.name, why=error.message)
            return False
        return True

    def _turned(self, post: Post, state: State) -> None:
        """The supervisor's word: seat or unseat."""
        now = time.monotonic()  # as calls read it
        if state is State.READY and not (
            post.leaving and post.seat is None
        ):  # who was not wanted any more gets no seat
            post.loaded_bytes = post.replica.rss_bytes
            if post.seat is None:
                post.seat = self._seat_for(post, now)
                self._line.seats.append(post.seat)
            elif post.seat.time is not None:
                post.seat.time.resume(now)
            self._follow(post)
            post.seat.life += 1
            post.seat.node = "" if post.replica.node == "local" else post.replica.node
            post.seat.health = Health()
            post.lately = Lately()
            post.seat.slots, post.seat.slots_sorted = post.replica.slots, post.replica.slots_sorted
            post.seat.ready = True
            self._line.forecast.expect(sum(one.replica.rate for one in self.posts if one.ready))
            self._line.seat_next()
        elif post.seat is not None:
            post.seat.ready = False  # it may have been suspected, and be unready, before
            if self._timed:  # an upstream whose pulse is missing may still be writing its answers
                post.seat.pool.cut()
            if post.seat.time is not None:
                post.seat.time.pause(now)
            self._breaker.keep_one()
        self._on_turn(post, state)

    def _seat_for(self, post: Post, now: float) -> Seat:
        address, caps = post.replica.address, post.replica.caps
        return Seat(
            Pool(address.url, address.key),
            post.replica.slots,
            caps.cache_tokens,
            post.replica.engine.version,
            prefix=address.prefix,
            time=EngineTime(now) if self._timed else None,
            number=post.number,
        )

    def _follow(self, post: Post) -> None:
        """On a cluster a replica may come back elsewhere: calls from now on go there, those inside end as they can."""
        address = post.replica.address
        if post.seat is not None and post.seat.pool.address != address.url:
            post.seat.pool, post.seat.prefix = Pool(address.url, address.key), address.prefix

    def _spare(self) -> Post:
        """Whom to let go: one that does not answer, else the one with the fewest calls inside, the newest of those."""
        return min(
            self.posts, key=lambda post: (post.ready, post.seat.running if post.seat is not None else 0, -post.number)
        )

    def _dismiss(self, post: Post) -> None:
        """Nobody new goes there; it ends with its last call."""
        post.leaving = True
        self.posts.remove(post)
        self._leaving.append(post)
        if post.seat is not None and post.seat in self._line.seats:
            self._line.seats.remove(post.seat)

        async def end() -> None:
            await self._drained(lambda: post.seat is not None and post.seat.running > 0)
            await self._end(post)

        self._tasks.begin(end())

    async def _drained(self, busy: Callable[[], bool]) -> None:
        """Returns when nobody was there for a while (who was just sent here may still be on the way), or too late."""
        quiet = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.drain_within_s):
                while quiet < _QUIET_LOOKS:
                    await asyncio.sleep(_LOOK_EVERY_S)
                    quiet = 0 if busy() else quiet + 1

    async def _end(self, post: Post) -> None:
        await post.replica.stop()
        for posts in (self.posts, self._leaving):
            if post in posts:
                posts.remove(post)
        if post.seat is not None:
            post.seat.pool.close()
            if post.seat in self._line.seats:
                self._line.seats.remove(post.seat)
            _add(self._left, self._totals(post))

    def _totals(self, post: Post) -> Totals:
        if post.seat is None or post.seat.time is None:
            return Totals()
        return post.seat.time.take_totals(time.monotonic())


def _add(totals: Totals, more: Totals) -> None:
    totals.busy_us += more.busy_us
    totals.failed_us += more.failed_us
    totals.idle_us += more.idle_us
    totals.shadow_us += more.shadow_us
