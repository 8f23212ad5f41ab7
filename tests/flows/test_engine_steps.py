"""How full the engines' steps are, of a real engine that batches rows and as looks follow one another."""

import asyncio
from pathlib import Path

import pytest

from tests.serve.rows_fleet import rows_fleet
from tollway.flows.engine_steps import Counted, Fill, Steps
from tollway.kit.clock import ManualClock
from tollway.serve.fleet import Fleet


async def test_a_real_engine_says_how_full_its_batches_are_by_the_number_people_see(tmp_path: Path) -> None:
    async with rows_fleet(tmp_path) as town:
        town.fleet.offer([town.model()])
        await town.until(lambda: town.fleet.ready)
        steps = Steps(town.fleet, ManualClock())
        (view,) = town.fleet.snapshot()
        place = ("mood", view.version, view.number)
        fill = None
        async with asyncio.timeout(60):
            while fill is None:  # one that measures itself again counts from nothing, and a busy one may answer late
                await town.call()
                fill = (await steps.look()).get(place)
    assert view.number == 1, "counted as people count"
    assert fill.unit == "rows" and 1 <= fill.inside <= fill.capacity
    assert 0 < fill.share <= 1 and 0 < fill.useful_share <= 1


async def test_the_newest_looks_count_and_an_engine_that_began_again_starts_afresh(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told, clock, place = Counted(), ManualClock(), ("m", "1", 1)

    async def as_told(_fleet: Fleet) -> dict[tuple[str, str, int], Counted]:
        return {place: told}

    monkeypatch.setattr("tollway.flows.engine_steps.counted", as_told)
    async with rows_fleet(tmp_path) as town:
        steps = Steps(town.fleet, clock)

        async def look(rows: int, batches: int) -> Fill | None:
            nonlocal told
            told = Counted(rows, batches, rows * 9, rows * 10, budget=320, rows_most=64)
            clock.advance(seconds=4)
            return (await steps.look()).get(place)

        assert await look(0, 0) is None, "nothing was done"
        assert await look(100, 100) == Fill("rows", 1.0, 32.0, 0.9), "all that is known"
        assert await look(260, 110) == Fill("rows", 16.0, 32.0, 0.9), "since the look before"
        assert await look(260, 110) == Fill("rows", 16.0, 32.0, 0.9), "nothing new: as it was"
        assert await look(580, 120) == Fill("rows", 24.0, 32.0, 0.9)
        found = await look(740, 125)
        assert found is not None and found.inside == 32.0 and found.share == 1.0, "what is long ago does not count"
        assert await look(4, 2) == Fill("rows", 2.0, 32.0, 0.9)
