"""The fleet: every model on offer with its versions in service, their replicas, lines and engine time.

`offer` brings what runs in line with what the catalogue and the deployments say: a new model is started (calls for it
wait in line while it loads), a changed version is loaded beside the old one and takes over when it has answered a real
inference, a canary or shadow is loaded beside the stable version, and what is in no role any more is stopped when its
last call has ended.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import cast

import msgspec

from tollway.kit import log
from tollway.kit.clock import Clock
from tollway.kit.errors import NotFound, TollwayError, Unavailable
from tollway.kit.settings import Settings
from tollway.kit.tasks import Tasks
from tollway.serve import adapters
from tollway.serve.deployments import Deployment, Role
from tollway.serve.engines import cpu_cores
from tollway.serve.hours import Hour, hour_of
from tollway.serve.keeper import Keeper
from tollway.serve.models import EngineName, Model
from tollway.serve.offered import Offered
from tollway.serve.packages import Packages
from tollway.serve.posts import ReplicaView
from tollway.serve.replica import Replica, State
from tollway.serve.runtimes import Runtime
from tollway.serve.served import Adapted, OnReplica, Served
from tollway.serve.stats import Stats

_log = log.get("serve.fleet")


class Fleet:
    """All models on offer. Use it from one event loop."""

    def __init__(
        self,
        packages: Packages,
        settings: Settings,
        clock: Clock,
        on_replica: OnReplica,
        runtime: Runtime | None = None,
    ) -> None:
        self._runtime = runtime  # where replicas live; None: here
        self._packages = packages
        self._settings = settings
        self._on_replica = on_replica
        self._clock = clock
        self._offered: dict[str, Offered] = {}
        self._stable: dict[str, Served] = {}
        self._adapted: adapters.Adapters[Served] = adapters.Adapters(Adapted)
        self._broken: dict[str, TollwayError] = {}
        self._broken_versions: dict[tuple[str, str], TollwayError] = {}  # beside a stable version that goes on
        self._alive: set[Served] = set()  # started and not yet stopped: also those that are on their way out
        self._tasks = Tasks()
        self._keeper = Keeper(settings, self._clock, lambda served: packages.weights_bytes(served.model), runtime)
        self.machine_micros = 0  # what this machine costs an hour; for cost limits and what is shown
        self._keeping: asyncio.Task[None] | None = None
        self._left: list[Hour] = []  # of replicas that were stopped

    def find(self, name: str, org_id: str = "") -> Served:
        """The version of a model that this call of an organization goes to; another's own model is not found, like one
        that is not there. Raises NotFound, or Unavailable for one whose package cannot be served."""
        offered = self._offered.get(name)
        if offered is not None:
            served = offered.stable
            if offered.share and random.random() * 100 < offered.share and offered.canary is not None:  # noqa: S311
                served = offered.canary
            if served.model.org_id in ("", org_id):
                return served
        elif (adapted := self._adapted.find(name, org_id, self._stable)) is not None:
            return adapted
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

    def offered(self, name: str) -> Offered | None:
        """A model's versions in service; None when it is not on offer."""
        return self._offered.get(name)

    def stats(self, name: str) -> dict[str, Stats]:
        """What each version of a model in service did since it came."""
        offered = self._offered.get(name)
        return {one.model.version: one.stats for one in offered.live} if offered is not None else {}

    def snapshot(self) -> list[ReplicaView]:
        """How every replica is, by model, role and number; a version that is not loaded has one line that says so."""
        found: list[ReplicaView] = []
        ours: list[int] = []
        for offered in (self._offered[name] for name in sorted(self._offered)):
            for served in offered.live:
                for view in served.views() or [served.resting_view()]:
                    if not served.passes_through and (view.pid is not None or view.node not in ("", "local")):
                        ours.append(len(found))
                    found.append(msgspec.structs.replace(view, role=offered.role_of(served)))
        for index in ours:  # as in the books: all of ours share the price evenly, on one machine or on the nodes of a cluster
            found[index] = msgspec.structs.replace(
                found[index], cost_micros_per_s=self.machine_micros / 3600 / len(ours)
            )
        return found

    def queues(self) -> dict[tuple[str, str], int]:
        """How many calls wait for each version in service, by model and version."""
        found: dict[tuple[str, str], int] = {}
        for served in self.versions():
            place = (served.name, served.model.version)
            found[place] = found.get(place, 0) + served.line.waiting
        return found

    def all(self) -> list[Served]:
        """The stable version of every model with a replica of its own or an upstream, by name."""
        return [self._stable[name] for name in sorted(self._stable)]

    def versions(self) -> list[Served]:
        """Every version in service, in whatever role, by name."""
        return [served for name in sorted(self._offered) for served in self._offered[name].live]

    def visible(self, org_id: str) -> list[Served]:
        """What an organization can call, by name: what is on offer to all, and its own fine-tuned models."""
        found = [*self._stable.values(), *self._adapted.of(org_id, self._stable)]
        return sorted((one for one in found if one.model.org_id in ("", org_id)), key=lambda served: served.name)

    @property
    def broken(self) -> dict[str, TollwayError]:
        """Models on offer that cannot be started, and why."""
        return dict(self._broken)

    def broken_version(self, name: str, version: str) -> TollwayError | None:
        """Why a version that should be in service cannot be started; None when it can."""
        return self._broken_versions.get((name, version))

    def offer(self, models: list[Model], deployments: Sequence[Deployment] = ()) -> None:
        """Serve exactly these. Returns at once; loading and stopping go on in the background."""
        self._adapted.offer([model for model in models if model.base and self._is_sound(model)])
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep())
        wanted = {model.name: model for model in models if not model.base}
        self._broken = {name: error for name, error in self._broken.items() if name in wanted}
        for name in [name for name in self._offered if name not in wanted]:
            self._withdraw(name)
        for name, model in wanted.items():
            self._bring(model, [one for one in deployments if one.model == name and one.role != "stable"])

    @property
    def ready(self) -> bool:
        """Whether the shop can sell: every replica of our own answers, and at least one model does. An upstream that is
        down fails its own calls; it must not take the whole shop off a load balancer."""
        served = self._stable.values()
        return all(one.available for one in served if not one.passes_through) and (
            not served or any(one.available for one in served)
        )

    async def wait_ready(self) -> None:
        """Until `ready`, with nothing still loading."""
        while self._loading() or not self.ready:  # noqa: ASYNC110 - once
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Stop everything."""
        self._tasks.cancel()
        if self._keeping is not None:
            self._keeping.cancel()
        self._keeper.close()
        await asyncio.gather(*(served.stop_now() for served in self._alive), return_exceptions=True)

    # -- machine hours -----------------------------------------------------------------------------------------------

    def take_hours(self, now_ms: int) -> list[Hour]:
        """What the replicas did since the last time, also those on their way out."""
        rows, self._left = self._left, []
        for served in sorted(self._alive, key=lambda one: (one.name, one.model.version)):  # gateways lock in one order
            rows += self._worked(served, now_ms)
        return rows

    def put_back(self, rows: list[Hour]) -> None:
        """They could not be written: they come again with the next."""
        self._left += rows

    def _worked(self, served: Served, now_ms: int) -> list[Hour]:
        """What a version's replicas did since the last time; nothing for upstreams."""
        totals = served.take_totals()
        return [] if totals is None else [Hour(served.name, served.model.version, hour_of(now_ms), totals)]

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """What is looked at every second."""
        while True:
            await asyncio.sleep(1)
            try:
                self._keeper.tick(self.versions())
                if self._runtime is not None:
                    self._runtime.expect(self._missing())
            except Exception:  # noqa: BLE001 - logged; if this ended, nothing would be looked after
                _log.exception("the fleet's housekeeping failed")

    def _missing(self) -> int:
        """How many replicas there are to be of all versions that run at a runtime, while not all of them do; 0 when they do."""
        ours = [one for one in self.versions() if not one.passes_through]
        ready = sum(replica.state is State.READY for one in ours for replica in one.replicas)
        wanted = sum(one.wanted for one in ours)
        return wanted if ready < wanted else 0

    def _bring(self, model: Model, beside: Sequence[Deployment]) -> None:
        """Have exactly these versions of one model in service."""
        offered = self._offered.get(model.name) or Offered(model.name)
        roles: dict[Role, Model] = {"stable": model}
        for one in beside:
            engine = cast("EngineName", one.engine) or model.engine
            roles[one.role] = msgspec.structs.replace(
                model, version=one.version, engine=engine, chosen_engine=one.chosen_engine
            )
        wanted: dict[Role, Served] = {}
        for role, version in roles.items():
            served = self._found(offered, version) or self._made(offered, version)
            if served is not None:
                wanted[role] = served
            elif role == "stable" and model.name not in self._offered:
                return  # there is nothing to be beside
        if "stable" not in wanted and offered.wanted.get("stable") in offered.live:
            wanted["stable"] = offered.wanted["stable"]  # what runs goes on
        offered.wanted = wanted
        offered.shares = {one.role: one.share for one in beside}
        if "stable" in wanted:
            self._offered[model.name] = offered
            self._settle(offered)

    def _found(self, offered: Offered, model: Model) -> Served | None:
        adapters, tuned = self._adapted.on(model.name), self._packages.tuned(model)
        for served in offered.live:
            if not _differs(served.model, model) and (served.adapters, served.tuned) == (adapters, tuned):
                served.model = model  # another title
                self._note_whole(model)
                return served
        return None

    def _made(self, offered: Offered, model: Model) -> Served | None:
        try:
            loaded = self._adapted.on(model.name)
            engines, defaults, digest = self._packages.engines(model, loaded, self._threads(model))
            served = Served(
                model, engines, defaults, self._settings, self._clock, self._turned, self._keeper.wake, self._runtime
            )
            served.digest, served.adapters, served.tuned = digest, loaded, self._packages.tuned(model)
            served.defaults |= adapters.chosen(None) if served.adapters else {}
        except TollwayError as error:
            self._note_broken(model, error)
            return None
        self._note_whole(model)
        self._alive.add(served)
        offered.live.append(served)
        self._tasks.begin(self._start(served))
        return served

    async def _start(self, served: Served) -> None:
        try:
            await asyncio.to_thread(self._packages.require_sound, served.model)
        except TollwayError as error:
            self._give_up(served, error)
            return
        offered = self._offered.get(served.name)
        if offered is not None and served in offered.live:
            _, most = self._keeper.bounds(served.model)
            served.price_micros = self.machine_micros // most
            stable = offered.wanted.get("stable") is served  # it takes over from as many as there are
            self._keeper.begin(served, alone=len(offered.live) == 1, at_least=offered.stable.wanted if stable else 1)

    def _turned(self, served: Served, replica: Replica, state: State) -> None:
        offered = self._offered.get(served.name)
        if offered is not None and served in offered.live:
            self._settle(offered)
        self._on_replica(served, replica, state)

    def _settle(self, offered: Offered) -> None:
        for served in offered.settle():
            self._retire(served)
        self._stable[offered.name] = offered.stable
        for served in offered.live:
            served.stands = served is offered.stable

    def _loading(self) -> bool:
        return any(one.wanted.get("stable") is not one.stable for one in self._offered.values())

    def _withdraw(self, name: str) -> None:
        offered = self._offered.pop(name)
        del self._stable[name]
        for served in offered.live:
            self._retire(served)

    def _give_up(self, served: Served, error: TollwayError) -> None:
        """It must not be served; what runs under its name goes on."""
        self._alive.discard(served)
        offered = self._offered.get(served.name)
        if offered is None or served not in offered.live:
            return
        self._note_broken(served.model, error)
        offered.live.remove(served)
        offered.wanted = {role: one for role, one in offered.wanted.items() if one is not served}
        if offered.stable is not served:
            offered.wanted.setdefault("stable", offered.stable)
            self._settle(offered)
        else:
            self._withdraw(served.name)

    def _note_broken(self, model: Model, error: TollwayError) -> None:
        self._broken[model.name] = self._broken_versions[model.name, model.version] = error
        _log.error("model cannot be served", model=model.name, version=model.version, why=error.message)

    def _note_whole(self, model: Model) -> None:
        self._broken.pop(model.name, None)
        self._broken_versions.pop((model.name, model.version), None)

    def _retire(self, served: Served) -> None:
        async def stop() -> None:
            await served.stop()
            self._alive.discard(served)
            self._left += self._worked(served, self._clock.now_ms())

        self._tasks.begin(stop())

    def _threads(self, model: Model) -> int:
        """Threads of one replica: its share of the cores when several replicas of a model may run here. 0: its engine
        decides."""
        _, most = self._keeper.bounds(model)
        if self._settings.replica_threads or most <= 1 or self._runtime is not None:
            return int(self._settings.replica_threads)
        return max(1, cpu_cores() // most)

    def _is_sound(self, adapter: Model) -> bool:
        """Whether an adapter is what was signed; one that is not must not keep its base from being served."""
        try:
            self._packages.require_sound_adapter(adapter)
        except TollwayError as error:
            self._note_broken(adapter, error)
            return False
        return True


def _differs(running: Model, wanted: Model) -> bool:
    return any(
        getattr(running, one) != getattr(wanted, one) for one in ("version", "engine", "chosen_engine", "upstream")
    )
