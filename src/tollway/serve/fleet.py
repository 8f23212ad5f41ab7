"""The fleet: every model on offer with its replica, its line of waiting calls and its engine time.

`offer` brings what runs in line with what the catalogue says: a new model is started (calls for it wait in line while it
loads), a changed version is loaded beside the old one and takes over when it has answered a real inference, a withdrawn
one is stopped when its last call has ended.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from tollway.artifacts.store import Store
from tollway.kit import log
from tollway.kit.clock import SystemClock
from tollway.kit.db import Database
from tollway.kit.errors import BadRequest, NotFound, TollwayError, Unavailable
from tollway.kit.settings import Settings
from tollway.serve import adapters, assembly, tables
from tollway.serve.engine_call import refusal_of
from tollway.serve.engine_time import EngineTime, Totals
from tollway.serve.engines import Engine, UpstreamServer
from tollway.serve.line import Line, Seat
from tollway.serve.models import Model
from tollway.serve.replica import Replica, State
from tollway.serve.requests import (
    ChatRequest,
    ClassifyRequest,
    CompletionRequest,
    EmbeddingRequest,
    ExplainRequest,
    Message,
    Request,
)
from tollway.serve.suspects import Suspects
from tollway.serve.wire import Pool, WireError

_log = log.get("serve.fleet")
_HOUR_MS = 3_600_000
_LOOK_AGAIN_S = 0.3
_BYTES_PER_TOKEN_MOST = 64  # more never is a prompt that fits: not worth counting
OnReplica = Callable[["Served", State], None]


class Size(msgspec.Struct):
    """How large a call may become: what is held for it. `tokens_each`: of one of its `parts` engine calls; `units` of
    `meter` is what it uses besides tokens."""

    input_tokens: int
    output_tokens: int
    parts: int
    tokens_each: int
    meter: str = ""
    units: int = 0


class Hour(msgspec.Struct, frozen=True):
    """What one replica did since the last note, to be added to its hour."""

    model: str
    version: str
    hour_ms: int
    totals: Totals


class Served:
    """One model on offer, with its replica and line."""

    def __init__(
        self, model: Model, engine: Engine, defaults: dict[str, Any], settings: Settings, on_replica: OnReplica
    ) -> None:
        self.model = model
        self.defaults = defaults  # generation parameters for callers who name none
        self.name = model.name
        self.digest = ""  # of the package; none for upstreams
        self.adapters: adapters.Loaded = ()
        self.caps = engine.caps
        self.engine_model = engine.model
        self.passes_through = model.engine == "upstream"
        self.renames = engine.model != model.name
        self.line = Line(model.name, settings.queue_max, settings.queue_timeout_s)
        self.suspects = Suspects()
        self._output_default: int = settings.output_tokens_default
        self._on_replica = on_replica
        self._clock = SystemClock()
        self._seat: Seat | None = None
        self.replica = Replica(engine, self._clock, name=model.name, on_state=self._turned)

    @property
    def ready(self) -> bool:
        """Whether a call would find a replica now."""
        return self._seat is not None and self._seat.ready

    @property
    def running(self) -> int:
        """Calls in the engine."""
        return self._seat.running if self._seat else 0

    @property
    def time(self) -> EngineTime | None:
        """The engine time of our own machine; None for upstreams."""
        return self._seat.time if self._seat else None

    async def start(self) -> None:
        """Start supervising; the line opens when the replica is ready."""
        try:
            await self.replica.start()
        except Unavailable as error:
            _log.error("replica did not start", model=self.name, why=error.message)

    async def stop(self) -> None:
        """Let running calls end (half a minute at most), then stop the replica."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                while self.running or self.line.waiting:  # noqa: ASYNC110 - rare, and short enough to look
                    await asyncio.sleep(0.05)
        await self.replica.stop()
        if self._seat is not None:
            self._seat.pool.close()

    def suspect(self, seat: Seat) -> None:
        """A call lost its connection here: send nobody until the supervisor has had a look."""
        seat.ready = False
        asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._look_again, seat)

    async def size(self, request: Request) -> Size:
        """The most tokens this call can take: input counted by the engine where it can, else bounded by its bytes.
        Raises BadRequest for a prompt longer than the model's context."""
        if not isinstance(request, ChatRequest | CompletionRequest):
            return self._size_of_inputs(request)
        if self.caps.context_tokens and request.input_bytes() > self.caps.context_tokens * _BYTES_PER_TOKEN_MOST:
            raise BadRequest(
                f"The prompt is longer than this model's context of {self.caps.context_tokens:,} tokens.",
                code="context_length_exceeded",
                param="messages" if isinstance(request, ChatRequest) else "prompt",
                hint="Shorten the prompt.",
            )
        return self._sized(request, await self._count(request))

    def size_at_once(self, request: Request) -> Size | None:
        """The same where the engine need not be asked; None where it must."""
        if not isinstance(request, ChatRequest | CompletionRequest):
            return self._size_of_inputs(request)
        return None if self.caps.tokenize or self.caps.context_tokens else self._sized(request, None)

    def _sized(self, request: ChatRequest | CompletionRequest, counts: list[int] | None) -> Size:
        exact = counts is not None
        prompts = counts if counts is not None else [request.input_bytes()]
        answers = request.answers if isinstance(request, CompletionRequest) else request.choices
        longest, context = max(prompts), self.caps.context_tokens
        each = request.output_max or self._output_default
        if context and exact:
            if longest >= context:
                raise BadRequest(
                    f"The prompt has {longest:,} tokens; this model's context is {context:,}, prompt and answer together.",
                    code="context_length_exceeded",
                    param="messages" if isinstance(request, ChatRequest) else "prompt",
                    hint="Shorten the prompt.",
                )
            each = min(each, context - longest)
        elif context:
            each = min(each, context)
        return Size(sum(prompts), each * answers, answers, longest + each)

    def _size_of_inputs(self, request: EmbeddingRequest | ClassifyRequest | ExplainRequest) -> Size:
        """Tokens of texts are bounded by their bytes and by what the model reads of each; the rest is counted."""
        count = len(request.inputs)
        if isinstance(request, ExplainRequest):
            return Size(0, 0, 1, 1, "explanations", count)
        if self.caps.input != "text":
            return Size(0, 0, 1, 1, "images" if self.caps.input == "image" else "rows", count)
        bound = request.input_bytes()
        if self.model.engine == "onnx" and self.caps.context_tokens:
            bound = min(bound, count * self.caps.context_tokens)  # it cuts what is longer
        return Size(bound, 0, 1, bound)

    async def _count(self, request: ChatRequest | CompletionRequest) -> list[int] | None:
        """Exact tokens of each prompt, in the engine's own words; None when it cannot say."""
        if not self.caps.tokenize or self._seat is None or not self._seat.ready:
            return None
        pool = self._seat.pool
        try:
            if isinstance(request, CompletionRequest):
                texts = request.prompts
            else:
                body = {"messages": request.plain_messages()} | ({"tools": request.tools} if request.tools else {})
                reply = await pool.post("/apply-template", msgspec.json.encode(body))
                if reply.status != 200:
                    # a template is a pure function of the messages: whatever it says is about them
                    raise refusal_of(400 if reply.status == 500 else reply.status, reply.body)
                texts = [msgspec.json.decode(reply.body)["prompt"]]
            found = []
            for text in texts:
                asked = msgspec.json.encode({"content": text, "add_special": True, "parse_special": True})
                reply = await pool.post("/tokenize", asked)
                if reply.status != 200:
                    return None
                found.append(len(_tokens(reply.body).tokens))
        except WireError:
            return None
        return found

    async def tokens_of(self, messages: list[dict[str, str]]) -> int:
        """Tokens of a whole conversation in the model's own template. Raises Unavailable while it cannot be counted."""
        plain = [Message(role=one["role"], content=one["content"]) for one in messages]  # type: ignore[arg-type]
        found = await self._count(ChatRequest(model=self.name, messages=plain))
        if found is None:
            raise Unavailable(f"The model {self.name!r} cannot count tokens now.", code="model_unavailable")
        return found[0]

    def _turned(self, replica: Replica, state: State) -> None:
        """The supervisor's word: seat or unseat."""
        now = self._clock.monotonic()
        if state is State.READY:
            if self._seat is None:
                address = replica.address
                own = not self.passes_through
                self._seat = Seat(
                    Pool(address.url, address.key),
                    self.caps.slots,
                    self.caps.cache_tokens,
                    replica.engine.version,
                    prefix=address.prefix,
                    time=EngineTime(now) if own else None,
                )
                self.line.seats.append(self._seat)
            elif self._seat.time is not None:
                self._seat.time.resume(now)
            self._seat.ready = True
            self.line.seat_next()
        elif self._seat is not None:
            if state is State.STARTING and not self.passes_through:
                self.suspects.lost(now)
            self._seat.ready = False  # it may have been suspected, and be unready, before
            if self._seat.time is not None:
                self._seat.time.pause(now)
        self._on_replica(self, state)

    def _look_again(self, seat: Seat) -> None:
        if self.replica.state is State.READY:
            seat.ready = True
            self.line.seat_next()


class Adapted(Served):
    """A model that is an adapter on another one's replica: everything but name, version and defaults is its base's."""

    def __init__(self, base: Served, model: Model, number: int) -> None:
        self._base = base
        self.model, self.name, self.renames = model, model.name, True
        self.defaults = base.defaults | adapters.chosen(number)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)


class Fleet:
    """All models on offer. Use it from one event loop."""

    def __init__(self, store: Store, settings: Settings, on_replica: OnReplica) -> None:
        self._store = store
        self._settings = settings
        self._on_replica = on_replica
        self._served: dict[str, Served] = {}
        self._coming: dict[str, Served] = {}
        self._adapted: adapters.Adapters[Served] = adapters.Adapters(Adapted)
        self._checked: set[tuple[str, str]] = set()  # adapters whose every byte was looked at
        self._broken: dict[str, TollwayError] = {}
        self._alive: set[Served] = set()  # started and not yet stopped: also those that are on their way out
        self._tasks: set[asyncio.Task[None]] = set()
        self._left: list[Hour] = []  # of replicas that were stopped

    def find(self, name: str, org_id: str = "") -> Served:
        """The model that a caller of an organization named; another's own model is not found, like one that is not there.
        Raises NotFound, or Unavailable for one whose package cannot be served."""
        served = self._served.get(name) or self._adapted.find(name, org_id, self._served)
        if served is not None and served.model.org_id in ("", org_id):
            return served
        if name in self._broken:
            raise Unavailable(
                f"The model {name!r} cannot be served now.",
                code="model_unavailable",
                hint="The operator's log says why.",
            )
        raise NotFound(
            f"There is no model {name[:120]!r}.",
            code="model_not_found",
            param="model",
            hint="GET /v1/models lists them.",
        )

    def all(self) -> list[Served]:
        """Every model with a replica of its own or an upstream, by name."""
        return [self._served[name] for name in sorted(self._served)]

    def visible(self, org_id: str) -> list[Served]:
        """What an organization can call, by name: what is on offer to all, and its own fine-tuned models."""
        found = [*self._served.values(), *self._adapted.of(org_id, self._served)]
        return sorted((one for one in found if one.model.org_id in ("", org_id)), key=lambda served: served.name)

    @property
    def broken(self) -> dict[str, TollwayError]:
        """Models on offer that cannot be started, and why."""
        return dict(self._broken)

    def offer(self, models: list[Model]) -> None:
        """Serve exactly these. Returns at once; loading and stopping go on in the background."""
        self._adapted.offer([model for model in models if model.base and self._sound(model)])
        wanted = {model.name: model for model in models if not model.base}
        self._broken = {name: error for name, error in self._broken.items() if name in wanted}
        for offered in (self._served, self._coming):
            for name in [name for name in offered if name not in wanted]:
                self._retire(offered.pop(name))
        for name, model in wanted.items():
            newest = self._coming.get(name) or self._served.get(name)
            if newest is None or _differs(newest.model, model) or newest.adapters != self._adapted.on(name):
                self._bring(model)

    @property
    def ready(self) -> bool:
        """Whether the shop can sell: every replica of our own answers, and at least one model does. An upstream that is
        down fails its own calls; it must not take the whole shop off a load balancer."""
        served = self._served.values()
        return all(one.ready for one in served if not one.passes_through) and (
            not served or any(one.ready for one in served)
        )

    async def wait_ready(self) -> None:
        """Until `ready`, with nothing still loading."""
        while self._coming or not self.ready:  # noqa: ASYNC110 - once
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Stop everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(served.replica.stop() for served in self._alive), return_exceptions=True)

    # -- machine hours -----------------------------------------------------------------------------------------------

    def take_hours(self, now_ms: int) -> list[Hour]:
        """What the replicas did since the last time."""
        rows, self._left = self._left, []
        for served in (*self._served.values(), *self._coming.values()):
            rows += _hour_of(served, now_ms)
        return rows

    def put_back(self, rows: list[Hour]) -> None:
        """They could not be written: they come again with the next."""
        self._left += rows

    def write_hours(self, conn: sa.Connection, db: Database, rows: list[Hour]) -> None:
        """Add them to the cost record."""
        insert = db.insert(tables.replica_hour)
        names = ("busy_us", "failed_us", "idle_us")
        summed = {name: tables.replica_hour.c[name] + insert.excluded[name] for name in names}
        upsert = insert.on_conflict_do_update(index_elements=list(tables.replica_hour.primary_key.columns), set_=summed)
        for row in rows:
            amounts = msgspec.structs.asdict(row.totals)
            conn.execute(upsert, {"model": row.model, "model_version": row.version, "hour_ms": row.hour_ms} | amounts)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _bring(self, model: Model) -> None:
        try:
            engine, defaults, digest = self._engine(model)
            served = Served(model, engine, defaults, self._settings, self._on_replica)
            served.digest, served.adapters = digest, self._adapted.on(model.name)
            served.defaults |= adapters.chosen(None) if served.adapters else {}
        except TollwayError as error:
            self._note_broken(model.name, error)
            return
        self._broken.pop(model.name, None)
        self._alive.add(served)
        if model.name in self._coming:  # still loading, and out of date already
            self._retire(self._coming.pop(model.name))
        if model.name in self._served:
            self._coming[model.name] = served
        else:
            self._served[model.name] = served
        self._spawn(self._start(served))

    async def _start(self, served: Served) -> None:
        try:
            await asyncio.to_thread(self._check, served.model)
        except TollwayError as error:
            self._give_up(served, error)
            return
        await served.start()
        while self._coming.get(served.name) is served:
            if served.ready:
                del self._coming[served.name]
                self._retire(self._served[served.name])
                self._served[served.name] = served
            else:
                await asyncio.sleep(0.05)

    def _check(self, model: Model) -> None:
        """Hold the package against its signature: every byte is read where no note vouches for it, so not on the loop."""
        if model.upstream is None:
            self._store.verify(self._store.get(model.package_name, model.version)).require()

    def _give_up(self, served: Served, error: TollwayError) -> None:
        """It must not be served; what runs under its name goes on."""
        self._alive.discard(served)
        for offered in (self._served, self._coming):
            if offered.get(served.name) is served:
                del offered[served.name]
                self._note_broken(served.name, error)

    def _note_broken(self, name: str, error: TollwayError) -> None:
        self._broken[name] = error
        _log.error("model cannot be served", model=name, why=error.message)

    def _retire(self, served: Served) -> None:
        async def stop() -> None:
            await served.stop()
            self._alive.discard(served)
            self._left += _hour_of(served, SystemClock().now_ms())

        self._spawn(stop())

    def _engine(self, model: Model) -> tuple[Engine, dict[str, Any], str]:
        """The engine for a model, the generation defaults its package recommends, and the package's digest."""
        settings = self._settings
        if model.upstream is not None:
            key = os.environ.get(model.upstream.key_env, "") if model.upstream.key_env else ""
            return UpstreamServer(model.upstream.url, model.upstream.model, kind=model.kind, key=key), {}, ""
        package = self._store.get(model.package_name, model.version)
        manifest = package.manifest
        if model.engine == "onnx":
            return assembly.onnx(model, package, settings), {}, manifest.digest
        engine = assembly.llama_cpp(model, package, settings, self._adapter_files(model.name))
        recommended = msgspec.structs.asdict(manifest.generation)
        return engine, {name: value for name, value in recommended.items() if value is not None}, manifest.digest

    def _adapter_files(self, base: str) -> tuple[Path, ...]:
        """The weights of the adapters on a base, in the order of their numbers."""
        return tuple(self._store.get(name, version).weights_path for name, version in self._adapted.on(base))

    def _sound(self, adapter: Model) -> bool:
        """Whether an adapter is what was signed; one that is not must not keep its base from being served."""
        place = (adapter.package_name, adapter.version)
        if place not in self._checked:
            try:
                self._store.verify(self._store.get(*place)).require()
            except TollwayError as error:
                self._note_broken(adapter.name, error)
                return False
            self._checked.add(place)
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Tokenized(msgspec.Struct):
    tokens: list[int]


_tokens = msgspec.json.Decoder(_Tokenized).decode


def _differs(running: Model, wanted: Model) -> bool:
    return (running.version, running.engine, running.upstream) != (wanted.version, wanted.engine, wanted.upstream)


def _hour_of(served: Served, now_ms: int) -> list[Hour]:
    if served.time is None:
        return []
    totals = served.time.take_totals(SystemClock().monotonic())
    return [Hour(served.name, served.model.version, now_ms - now_ms % _HOUR_MS, totals)]
