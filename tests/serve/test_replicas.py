"""Several replicas of one version: calls go where there is room, one that dies takes nobody along, none is lost on the way out."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.serve.rows_fleet import rows_fleet
from tollway.serve import replicas
from tollway.serve.replica import State


async def test_a_replica_killed_under_load_costs_no_call_and_is_back(tmp_path: Path) -> None:
    async with rows_fleet(tmp_path, replicas_min=2, replicas_max=2) as town:
        town.fleet.offer([town.model()])
        await town.until(lambda: sum(one.state is State.READY for one in town.served.replicas) == 2)
        stop = asyncio.Event()
        load = asyncio.create_task(town.load(stop))
        await town.until(lambda: town.calls > 100)
        victim, other = town.pids()
        os.kill(victim, signal.SIGKILL)
        noticed_s = await town.until(lambda: sum(seat.ready for seat in town.served.line.seats) == 1)
        back_s = await town.until(lambda: sum(seat.ready for seat in town.served.line.seats) == 2)
        await asyncio.sleep(0.3)
        stop.set()
        await load
        assert town.failures == []
        assert other in town.pids()
        assert victim not in town.pids()
        assert all(seat.running == 0 and seat.tokens == 0 for seat in town.served.line.seats)
        print(f"noticed in {noticed_s:.2f} s, back in {back_s:.2f} s, {town.calls} calls, {town.retries} retries")


async def test_more_and_fewer_replicas_under_load(tmp_path: Path) -> None:
    async with rows_fleet(tmp_path, replicas_max=3) as town:
        town.fleet.offer([town.model()])
        await town.until(lambda: town.fleet.ready)
        stop = asyncio.Event()
        load = asyncio.create_task(town.load(stop))
        await town.served.scale(3)
        assert len(set(town.pids())) == 3
        await town.served.scale(1)
        await town.until(lambda: len(town.pids()) == 1)
        replica = town.served.replicas[0]
        assert await town.served.renew(replica)
        assert replica not in town.served.replicas
        stop.set()
        await load
        assert town.failures == []
        totals = town.served.take_totals()
        assert totals is not None
        assert totals.idle_us > 0


async def test_a_version_swap_under_load_loses_no_call(tmp_path: Path) -> None:
    async with rows_fleet(tmp_path, replicas_min=2, replicas_max=2) as town:
        first = town.model()
        town.fleet.offer([first])
        await town.until(lambda: town.fleet.ready)
        before = town.served
        stop = asyncio.Event()
        load = asyncio.create_task(town.load(stop, clients=8, pause_s=0))
        await asyncio.sleep(0.3)
        town.fleet.offer([town.next_version()])
        await town.until(lambda: town.served is not before)
        await town.until(lambda: before.replicas == [])
        stop.set()
        await load
        assert town.failures == []
        assert town.served.model.version != first.version
        stats = town.fleet.stats("mood")
        assert list(stats) == [town.served.model.version]


async def test_a_hung_replica_is_found_by_its_callers_and_replaced(tmp_path: Path) -> None:
    """Stopped, not dead: connections stay open and nothing comes back. Its neighbour answers for it."""
    async with rows_fleet(tmp_path, replicas_min=2, replicas_max=2) as town:
        town.fleet.offer([town.model()])
        await town.until(lambda: sum(one.state is State.READY for one in town.served.replicas) == 2)
        stop = asyncio.Event()
        load = asyncio.create_task(town.load(stop))
        await town.until(lambda: town.calls > 100)
        patience = town.served.whole_answer
        await town.until(lambda: patience.within_s < patience.most_s)  # what is usual is known now
        victim = town.pids()[0]
        os.kill(victim, signal.SIGSTOP)
        ejected_s = await town.until(lambda: any(seat.health.ejected for seat in town.served.line.seats))
        await town.until(lambda: victim not in town.pids())
        back_s = await town.until(lambda: sum(seat.ready for seat in town.served.line.seats) == 2)
        stop.set()
        await load
        assert town.failures == []
        assert town.retries <= 0.1 * town.calls + 10
        print(f"ejected after {ejected_s:.2f} s, back {back_s:.2f} s after it was ended")


async def test_one_that_is_ready_too_late_to_be_wanted_gets_no_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for, let go while it was loading, ready all the same: it ends without having been given a seat."""
    async with rows_fleet(tmp_path, replicas_max=2) as town:
        town.fleet.offer([town.model()])
        await town.until(lambda: town.fleet.ready)
        monkeypatch.setattr(replicas, "_QUIET_LOOKS", 10_000)  # it is ready before it is stopped
        more = asyncio.create_task(town.served.scale(2))
        await town.until(lambda: len(town.served.replicas) == 2)
        await town.served.scale(1)
        await more
        await town.until(lambda: ("mood/2", State.READY) in town.turns)
        assert len(town.served.line.seats) == 1
