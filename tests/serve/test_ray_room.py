"""A Ray cluster without room: a replica that waits for it says so, fails nobody, and starts when there is some."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.rows_fleet import rows_fleet
from tollway.kit.said import translated
from tollway.serve.replica import State
from tollway.serve.runtimes import RayRuntime

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # the latter: on the loopback
ray = pytest.importorskip("ray")
NODE = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head with one processor, and this process as its driver."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    ray.init(made.address, namespace="tollway", log_to_driver=False, configure_logging=False)
    yield made
    ray.shutdown()
    made.shutdown()


async def test_a_replica_waits_for_room_with_the_reason_and_starts_when_there_is_some(tmp_path: Path, cluster: Any) -> None:
    runtime = lambda store: RayRuntime(ray, store.root, ip="127.0.0.1")  # noqa: E731
    async with rows_fleet(tmp_path, runtime, replicas_min=2, replicas_max=2) as town:
        town.fleet.offer([town.model()])
        await town.until(lambda: [one.state for one in town.fleet.snapshot()] == ["ready", "waiting"])
        first, second = town.served.replicas
        view = town.fleet.snapshot()[1]
        assert (view.node, view.cost_micros_per_s, view.restarts) == ("", 0, 0)
        assert view.why == "the cluster has no room for it: it asks for 1 free CPU on one node"
        assert view.said is not None and view.said["code"] == "replica.no_room"
        assert "1 个空闲 CPU" in translated("zh", view.why, view.said)
        assert town.served.complete, "a version that takes over would wait for room that the one before it has"
        assert (await town.call())["data"]

        cluster.add_node(**NODE)
        await town.until(lambda: second.state is State.READY)
        assert (second.restarts, second.waits, second.last_failure, first.restarts) == (0, "", "", 0)
        assert second.node == "127.0.0.1"
        assert {one.why for one in town.fleet.snapshot()} == {""}
