"""The fleet's housekeeping: models come when called and go when idle or in the way, and get the replicas they need."""

import asyncio
from pathlib import Path

import pytest

from tests.serve.rows_fleet import RowsFleet, rows_fleet
from tollway.kit.errors import Unavailable
from tollway.serve import memory
from tollway.serve.memory import Resident, give_way
from tollway.serve.replica import State


def states(town: RowsFleet) -> dict[str, str]:
    return {view.model: view.state for view in town.fleet.snapshot()}


async def test_a_model_is_loaded_by_its_first_call_and_unloaded_when_nobody_calls(tmp_path: Path) -> None:
    async with rows_fleet(tmp_path, replicas_min=0, replica_idle_s=1.5) as town:
        town.fleet.offer([town.model()])
        await town.until(lambda: town.fleet.ready)
        assert (states(town), town.pids()) == ({"mood": "resting"}, [])
        answers = await asyncio.gather(*(town.call() for _ in range(5)))
        assert [answer["data"][0]["label"] for answer in answers] == ["good"] * 5
        assert len(town.pids()) == 1
        await town.until(lambda: states(town) == {"mood": "resting"})
        await town.until(lambda: town.pids() == [])
        assert town.fleet.ready, "a shop whose models rest is open"
        with pytest.raises(Unavailable) as refused:
            await town.call(within_s=0.05)
        assert not town.served.ready, "what cannot be in time is refused at once, not when the model is there"
        assert refused.value.code == "model_loading"
        assert 0.05 < (refused.value.retry_after_s or 0) < 100
        await town.until(lambda: town.served.ready)  # the refused call has it loaded for the next
        assert (await town.call())["data"][0]["label"] == "good"


async def test_the_model_called_longest_ago_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "STAY_S", 0.2)
    async with rows_fleet(tmp_path) as town:
        town.fleet.offer([town.model()])
        await town.until(lambda: town.served.ready)
        each = town.served.replicas[0].rss_bytes
    async with rows_fleet(tmp_path / "small", memory_bytes_max=int(each * 2.5)) as town:
        models = [town.model(name=name) for name in ("anger", "bliss")]
        town.fleet.offer(models)
        await town.until(lambda: all(state == "ready" for state in states(town).values()))
        town.fleet.offer([*models, town.model(name="care")])
        await town.until(lambda: town.fleet.ready)
        assert states(town) == {"anger": "ready", "bliss": "ready", "care": "resting"}, (
            "nobody is thrown out for nobody"
        )
        await asyncio.sleep(1.1)
        await town.call("anger")
        await asyncio.sleep(1.3)
        await town.call("care")
        assert states(town)["bliss"] in ("resting", "leaving")
        assert states(town)["anger"] == "ready"
        await asyncio.gather(*(town.call(name) for name in ("anger", "bliss", "care")))
        assert town.calls == 5


def test_who_works_is_pinned_or_has_just_come_stays() -> None:
    old, new = Resident("old", 40, used_at=0), Resident("new", 40, used_at=60)
    assert give_way([old, new], 20, 100, now=100) == []
    assert give_way([new, old], 30, 100, now=100) == ["old"]
    assert give_way([new, old], 100, 100, now=100) == ["old", "new"]
    assert give_way([new, old], 100, 100, now=80) is None, "the new one was called a moment ago"
    assert give_way([Resident("old", 40, 0, pinned=True), new], 30, 100, now=100) == ["new"]
    assert give_way([Resident("old", 40, 0, busy=True), Resident("new", 40, 60, busy=True)], 30, 100, now=100) is None
    assert give_way([old, new], 1000, 0, now=100) == [], "without a limit there is room"


async def test_calls_that_would_wait_bring_another_replica(tmp_path: Path) -> None:
    async with rows_fleet(tmp_path) as town:
        town.fleet.offer([town.model(replicas_min=1, replicas_max=2, wait_s=0.0)])
        await town.until(lambda: town.served.ready)
        stop = asyncio.Event()
        load = asyncio.create_task(town.load(stop, clients=12, pause_s=0))
        await town.until(lambda: sum(one.state is State.READY for one in town.served.replicas) == 2)
        stop.set()
        await load
        assert town.failures == []
        views = town.fleet.snapshot()
        assert [(view.role, view.state, view.node) for view in views] == [("stable", "ready", "local")] * 2
        assert views[0].rss_bytes > 10 << 20
        assert views[0].calls_per_s > 0
        assert views[0].tokens_per_s > views[0].calls_per_s


async def test_a_replica_that_grew_is_renewed_without_a_call_noticing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tollway.serve import keeper

    monkeypatch.setattr(keeper, "_GROWTH_EVERY", 1)
    monkeypatch.setattr(keeper, "_GROWTH_LEAST_BYTES", -(1 << 30))
    async with rows_fleet(tmp_path, replica_growth_max=0.5) as town:  # so that any replica has grown
        town.fleet.offer([town.model()])
        await town.until(lambda: town.served.ready)
        first = town.pids()
        stop = asyncio.Event()
        load = asyncio.create_task(town.load(stop))
        await town.until(lambda: not set(town.pids()) & set(first))
        monkeypatch.setattr(keeper, "_GROWTH_LEAST_BYTES", 1 << 40)  # else the next one has grown too, and is being renewed
        stop.set()
        await load
        assert town.failures == []
        await town.until(lambda: len(town.pids()) == 1)
