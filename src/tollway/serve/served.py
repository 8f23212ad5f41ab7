"""One version of a model in service: its replicas, the line in front of them, and how calls go."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from tollway.kit import log
from tollway.kit.clock import Clock
from tollway.kit.errors import Unavailable
from tollway.kit.settings import Settings
from tollway.serve import adapters
from tollway.serve.engine_call import Tally
from tollway.serve.engine_time import Totals
from tollway.serve.engines import Engine, memory_bytes
from tollway.serve.line import ANYBODY, Line, Seat, Turn
from tollway.serve.models import Model
from tollway.serve.posts import Post, ReplicaView
from tollway.serve.quarantine import Quarantine
from tollway.serve.replica import Replica, State
from tollway.serve.replicas import Replicas
from tollway.serve.requests import Request
from tollway.serve.retries import Budget, Patience
from tollway.serve.runtimes import Confinement, Runtime
from tollway.serve.sizing import Size, Sizing, least
from tollway.serve.stats import Stats
from tollway.serve.suspects import Suspects

_log = log.get("serve.served")
OnReplica = Callable[["Served", Replica, State], None]


class Served:
    """One version of a model, with its replicas and its line. `clock` is for the date and for what its replicas do; what is
    compared with a call's own times (deadlines, time in the engine) is read as those are, from `time.monotonic`."""

    def __init__(
        self,
        model: Model,
        engines: Sequence[Engine],
        defaults: dict[str, Any],
        settings: Settings,
        clock: Clock,
        on_replica: OnReplica,
        wake: Callable[["Served"], None] = lambda _: None,
        runtime: Runtime | None = None,
    ) -> None:
        engine = engines[0]
        self.model = model
        self.defaults = defaults  # generation parameters for callers who name none
        self.name = model.name
        self.digest = ""  # of the package; none for upstreams
        self.adapters: adapters.Loaded = ()
        self.tuned = ""  # which measured way of serving it was chosen on this machine (artifacts.tuning.stamp)
        self.caps = engine.caps
        self.engine_model = engine.model
        self.passes_through = model.engine == "upstream"
        self.renames = engine.model != model.name
        self.line = Line(model.name, settings.queue_max, settings.queue_timeout_s)
        self.suspects = Suspects()
        self.stats = Stats(since_ms=clock.now_ms())
        self._on_replica = on_replica
        self._clock = clock
        self._replicas = Replicas(
            model.name, engines, self.line, self._clock, self._turned, timed=not self.passes_through,
            confinement=Confinement(memory_bytes=settings.replica_memory_bytes or memory_bytes(), home=str(settings.home)),
            runtime=runtime,
        )  # fmt: skip
        self._replicas.drain_within_s = settings.call_timeout_s
        sizing = self._sizing = Sizing(model, engine.caps, settings, self._replicas.seats)
        self.least, self.rough_size, self.size_at_once = least, sizing.rough, sizing.at_once
        self.tokens_of = sizing.tokens_of
        self._wake = wake
        self._woken_at: float | None = None  # since when it is being loaded for a call
        self._load_s = 0.0  # what that took last
        self.addresses = len(engines)  # of an upstream; 1 for what runs here
        self.stands = True  # calls by its name go here: it may rest
        self.resting = False  # not loaded until somebody calls
        self.retired = False
        self.away = False  # a call would find nobody now: it rests, is only just being loaded, or all have failed
        self.price_micros = 0  # of one replica, an hour
        self.quarantine = Quarantine()
        self.retries = Budget()
        self.first_piece = Patience(settings.call_timeout_s / 2)
        self.whole_answer = Patience(settings.call_timeout_s / 2)

    @property
    def replicas(self) -> list[Replica]:
        """Those that work for it, or try to."""
        return [post.replica for post in self._replicas.posts]

    @property
    def replica(self) -> Replica:
        """The first of them."""
        return self._replicas.posts[0].replica if self._replicas.posts else self._replicas.none

    @property
    def ready(self) -> bool:
        """Whether a call would find a replica now."""
        return self._replicas.ready

    @property
    def running(self) -> int:
        """Calls in the engine."""
        return self._replicas.running

    def take_totals(self) -> Totals | None:
        """What our own machines did since the last time; None for upstreams."""
        return None if self.passes_through else self._replicas.take_totals()

    @property
    def complete(self) -> bool:
        """Whether it can take over: it answers, and each of its replicas does or has failed to."""
        return self.ready and self._replicas.complete

    @property
    def available(self) -> bool:
        """Whether a call would be answered, though it may have to wait until the model is loaded again."""
        return self.ready or self.resting

    @property
    def failed(self) -> bool:
        """Whether all its replicas end again and again, or have never come up."""
        replicas = self.replicas
        return bool(replicas) and all(one.state is State.FAILED or one.stillborn for one in replicas)

    @property
    def wanted(self) -> int:
        """How many replicas it is to have."""
        return self._replicas.wanted

    @property
    def ejections(self) -> int:
        """How often a replica was sent nobody because too many calls failed there."""
        return self._replicas.ejections

    @property
    def key(self) -> str:
        """What tells it from all other versions."""
        return f"{self.name}@{self.model.version}#{id(self):x}"

    def views(self) -> list[ReplicaView]:
        """How each replica is."""
        return self._replicas.views(self.model.version)

    def resting_view(self) -> ReplicaView:
        """What is shown while there is no replica."""
        return ReplicaView(
            model=self.name,
            version=self.model.version,
            number=0,
            state="resting" if self.resting else "starting",
            node="local",
            pid=None,
            restarts=0,
            slots=self.caps.slots,
            running=0,
        )

    def loaded_bytes(self, replica: Replica) -> int:
        """What a replica took when it was ready; 0 before."""
        return next((post.loaded_bytes for post in self._replicas.posts if post.replica is replica), 0)

    async def scale(self, replicas: int) -> None:
        """Have this many replicas; see `Replicas.scale`. The line opens when the first one is ready."""
        if not self.retired:
            await self._replicas.scale(replicas)

    def rest(self) -> None:
        """Unload it; the next call loads it again."""
        self.resting = self.away = True
        self._replicas.rest()

    def come(self, turn: Turn) -> None:
        """A call came while it was away: have it loaded. Returns if the call may wait in line for that. Raises Unavailable
        when it could not be answered in time, or when all replicas have failed."""
        if self.failed:
            raise self._failure()
        now = time.monotonic()
        if self._woken_at is None:
            self._woken_at = now
        self._wake(self)
        left_s = self._woken_at + self._load_s - now
        if left_s > turn.deadline - now:
            raise Unavailable(
                f"The model {self.name!r} is being loaded.",
                code="model_loading",
                hint="Try again.",
                retry_after_s=left_s,
            )

    def _failure(self) -> Unavailable:
        """What callers hear; why is in the log, on the console's fleet page and in `doctor`."""
        what = "do not start" if all(one.stillborn for one in self.replicas) else "end again and again"
        return Unavailable(
            f"The model {self.name!r} cannot be served now: its replicas {what}.",
            code="model_failed",
            hint="Try again after the time in Retry-After. The operator's log says why.",
            retry_after_s=max(1.0, min(one.next_try_in_s for one in self.replicas)),
        )

    async def renew(self, replica: Replica) -> bool:
        """Put a fresh replica in the place of this one, without a call noticing. False when none would start."""
        post = next((post for post in self._replicas.posts if post.replica is replica), None)
        return post is not None and await self._replicas.replace(post)

    async def stop(self) -> None:
        """Let running calls end, and those that wait; then stop the replicas."""
        self.retired = True
        await self._replicas.stop()

    async def stop_now(self) -> None:
        """Stop without waiting for anybody."""
        self.retired = True
        await self._replicas.stop(now=True)

    # -- how calls went ------------------------------------------------------------------------------------------------

    def went_well(self, seat: Seat, tally: Tally, now: float) -> None:
        """A call was answered there."""
        stats, health = self.stats, seat.health
        stats.latency.add(now - tally.sat_at)
        if tally.first_piece_at is not None:
            stats.first_token.add(tally.first_piece_at - tally.sat_at)
        engine_us = tally.prefill_us + tally.decode_us
        stats.engine_us += engine_us
        stats.engine_s2 += engine_us * engine_us * 1e-12
        if tally.usage is not None:
            health.tokens += tally.usage.prompt_tokens + tally.usage.completion_tokens
        health.calls += 1
        health.answered += 1
        if health.watched:
            self._replicas.recovered(seat)

    def went_wrong(self) -> None:
        """A call was not answered, and not for what the caller did."""
        self.stats.errors += 1

    def fault(self, seat: Seat, *, gone: bool = False) -> None:
        """It was this replica's fault. `gone`: its connection was lost."""
        self._replicas.fault(seat, gone=gone)

    def others(self, seat: Seat) -> bool:
        """Whether somebody else could be asked."""
        return any(one.ready and one is not seat for one in self.line.seats)

    def tick(self) -> None:
        """A second has passed."""
        self._replicas.tick()
        self.first_piece.tick(self.stats.first_token)
        self.whole_answer.tick(self.stats.latency)

    async def size(self, request: Request) -> Size:
        """See `Sizing.exact`; it may have to wait until the model is loaded."""
        if self.away:
            self.come(ANYBODY)
        self._replicas.guests += 1
        try:
            return await self._sizing.exact(request)
        finally:
            self._replicas.guests -= 1

    def _turned(self, post: Post, state: State) -> None:
        if state is State.STARTING and post.seat is not None and not self.passes_through:
            self.suspects.lost(time.monotonic())
        if state in (State.STARTING, State.FAILED) and post.seat is not None:
            self._lost(post.seat, post.replica)
        if state is State.READY:
            if self._woken_at is not None:
                self._load_s = time.monotonic() - self._woken_at
            self.resting, self._woken_at = False, None
        self.away = self.resting or self.failed
        if self.failed:
            self.line.send_away(self._failure)
        if not self.passes_through:
            self.retries.reserve(sum(seat.slots for seat in self.line.seats))
        self._on_replica(self, post.replica, state)

    def _lost(self, seat: Seat, replica: Replica) -> None:
        """A life of a replica is over. Calls inside hear of it by their connections; those that were given up do not."""
        life, now = (id(seat), seat.life), time.monotonic()
        for call_id in self.quarantine.lost_at(replica.at_work, life, now, node=seat.node):
            _log.error("a request stops the engine", model=self.name, call=call_id)


class Adapted(Served):
    """A model that is an adapter on another one's replica: everything but name, version and defaults is its base's."""

    def __init__(self, base: Served, model: Model, number: int) -> None:
        self._base = base
        self.model, self.name, self.renames = model, model.name, True
        self.defaults = base.defaults | adapters.chosen(number)

    def come(self, turn: Turn) -> None:
        """Its base's."""
        self._base.come(turn)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)
