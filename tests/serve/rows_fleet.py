"""A fleet on real replicas of tiny packages, without a shop around it: what it does can be watched call by call."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import onnx

from tests.serve import tiny_models
from tollway.artifacts.signing import Signer
from tollway.artifacts.store import About, Store
from tollway.kit.clock import SystemClock
from tollway.kit.errors import TollwayError
from tollway.kit.settings import Settings
from tollway.serve.fleet import Fleet
from tollway.serve.line import Turn
from tollway.serve.models import Model, Serving
from tollway.serve.packages import Packages
from tollway.serve.replica import Replica, State
from tollway.serve.requests import ClassifyRequest
from tollway.serve.run import Run
from tollway.serve.served import Served


class RowsFleet:
    """A fleet and a shelf with the classifier `mood`; `turns` is what the replicas said."""

    def __init__(self, home: Path, runtime: Any = None, **settings: Any) -> None:
        self.store = Store(home / "packages", Signer(b"s" * 32), SystemClock())
        tiny_models.shelve(self.store, "mood", home / "made")
        flags = {"replica_threads": 1, **settings}
        self.settings = Settings(home, flags, environment={})
        self.turns: list[tuple[str, State]] = []
        packages = Packages(self.store, self.settings)
        self.fleet = Fleet(
            packages, self.settings, SystemClock(), self._turned, runtime(self.store) if runtime else None
        )
        self._versions = 1
        self.calls = 0
        self.retries = 0
        self.failures: list[TollwayError] = []

    def _turned(self, _served: Served, replica: Replica, state: State) -> None:
        self.turns.append((replica.name, state))

    @property
    def served(self) -> Served:
        return self.fleet.find("mood")

    def model(self, version: str = "", name: str = "mood", **serving: Any) -> Model:
        """The classifier on offer under a name, which gets a package of its own when it has none."""
        if name != "mood" and not (self.settings.home / name).exists():
            tiny_models.shelve(self.store, name, self.settings.home / name, tiny_models.text_classifier)
        package = self.store.get(name, version or None)
        made = Model(name, "classification", "Mood", "onnx", package.manifest.version, None, 0)
        return msgspec.structs.replace(made, serving=Serving(**serving))

    def next_version(self) -> Model:
        """The same classifier under another name inside: another version on the shelf."""
        self._versions += 1

        def maker(folder: Path) -> About:
            about = tiny_models.text_classifier(folder)
            graph = onnx.load(str(folder / "model.onnx"))
            graph.graph.name = f"m{self._versions}"
            onnx.save(graph, str(folder / "model.onnx"))
            return about

        package = tiny_models.shelve(self.store, "mood", self.settings.home / f"made-{self._versions}", maker)
        return self.model(package.manifest.version)

    async def call(self, name: str = "mood", org_id: str = "org", within_s: float = 300) -> dict[str, Any]:
        """One call from its beginning to its end, as the gateway makes it."""
        request = ClassifyRequest(model=name, input=["a lovely film"])
        served = self.fleet.find(name)
        size = served.size_at_once(request) or await served.size(request)
        run = Run(served, request, size, org_id, "call", 0, Turn(org_id, time.monotonic() + within_s))
        self.calls += 1
        try:
            return dict(msgspec.json.decode(await run.answer()))
        finally:
            self.retries += run.retries

    async def load(self, stop: asyncio.Event, clients: int = 4, pause_s: float = 0.005) -> None:
        """Clients that call one after the other until `stop`; what fails is noted."""

        async def client(number: int) -> None:
            while not stop.is_set():
                try:
                    await self.call(org_id=f"org-{number}")
                except TollwayError as error:
                    self.failures.append(error)
                await asyncio.sleep(pause_s)

        await asyncio.gather(*(client(number) for number in range(clients)))

    async def until(self, found: Any, within_s: float = 300) -> float:
        """Seconds until `found()` is true."""
        began = time.monotonic()
        async with asyncio.timeout(within_s):
            while not found():
                await asyncio.sleep(0.01)
        return time.monotonic() - began

    def pids(self) -> list[int]:
        return [replica.pid for replica in self.served.replicas if replica.pid is not None]


@contextlib.asynccontextmanager
async def rows_fleet(home: Path, runtime: Any = None, **settings: Any) -> AsyncIterator[RowsFleet]:
    """Started with the classifier on offer; everything is gone at the end."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    made = RowsFleet(home, runtime, **settings)
    try:
        yield made
    finally:
        await made.fleet.close()
