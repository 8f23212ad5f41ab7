"""Replicas on the nodes of a Ray cluster.

    TOLLWAY_RUNTIME=ray://local          a cluster of this one machine, which ends with the gateway
    TOLLWAY_RUNTIME=ray://head:10001     a cluster by its client port, from anywhere
    TOLLWAY_RUNTIME=ray://head:6379      a cluster by its head, from one of its nodes

Ray finds a node and starts a host there (`host`); the host starts the engine's process and shows it on TCP with a key of its
own. Calls do not pass through Ray: the gateway's line has a seat at that address, so admission, fairness, metering and
retries are the gateway's, as on one machine. When a host or its node is lost, the supervisor of the replica asks for
another place, and gets it on a node that lives.
"""

import asyncio
import contextlib
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tollway.kit import log
from tollway.kit.errors import BadRequest, Unavailable
from tollway.kit.said import say
from tollway.kit.tasks import Tasks
from tollway.serve.engines import Address, Engine
from tollway.serve.runtimes import parcel
from tollway.serve.runtimes.host import SOCKET, Host
from tollway.serve.runtimes.port import Confinement, Failed, Place, Runtime, Waits

_LOG: Final = log.get("serve.runtimes")
_CLIENT_PORT: Final = 10001
_NAMESPACE: Final = "tollway"
_STORE_BYTES: Final = 256 * 1024 * 1024
_SCHEME: Final = "ray://"
_ASK_S: Final = 5.0
_HEAD_WITHIN_S: Final = 60.0  # a head that is started again is there by then
_ASK_AGAIN_S: Final = 1.0  # and doubling ...
_ASK_AGAIN_MOST_S: Final = 8.0
_CPUS: Final = 1  # that a replica's host asks for
_LOOK_FOR_ROOM_S: Final = 1.0
_NODE_LABEL: Final = "ray.io/node-id"
_ON_HEAD: Final = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}  # another node may be the very one that hangs
_PULSE_EVERY_S: Final = 5.0
_PULSE_WITHIN_S: Final = 20.0
_DOUBTED_S: Final = 90.0  # by then Ray has seen for itself that a node is gone: one that hangs takes it about 65
_WORKER: Final = {"env_vars": {"RAY_worker_niceness": "0"}}
"""Ray's own choice for what runs on its nodes is 15: calls would wait for anything else there, a training too."""
Of = tuple[str, str]  # a model and its version


class RayPlace:
    """A replica's host on some node."""

    def __init__(self, actor: Any, address: Address, node: str, member: str = "") -> None:
        self.actor, self.address, self.node = actor, address, node
        self.member = member  # the node as the cluster calls it
        self.given_up = False

    @property
    def pid(self) -> int | None:
        """None: the process is not one of this machine's."""
        return None

    async def ended(self) -> str:
        ended = _asked(self.actor.ended)
        while not ended.done():
            await asyncio.wait({ended}, timeout=_PULSE_EVERY_S)
            # An engine may be silent for a minute, in one of its steps; a host is only when its node is.
            sign = _asked(self.actor.lives)
            await asyncio.wait({ended, sign}, timeout=_PULSE_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done() and not sign.done():
                told = {"node": self.node, "limit_s": _PULSE_WITHIN_S}
                return say("replica.host_silent", "its host on {node} gave no sign of life for {limit_s}", **told)
        error = ended.exception()
        if error is None:
            return ended.result()  # with its code: it comes as it was said there
        # whatever Ray says of it: the host is gone, and why is told
        what = type(error).__name__
        return say("replica.host_gone", "its host on {node} is gone ({what})", node=self.node, what=what)

    def kill(self) -> None:
        import ray

        self.given_up = True
        with contextlib.suppress(Exception):  # it may be gone already
            ray.kill(self.actor, no_restart=True)


class RayRuntime:
    """Places on a cluster that this process is connected to."""

    def __init__(self, ray: Any, packages: Path, *, share: bool = True, ip: str = "") -> None:
        self._ray, self._packages, self._share, self._ip = ray, packages.resolve(), share, ip
        self._contents: dict[str, tuple[str, dict[str, str]]] = {}
        self._host = ray.remote(Host)
        self._room = ray.remote(_room)
        self._free = ray.remote(_free)
        self._places: dict[RayPlace, Of] = {}  # those that run, and what they run
        self._doubted: dict[str, float] = {}  # nodes where a host did not answer, and when (monotonic)
        self._expected = self._asked = 0
        self._coming = 0  # hosts that are asked for and not there yet
        self._tasks = Tasks()

    async def start(self, engine: Engine, folder: Path, confinement: Confinement, waits: Waits) -> Place | None:
        launch = engine.launch(Path(SOCKET))
        if launch is None:
            return None
        key, of = secrets.token_hex(24), (engine.model, engine.version)
        nodes = await self._room_for_one(waits)
        self._coming += 1
        actor = self._host.options(
            num_cpus=_CPUS, scheduling_strategy=self._apart(of, nodes), max_restarts=0, max_concurrency=16,
            namespace=_NAMESPACE, runtime_env=_WORKER,
        ).remote()  # fmt: skip
        try:
            try:
                await actor.lives.remote()
            finally:
                self._coming -= 1
            for needed in self._folders(json.loads(launch.first_line)):
                await self._send(actor, needed)
            told = await actor.begin.remote(list(launch.argv), launch.first_line, confinement.memory_bytes, key, self._ip)
        except asyncio.CancelledError:
            self._kill(actor)
            raise
        except Exception as error:  # noqa: BLE001 - Ray's many errors: this life did not begin, and why is told
            self._kill(actor)
            what = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            raise Failed(say("replica.host_not_started", "its host did not start ({what})", what=what)) from None
        if "why" in told:
            self._kill(actor)
            raise Failed(told["why"])
        node = str(told["ip"])
        address = Address(url=f"http://{node}:{told['port']}", prefix=engine.address(folder / "x").prefix, key=key)
        place = RayPlace(actor, address, node, str(told["member"]))
        self._places[place] = of
        return place

    def _apart(self, of: Of, nodes: list[str]) -> Any:
        """Where the next replica of a version should go: where the fewest of its replicas are, or a node that dies would take
        them all along. Only a wish: where there is no room, it goes elsewhere all the same."""
        best = _emptiest(self._on_nodes(of), nodes)
        if not best or not (self._doubted or of in self._places.values()):
            return "SPREAD"
        from ray.util.scheduling_strategies import In, NodeLabelSchedulingStrategy

        there = In(*best)  # type: ignore[no-untyped-call]
        return NodeLabelSchedulingStrategy(hard={}, soft={_NODE_LABEL: there})

    async def crowded(self) -> list[Place]:
        """One replica of each version that had better be on a node where fewer of them are, and that has room."""
        found: list[Place] = []
        for of in sorted(set(self._places.values())):
            mine = self._on_nodes(of)
            fullest, most = mine.most_common(1)[0]
            if most < 2:
                continue
            best = _emptiest(mine, await self._nodes())
            if best and mine[best[0]] + 2 <= most and await self._has_room(best):
                found.append(next(one for one, what in self._places.items() if what == of and one.member == fullest))
        return found

    def _on_nodes(self, of: Of) -> Counter[str]:
        """How many replicas of a version each node has."""
        return Counter(place.member for place, what in self._places.items() if what == of)

    async def _nodes(self) -> list[str]:
        """The nodes where replicas can live. One that is about to be given up is none: Ray takes a while to see it."""
        known = time.monotonic() - _DOUBTED_S
        self._doubted = {node: since for node, since in self._doubted.items() if since > known}
        try:
            nodes = await asyncio.to_thread(self._ray.nodes)
        except Exception as error:  # noqa: BLE001 - Ray's many errors; where a replica goes is only a wish
            _LOG.warning("nodes not known", why=type(error).__name__)
            return []
        alive = [one["NodeID"] for one in nodes if one["Alive"] and one["Resources"].get("CPU", 0) >= 1]
        return [node for node in alive if node not in self._doubted]

    async def _room_for_one(self, waits: Waits) -> list[str]:
        """Wait until the nodes can take one more replica than are on their way: Ray would let a host wait without a word. Returns
        the nodes; where nothing is known of their room, Ray is left to find it."""
        said = False
        while True:
            nodes, free = await self._nodes(), await self._free_cpus()
            if free is None:
                break
            room = sum(int(free.get(node, 0) // _CPUS) for node in nodes)
            if room > self._coming:  # those may have taken theirs or not
                break
            if not room and not said:
                said = True
                waits(say("replica.no_room", "the cluster has no room for it: it asks for {cpus} free CPU on one node", cpus=_CPUS))
            await asyncio.sleep(_LOOK_FOR_ROOM_S)
        waits("")
        return nodes

    async def _has_room(self, nodes: list[str]) -> bool:
        """Whether one of them could take a replica now; nobody is moved where that is not known."""
        free = await self._free_cpus() or {}
        return any(free.get(node, 0) >= _CPUS for node in nodes)

    async def _free_cpus(self) -> dict[str, float] | None:
        """How many processors each node has left; None where the cluster does not say."""
        try:
            async with asyncio.timeout(_ASK_S):
                return dict(await _told(self._free.options(**_ON_HEAD).remote()))
        except Exception as error:  # noqa: BLE001 - Ray's many errors; whoever asked goes on without
            _LOG.warning("room not known", why=type(error).__name__)
            return None

    async def stop(self, place: Place, within_s: float) -> None:
        assert isinstance(place, RayPlace)
        self._places.pop(place, None)
        try:
            async with asyncio.timeout(within_s + 2):
                await place.actor.end.remote(within_s)
        except Exception as error:  # noqa: BLE001 - it is ended either way
            from ray.exceptions import ActorDiedError

            _LOG.info("host did not end politely", node=place.node, why=type(error).__name__)
            if place.given_up or not isinstance(error, ActorDiedError):  # it hung, and may have done so with its node
                self._doubted[place.member] = time.monotonic()
        finally:
            place.kill()

    def expect(self, replicas: int) -> None:
        """Ask the cluster's autoscaler for nodes: for all at once, where a replica that waits for its place would be seen one
        at a time. What runs keeps its node by itself, so nothing is asked for then."""
        self._expected = replicas
        if self._expected != self._asked and not list(self._tasks):
            self._tasks.begin(self._ask())

    async def _ask(self) -> None:
        while self._asked != self._expected:
            self._asked = self._expected
            try:
                await _told(self._room.options(**_ON_HEAD).remote(self._asked))
            except Exception as error:  # noqa: BLE001 - Ray's many errors; whatever becomes of a hint
                _LOG.warning("the cluster was not asked for room", replicas=self._asked, why=type(error).__name__)
            else:
                _LOG.info("room on the cluster", replicas=self._asked)

    async def close(self) -> None:
        self._tasks.cancel()
        if self._asked:  # or the nodes would be kept for nobody
            self._expected = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ASK_S):
                    await self._ask()
        await asyncio.to_thread(self._ray.shutdown)

    def _kill(self, actor: Any) -> None:
        with contextlib.suppress(Exception):
            self._ray.kill(actor, no_restart=True)

    async def _send(self, actor: Any, folder: Path) -> None:
        """Have a package's folder there, by the same path if the node sees it, else a copy."""
        seen = await asyncio.to_thread(parcel.glance, folder)
        if not await actor.lacks.remote(str(folder), seen, self._share):
            return
        if seen not in self._contents:
            self._contents[seen] = await asyncio.to_thread(parcel.contents, folder)
        digest, files = self._contents[seen]
        if await actor.has.remote(str(folder), digest):
            return
        pieces = parcel.pieces(folder, files)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:  # calls go on while it is read
            await actor.add.remote(str(folder), *piece)
        await actor.keep.remote(str(folder), files)

    def _folders(self, orders: Any) -> list[Path]:
        """The packages (name/version) that a launch's orders speak of."""
        found = set()
        for text in _texts(orders):
            path = Path(text)
            if path.is_absolute() and path.is_relative_to(self._packages):
                parts = path.relative_to(self._packages).parts[:2]
                if len(parts) == 2 and (self._packages / parts[0] / parts[1]).is_dir():
                    found.add(self._packages.joinpath(*parts))
        return sorted(found)


async def opened(address: str, packages: Path, tell: Callable[[str], None] | None = None) -> Runtime:
    """The cluster that the setting `runtime` names; takes seconds, and waits for a head that is just being started: `tell` says
    so. Raises BadRequest, Unavailable."""
    where = address.removeprefix(_SCHEME).rstrip("/")
    host, _, port = where.rpartition(":")
    if not address.startswith(_SCHEME) or (where != "local" and not (host and port.isdecimal())):
        raise BadRequest(
            f"The setting runtime is {address[:100]!r}, which is no place where replicas can live.",
            param="runtime",
            code="unknown_runtime",
            hint="Leave it empty for this machine, or say ray://local or ray://HOST:PORT (docs/scale-out.md).",
        )
    ray = await asyncio.to_thread(_imported, where)
    until, pause_s = time.monotonic() + _HEAD_WITHIN_S, _ASK_AGAIN_S
    while True:
        try:
            if where != "local":
                await _require_listener(host.strip("[]"), int(port))
            return await asyncio.to_thread(_joined, ray, where, packages)
        except OSError as error:
            said = str(error).strip().splitlines() or [""]  # a head that is half there sends a traceback
            why, left_s = f"{type(error).__name__} {said[-1][:200]}".rstrip(), until - time.monotonic()
            if left_s <= 0:
                raise Unavailable(
                    f"The Ray cluster at {where} could not be reached for {_HEAD_WITHIN_S:.0f} s ({why}).",
                    code="ray_unavailable",
                    hint="Start its head (`ray start --head`), or mend the setting runtime: clients connect to port 10001 of the "
                    "head, who is on one of its nodes to 6379 (docs/scale-out.md).",
                ) from error
        pause_s = min(pause_s, left_s)
        (tell or _LOG.warning)(f"Waiting for the Ray cluster at {where} ({why}): {left_s:.0f} s more, next try in {pause_s:.0f} s.")
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _ASK_AGAIN_MOST_S)


async def _require_listener(host: str, port: int) -> None:
    """Raises OSError when nobody takes connections there. By itself Ray asks a client port for half a minute and a head for
    ever, and says nothing meanwhile."""
    async with asyncio.timeout(_ASK_S):
        _, writer = await asyncio.open_connection(host, port)
    writer.transport.abort()


def _imported(where: str) -> Any:
    """Ray, told before how to treat the cluster there. Raises Unavailable."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if where.split(":")[0] in ("local", "127.0.0.1", "localhost"):
        # Its name notwithstanding, this keeps Ray on the loopback: it would listen on the machine's address else.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if where != "local" and _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # heads ask for it, and who joins does not show it by itself
    try:
        import ray
    except ImportError as error:
        raise Unavailable("Ray is not installed.", hint="pip install 'tollway[ray]'", code="ray_missing") from error
    return ray


def _joined(ray: Any, where: str, packages: Path) -> Runtime:
    """The cluster there, or one of our own. Raises OSError while its head is not all there, Unavailable."""
    quiet: dict[str, Any] = {"namespace": _NAMESPACE, "log_to_driver": False, "configure_logging": False}
    try:
        if where == "local":
            ray.init(
                address="local", include_dashboard=False, _node_ip_address="127.0.0.1",
                object_store_memory=_STORE_BYTES, **quiet,
            )  # fmt: skip
            return RayRuntime(ray, packages, ip="127.0.0.1")
        ray.init(address=_SCHEME + where if where.endswith(f":{_CLIENT_PORT}") else where, **quiet)
    except Exception as error:
        ray.shutdown()  # what is half begun would be in the way of another try
        if where != "local" and isinstance(error, ConnectionError):
            raise
        raise Unavailable(
            f"The Ray cluster at {where} cannot be reached ({str(error).splitlines()[0][:200]}).",
            code="ray_unavailable",
            hint="Its version must be ours; RAY_AUTH_MODE and the token file the same here and there (docs/scale-out.md).",
        ) from error
    return RayRuntime(ray, packages)


def _room(replicas: int) -> None:
    """Run on the cluster: a client outside of it has no word with its autoscaler."""
    from ray.autoscaler import sdk

    sdk.request_resources(bundles=[{"CPU": 1}] * replicas)


def _free() -> dict[str, float]:
    """Run on the cluster: how many processors each node has left. A client outside of it is told of all together only."""
    from ray._private.state import available_resources_per_node

    rooms = available_resources_per_node()  # type: ignore[no-untyped-call]
    return {node: room.get("CPU", 0.0) for node, room in rooms.items()}


def _emptiest(mine: Counter[str], nodes: list[str]) -> list[str]:
    """Of these nodes, those with the fewest replicas."""
    least = min((mine[node] for node in nodes), default=0)
    return [node for node in nodes if mine[node] == least]


async def _told(ref: Any) -> Any:
    return await ref


def _asked(method: Any) -> "asyncio.Future[str]":
    """What a host says. Who waits may leave it: Ray does not like its own future to be cancelled."""
    asked = asyncio.ensure_future(_told(method.remote()))
    asked.add_done_callback(lambda done: done.cancelled() or done.exception())
    return asked


def _has_token() -> bool:
    """Whether there is a token to show, in one of the places where Ray looks."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


def _texts(told: Any) -> Iterator[str]:
    if isinstance(told, str):
        yield told
    elif isinstance(told, dict):
        for value in told.values():
            yield from _texts(value)
    elif isinstance(told, list):
        for value in told:
            yield from _texts(value)
