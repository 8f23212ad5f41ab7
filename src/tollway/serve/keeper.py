"""The fleet's housekeeping, once a second: who is unwell, who grew, who idles, who needs more replicas or fewer, who had
better live elsewhere.

    keeper.tick(versions)          everything that is due now
    keeper.wake(served)            load a version that is not loaded; what is in the way of it is unloaded first

How many replicas a version may have comes from the settings, unless its model says otherwise (`models.Serving`). Decisions
are pure functions elsewhere: `scaling.py` says how many, `memory.py` who gives way.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from tollway.kit import log
from tollway.kit.clock import Clock
from tollway.kit.settings import Settings
from tollway.kit.tasks import Tasks
from tollway.serve import memory
from tollway.serve.models import Model
from tollway.serve.replica import Replica, State
from tollway.serve.runtimes import Runtime
from tollway.serve.scaling import Scaler, ScalingPolicy, Service
from tollway.serve.served import Served

_log = log.get("serve.keeper")
_DECIDE_EVERY = 2  # seconds
_GROWTH_EVERY = 10
_SPREAD_EVERY = 10
_GROWTH_LEAST_BYTES = 512 * 1024 * 1024  # caches of prompts and arenas of batches grow to this in good health
_RENEWED_AGAIN_S = 900.0
_MOVED_AGAIN_S = 60.0  # a node where it would not start, or that takes nobody after all, is not worth more
_MEASURED_S = 120.0


class _Watched(msgspec.Struct, eq=False):
    """What is remembered of one version between ticks."""

    scaler: Scaler
    used_at: float
    ended: int = 0  # counters as they were at the last tick
    refused: int = 0
    waiting: int = 0
    calls: float = 0.0  # answered lately, and what they took: sums that fade
    took_s: float = 0.0
    took2: float = 0.0
    renewed_at: float = float("-inf")
    renewing: bool = False
    moved_at: float = float("-inf")
    answered: int = 0
    total_s: float = 0.0
    total2: float = 0.0


class Keeper:
    """`runtime`: where replicas live; None: all on this machine. Use it from one event loop."""

    def __init__(
        self, settings: Settings, clock: Clock, weights_bytes: Callable[[Served], int], runtime: Runtime | None = None
    ) -> None:
        self._runtime = runtime
        self._spreading = False
        self._settings = settings
        self._clock = clock
        self._weights_bytes = weights_bytes
        self._versions: Sequence[Served] = ()
        self._watched: dict[Served, _Watched] = {}
        self._measured: dict[tuple[str, str], int] = {}  # what a replica of a version takes, once it was loaded
        self._waking: set[Served] = set()
        self._tasks = Tasks()
        self._seconds = 0

    def bounds(self, model: Model) -> tuple[int, int]:
        """The fewest and the most replicas."""
        serving = model.serving
        least = self._settings.replicas_min if serving.replicas_min is None else serving.replicas_min
        most = self._settings.replicas_max if serving.replicas_max is None else serving.replicas_max
        return min(least, max(most, 1)), max(most, 1)

    def begin(self, served: Served, *, alone: bool, at_least: int = 1) -> None:
        """A version comes into service: it is loaded now, unless it is the only one and may wait for its first call, or
        there is no room for it. `at_least`: so many replicas, as far as there may be."""
        watched = self._watch(served)
        watched.used_at = self._clock.monotonic()
        least, most = self.bounds(served.model)
        if served.passes_through:
            self._tasks.begin(served.scale(served.addresses))
        elif alone and (least == 0 or self._has_no_room(served, 1, self._clock.monotonic())):
            served.rest()
        else:
            self._tasks.begin(served.scale(max(1, least, min(at_least, most))))

    def wake(self, served: Served) -> None:
        """Load a version that rests. Returns at once."""
        if served in self._waking or served.retired:
            return
        self._waking.add(served)
        self._tasks.begin(self._wake(served))

    def tick(self, versions: Sequence[Served]) -> None:
        """A second has passed."""
        self._versions = versions
        self._seconds += 1
        now = self._clock.monotonic()
        for served in versions:
            watched = self._watch(served)
            served.tick()
            self._observe(served, watched, now)
            if served.passes_through or served.resting:
                continue
            if self._seconds % _DECIDE_EVERY == 0:
                self._decide(served, watched, now)
            if self._seconds % _GROWTH_EVERY == 0:
                self._renew_grown(served, watched, now)
            self._rest_idle(served, watched, now)
        if self._runtime is not None and self._seconds % _SPREAD_EVERY == 0 and not self._spreading:
            self._tasks.begin(self._spread(self._runtime))
        here = set(versions)
        self._watched = {served: one for served, one in self._watched.items() if served in here}

    def close(self) -> None:
        """Nothing more is begun."""
        self._tasks.cancel()

    # -- more and fewer --------------------------------------------------------------------------------------------------

    def _observe(self, served: Served, watched: _Watched, now: float) -> None:
        stats, line = served.stats, served.line
        ended, refused = stats.calls, sum(line.refused.values())
        arrived = ended - watched.ended + refused - watched.refused + line.waiting - watched.waiting
        if arrived > 0 or served.running or line.waiting:
            watched.used_at = now
        watched.scaler.observe(max(0, arrived))
        watched.ended, watched.refused, watched.waiting = ended, refused, line.waiting
        fade = 1 - 1 / _MEASURED_S
        answered = stats.latency.count
        if _slots(served) > 1:
            total_s, total2 = stats.latency.sum_ms / 1e3, stats.latency.square_ms / 1e6
        else:
            total_s, total2 = stats.engine_us / 1e6, stats.engine_s2
        watched.calls = watched.calls * fade + answered - watched.answered
        watched.took_s = watched.took_s * fade + total_s - watched.total_s
        watched.took2 = watched.took2 * fade + total2 - watched.total2
        watched.answered, watched.total_s, watched.total2 = answered, total_s, total2

    def service(self, served: Served) -> Service | None:
        """What a call of a version takes of a replica; None until some were measured."""
        watched = self._watched.get(served)
        if watched is None or watched.calls < 3 or watched.took_s <= 0:
            return None
        mean_s = watched.took_s / watched.calls
        variation2 = max(0.0, watched.took2 / watched.calls / (mean_s * mean_s) - 1)
        return Service(mean_s, variation2, _slots(served))

    def _decide(self, served: Served, watched: _Watched, now: float) -> None:
        least, most = self.bounds(served.model)
        policy = self._policy(served, least, most)
        watched.scaler.policy = policy
        if policy.affordable <= least == served.wanted:
            return
        decision = watched.scaler.decide(now, served.wanted, self.service(served), served.line.waiting)
        wanted = max(1, decision.replicas)  # to zero goes who idles, not who has little to do
        if wanted == served.wanted:
            return
        if wanted > served.wanted and self._has_no_room(served, wanted - served.wanted, now):
            return
        _log.info("replicas", model=served.name, version=served.model.version, before=served.wanted, now=wanted,
                  why=decision.why)  # fmt: skip
        self._tasks.begin(served.scale(wanted))

    def _policy(self, served: Served, least: int, most: int) -> ScalingPolicy:
        settings, serving = self._settings, served.model.serving
        return ScalingPolicy(
            least=least,
            most=most,
            wait_s=settings.replica_wait_s if serving.wait_s is None else serving.wait_s,
            price_micros=served.price_micros,
            limit_micros=serving.limit_micros_per_hour,
        )

    def _has_no_room(self, served: Served, more: int, now: float) -> bool:
        return memory.give_way(self._residents(), self._needed(served) * more, self._budget, now) != []

    # -- those that grew -------------------------------------------------------------------------------------------------

    def _renew_grown(self, served: Served, watched: _Watched, now: float) -> None:
        factor = self._settings.replica_growth_max
        if factor <= 0 or watched.renewing or now - watched.renewed_at < _RENEWED_AGAIN_S:
            return
        for replica in served.replicas:
            loaded = served.loaded_bytes(replica)
            if replica.state is not State.READY or not loaded:
                continue
            if replica.rss_bytes > max(loaded * factor, loaded + _GROWTH_LEAST_BYTES):
                watched.renewing, watched.renewed_at = True, now
                _log.warning("replica grew", model=served.name, loaded_bytes=loaded, rss_bytes=replica.rss_bytes)
                self._tasks.begin(self._renew(served, watched, replica))
                return

    async def _renew(self, served: Served, watched: _Watched, replica: Replica) -> None:
        try:
            if not await served.renew(replica):
                _log.error("no replica could be put in the place of one that grew", model=served.name)
        finally:
            watched.renewing = False

    # -- those that live too close ---------------------------------------------------------------------------------------

    async def _spread(self, runtime: Runtime) -> None:
        """Move replicas to nodes that have come since they were started, one after the other; no call notices."""
        self._spreading = True
        try:
            crowded = await runtime.crowded()
            for served in self._versions if crowded else ():
                watched, now = self._watch(served), self._clock.monotonic()
                replica = next((one for one in served.replicas if one.place in crowded), None)
                if replica is not None and not watched.renewing and now - watched.moved_at >= _MOVED_AGAIN_S:
                    watched.moved_at = now
                    moved = await served.renew(replica)
                    _log.info("replicas spread", model=served.name, version=served.model.version, moved=moved)
        finally:
            self._spreading = False

    # -- those that rest -------------------------------------------------------------------------------------------------

    def _rest_idle(self, served: Served, watched: _Watched, now: float) -> None:
        least, _ = self.bounds(served.model)
        idle_s = self._settings.replica_idle_s if served.model.serving.idle_s is None else served.model.serving.idle_s
        if (
            least == 0
            and served.stands
            and served.ready
            and now - watched.used_at >= idle_s
            and not served.model.serving.pinned
        ):
            self._needed(served)  # what it takes is remembered
            _log.info("nobody calls it; unloaded", model=served.name, version=served.model.version, idle_s=idle_s)
            served.rest()

    async def _wake(self, served: Served) -> None:
        try:
            while not served.retired:
                gone = memory.give_way(self._residents(), self._needed(served), self._budget, self._clock.monotonic())
                if gone is not None:
                    break
                await asyncio.sleep(0.25)  # somebody may become idle; callers wait as long as they can
            else:
                return
            for other in self._versions:
                if other.key in gone:
                    _log.info("unloaded to make room", model=other.name, for_=served.name)
                    other.rest()
            watched = self._watch(served)
            watched.used_at = self._clock.monotonic()
            least, _ = self.bounds(served.model)
            await served.scale(max(1, least))
        finally:
            self._waking.discard(served)

    # -- memory ------------------------------------------------------------------------------------------------------------

    @property
    def _budget(self) -> int:
        return int(self._settings.memory_bytes_max)

    def _needed(self, served: Served) -> int:
        """What one more replica takes."""
        measured = max((served.loaded_bytes(replica) for replica in served.replicas), default=0)
        if measured:
            self._measured[served.name, served.model.version] = measured
        known = self._measured.get((served.name, served.model.version))
        return known or memory.reckoned_bytes(self._weights_bytes(served))

    def _residents(self) -> list[memory.Resident]:
        return [
            memory.Resident(
                served.key,
                sum(max(replica.rss_bytes, self._needed(served)) for replica in served.replicas),
                watched.used_at,
                served.model.serving.pinned or not served.stands,
                served.running > 0 or served.line.waiting > 0,
            )
            for served, watched in self._watched.items()
            if served.replicas and not served.passes_through
        ]

    def _watch(self, served: Served) -> _Watched:
        watched = self._watched.get(served)
        if watched is None:
            watched = self._watched[served] = _Watched(Scaler(ScalingPolicy()), self._clock.monotonic())
        return watched


def _slots(served: Served) -> int:
    """How many calls a replica really works on at once: a language model's steps go on for all that are in it; rows are
    worked on one after the other, whatever waits inside."""
    return served.caps.slots if served.caps.chat or served.caps.completions else 1
