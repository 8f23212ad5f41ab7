"""Adaptations run in a process of their own, which is gone when they are."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tollway.flows import adaptations
from tollway.flows.gateway import Gateway
from tollway.kit.clock import ManualClock
from tollway.kit.jobs import Job
from tollway.kit.settings import Settings
from tollway.shop import Shop


async def test_a_process_that_is_killed_is_waited_for(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next gateway could begin the same run beside one that is not dead yet."""
    begun: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()
    start = asyncio.create_subprocess_exec

    async def watched(*command: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await start(*command, **options)
        begun.put_nowait(process)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", watched)
    gateway = Gateway(Shop.open(Settings(tmp_path, environment={}), clock))
    await gateway.open()
    try:
        job = Job(id="adapt_1", kind=adaptations.KIND, org_id="", asked={"model": "m", "by": "ann"}, created_ms=0)
        task = asyncio.create_task(gateway.adaptations.run(job, asyncio.Event()))
        async with asyncio.timeout(60):
            process = await begun.get()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert process.returncode is not None
    finally:
        await gateway.close()
