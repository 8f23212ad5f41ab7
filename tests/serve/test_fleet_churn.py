"""Everything at once, at random: versions come and go, replicas are killed, more and fewer are wanted, and calls go on."""

import asyncio
import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.serve.mortal import Mortal
from tollway.artifacts.signing import Signer
from tollway.artifacts.store import Store
from tollway.kit.clock import SystemClock
from tollway.kit.errors import TollwayError
from tollway.kit.settings import Settings
from tollway.serve.adapters import Loaded
from tollway.serve.deployments import Deployment, Role
from tollway.serve.fleet import Fleet
from tollway.serve.line import Turn
from tollway.serve.models import Model, Serving
from tollway.serve.packages import Packages
from tollway.serve.requests import ClassifyRequest
from tollway.serve.run import Run

MODEL = Model("m", "classification", "M", "onnx", "1", None, 0)
STEPS = 14


class Unshelved(Packages):
    """Packages that need not be there."""

    def engines(self, model: Model, loaded: Loaded, threads: int) -> Any:
        return [Mortal(version=model.version)], {}, ""

    def require_sound(self, model: Model) -> None:
        pass

    def tuned(self, model: Model) -> str:
        return ""

    def weights_bytes(self, model: Model) -> int:
        return 1


class Story:
    """One fleet, its random changes, and the calls that must not notice."""

    def __init__(self, home: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        store = Store(home / "packages", Signer(b"s" * 32), SystemClock())
        settings = Settings(home, {"replicas_max": 3}, environment={})
        self.fleet = Fleet(Unshelved(store, settings), settings, SystemClock(), lambda *_: None)
        self.model, self.beside, self.newest = MODEL, dict[Role, Deployment](), 1
        self.versions, self.failures, self.calls = set[str](), list[str](), 0

    def change(self) -> str:
        """One random change; what it was."""
        what = self.dice.choice(("version", "canary", "promote", "shadow", "warm", "alone", "replicas", "kill", "kill"))
        if what == "version":
            self.model = msgspec.structs.replace(self.model, version=self._new())
        elif what in ("canary", "shadow", "warm"):
            self.beside[what] = Deployment("m", self._new(), what, self.dice.choice((10, 50)), 0)
        elif what == "promote" and "canary" in self.beside:
            self.beside["warm"] = Deployment("m", self.model.version, "warm", 0, 0)
            self.model = msgspec.structs.replace(self.model, version=self.beside.pop("canary").version)
        elif what == "alone":
            self.beside.clear()
        elif what == "replicas":
            least = self.dice.randint(1, 2)
            serving = Serving(replicas_min=least, replicas_max=self.dice.randint(least, 3))
            self.model = msgspec.structs.replace(self.model, serving=serving)
        elif what == "kill":
            pids = self.pids(twice=False)
            if pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.dice.choice(pids), signal.SIGKILL)
        self.fleet.offer([self.model], list(self.beside.values()))
        return what

    def _new(self) -> str:
        self.newest += 1
        return str(self.newest)

    def pids(self, *, twice: bool = True) -> list[int]:
        """Processes that run. `twice`: also of those that were lost twice, and would be taken for one that cannot start."""
        replicas = [replica for served in self.fleet._alive for replica in served.replicas]
        return [one.pid for one in replicas if one.pid and (twice or one.restarts < 2)]

    async def client(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            request = ClassifyRequest(model="m", input=["hello"])
            served = self.fleet.find("m")
            size = served.size_at_once(request)
            assert size is not None
            run = Run(served, request, size, "org", "call", 0, Turn("org", time.monotonic() + 400))
            self.calls += 1
            try:
                await run.answer()
                self.versions.add(run.tallies[0].version)
            except TollwayError as error:
                self.failures.append(str(error))
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_calls_go_on_and_nothing_is_left_behind(tmp_path: Path, seed: int) -> None:
    story = Story(tmp_path, seed)
    stop = asyncio.Event()
    story.fleet.offer([story.model])
    clients = [asyncio.create_task(story.client(stop)) for _ in range(3)]
    try:
        changes = []
        for _ in range(STEPS):
            changes.append(story.change())
            await asyncio.sleep(story.dice.uniform(0, 0.4))
        story.model = msgspec.structs.replace(
            story.model, version="last", serving=Serving(replicas_min=2, replicas_max=2)
        )
        story.fleet.offer([story.model])
        async with asyncio.timeout(400):
            while (
                len(story.fleet._alive) > 1 or len(story.pids()) != 2 or story.fleet.find("m").model.version != "last"
            ):
                await asyncio.sleep(0.05)
            while "last" not in story.versions or story.calls <= 50:
                await asyncio.sleep(0.05)
    finally:
        stop.set()
        await asyncio.gather(*clients)
        pids = story.pids()
        await story.fleet.close()
    assert story.failures == [], changes
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def test_hours_of_a_version_that_is_closed_on_its_way_out_are_not_lost(tmp_path: Path) -> None:
    fleet = Story(tmp_path, 1).fleet
    try:
        fleet.offer([MODEL])
        await asyncio.wait_for(fleet.wait_ready(), 300)
        await fleet.find("m").line.take("org", 1)  # a call that does not end
        fleet.offer([msgspec.structs.replace(MODEL, version="2")])
        await asyncio.wait_for(fleet.wait_ready(), 300)
        fleet.take_hours(0)
        await asyncio.sleep(0.05)
    finally:
        await fleet.close()
    worked = {hour.version: sum(msgspec.structs.astuple(hour.totals)) for hour in fleet.take_hours(0)}
    assert set(worked) == {"1", "2"} and min(worked.values()) > 0
