"""A gateway that starts before the head of its cluster: it waits and says so, and gives up with what to do."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tollway.kit.errors import BadRequest, Unavailable
from tollway.serve.runtimes import opened
from tollway.serve.runtimes import ray as ray_module

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # the latter: on the loopback
pytest.importorskip("ray")


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever token this machine has for a cluster of its own."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.mark.parametrize("port", ["client_server", "head"])
async def test_a_head_that_comes_late_is_joined(port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(ray_module, "_HEAD_WITHIN_S", 300.0)
    monkeypatch.setattr(ray_module, "_ASK_AGAIN_MOST_S", 1.0)
    told, heads = list[str](), list[Any]()
    head, client = free_port(), free_port()
    node = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    node |= {"gcs_server_port": head, "ray_client_server_port": client}
    if port == "client_server":
        monkeypatch.setattr(ray_module, "_CLIENT_PORT", client)
    where = f"127.0.0.1:{client if port == 'client_server' else head}"
    waiting = asyncio.create_task(opened(f"ray://{where}", tmp_path, told.append))
    try:
        async with asyncio.timeout(300):
            while not told:
                await asyncio.sleep(0.01)
            assert told[0].startswith(f"Waiting for the Ray cluster at {where} (ConnectionRefusedError")
            heads.append(Cluster(initialize_head=True, head_node_args=node))
            await (await waiting).close()
    finally:
        waiting.cancel()
        for one in heads:
            one.shutdown()


async def test_a_head_that_does_not_come_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_module, "_HEAD_WITHIN_S", 0.3)
    monkeypatch.setattr(ray_module, "_ASK_AGAIN_S", 0.1)
    told: list[str] = []
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and nobody listens
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"The Ray cluster at {where} could not be reached") as given_up:
            await opened(f"ray://{where}", tmp_path, told.append)
    assert "ray start --head" in given_up.value.hint and given_up.value.code == "ray_unavailable"
    assert told and all(where in line for line in told)


@pytest.mark.parametrize("address", ["head:10001", "ray://head", "ray://head:port", "ray://:6379"])
async def test_what_is_no_address_is_not_waited_for(address: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="ray://HOST:PORT"):
        await opened(address, tmp_path)
