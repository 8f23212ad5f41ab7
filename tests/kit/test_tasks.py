"""What goes on beside its caller is held while it runs, forgotten when it is over, and ends when told to."""

import asyncio
import gc

import pytest

from tollway.kit.tasks import Tasks


async def test_what_is_begun_is_held_to_its_end_and_then_forgotten() -> None:
    tasks, seen = Tasks(), list[str]()

    async def work() -> None:
        await asyncio.sleep(0)
        seen.append("done")

    tasks.begin(work())
    gc.collect()
    assert len(list(tasks)) == 1
    await asyncio.gather(*tasks)
    await asyncio.sleep(0)
    assert seen == ["done"] and not list(tasks)


async def test_what_is_told_to_end_ends() -> None:
    tasks = Tasks()
    tasks.begin(asyncio.sleep(60))
    tasks.begin(asyncio.sleep(60))
    (first, second) = tasks
    tasks.cancel()
    for task in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await task
