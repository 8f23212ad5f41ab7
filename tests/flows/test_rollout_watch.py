"""The gateway's eye on versions: one that cannot be looked at keeps none of the others from being judged."""

from pathlib import Path

import msgspec
import pytest

from tollway.flows.gateway import Gateway
from tollway.kit.clock import ManualClock
from tollway.kit.settings import Settings
from tollway.serve import deployments
from tollway.shop import Shop


async def test_a_version_that_cannot_be_looked_at_stops_none_after_it(
    tmp_path: Path, clock: ManualClock, capfd: pytest.CaptureFixture[str]
) -> None:
    gateway = Gateway(Shop.open(Settings(tmp_path, environment={}), clock))
    await gateway.open()
    try:
        with gateway.shop.db.write() as conn:
            there = deployments.begin(conn, clock.now_ms(), "mood", "1", "warm")
        gone = msgspec.structs.replace(there, id="dep_gone", model="lost")
        strange = msgspec.structs.replace(there, model="odd", policy={"grace_s": "soon"})
        gateway.rollouts.adopt([gone, strange, there])
        await gateway.rollouts.look()
        with gateway.shop.db.read() as conn:
            assert not deployments.get(conn, there.id).running
        told = capfd.readouterr()
        assert "lost" in told.out + told.err and "odd" in told.out + told.err
    finally:
        await gateway.close()
