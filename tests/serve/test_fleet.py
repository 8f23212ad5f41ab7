"""The fleet: what is offered runs, what is not offered any more ends, also while it is still loading."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from tests.artifacts.test_store import tiny
from tests.serve import tiny_models
from tollway.artifacts import tuning
from tollway.artifacts.signing import Signer
from tollway.artifacts.store import Store
from tollway.kit.clock import ManualClock
from tollway.kit.errors import NotFound, Unavailable
from tollway.kit.settings import Settings
from tollway.serve.deployments import Deployment
from tollway.serve.fleet import Fleet
from tollway.serve.models import Model, Upstream
from tollway.serve.packages import Packages
from tollway.serve.replica import Replica, State
from tollway.serve.served import Served


class Town:
    """A fleet of upstreams on this machine: `good` answers everything, `mute` nothing."""

    def __init__(self, home: Path) -> None:
        self.states: dict[str, State] = {}  # by the upstream's own model name
        self.clock = ManualClock()
        self.store = Store(home / "packages", Signer(b"s" * 32), self.clock)
        settings = Settings(home, environment={})
        self.fleet = Fleet(Packages(self.store, settings), settings, self.clock, self._turned)
        self.ports: dict[str, int] = {}

    def _turned(self, served: Served, _replica: Replica, state: State) -> None:
        if served.model.upstream is not None:
            self.states[served.model.upstream.model] = state

    def model(self, variant: str, server: str) -> Model:
        url = f"http://127.0.0.1:{self.ports[server]}"
        return Model("m", "chat", "M", "upstream", "upstream", Upstream(url, variant), 0)

    async def until(self, **states: State) -> None:
        async with asyncio.timeout(60):
            while any(self.states.get(name) is not state for name, state in states.items()):
                await asyncio.sleep(0.01)


async def _good(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while head := await reader.readuntil(b"\r\n\r\n"):
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length or b"0"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


async def _mute(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


def _until_hung_up(answer: Callable[..., object]) -> Callable[..., object]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)  # type: ignore[misc]
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return handle


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    made = Town(tmp_path)
    servers = []
    for name, answer in (("good", _good), ("mute", _mute)):
        server = await asyncio.start_server(_until_hung_up(answer), "127.0.0.1", 0)  # type: ignore[arg-type]
        made.ports[name] = server.sockets[0].getsockname()[1]
        servers.append(server)
    yield made
    await made.fleet.close()
    for server in servers:
        server.close()


async def test_what_was_still_loading_when_a_newer_version_came_is_stopped(town: Town) -> None:
    town.fleet.offer([town.model("first", "good")])
    await town.until(first=State.READY)
    town.fleet.offer([town.model("second", "mute")])
    await town.until(second=State.STARTING)
    assert town.fleet.find("m").model.upstream == town.model("first", "good").upstream
    town.fleet.offer([town.model("third", "good")])
    await town.until(first=State.DEAD, second=State.DEAD, third=State.READY)
    assert town.fleet.find("m").model.upstream == town.model("third", "good").upstream


async def test_what_is_withdrawn_while_its_next_version_loads_is_gone_with_it(town: Town) -> None:
    town.fleet.offer([town.model("first", "good")])
    await town.until(first=State.READY)
    town.fleet.offer([town.model("second", "mute")])
    await town.until(second=State.STARTING)
    town.fleet.offer([])
    await town.until(first=State.DEAD, second=State.DEAD)
    with pytest.raises(NotFound):
        town.fleet.find("m")
    await asyncio.wait_for(town.fleet.wait_ready(), 60)


async def test_closing_ends_what_is_on_its_way_out_too(town: Town) -> None:
    town.fleet.offer([town.model("first", "good")])
    await town.until(first=State.READY)
    served = town.fleet.find("m")
    seat = await served.line.take("org", 1)  # a call that keeps the retired replica up
    town.fleet.offer([])
    await asyncio.sleep(0.1)
    assert town.states["first"] is State.READY and seat.running == 1
    await town.fleet.close()
    assert town.states["first"] is State.DEAD


async def test_each_version_in_service_counts_from_when_it_came_and_has_a_queue_of_its_own(town: Town) -> None:
    first = town.model("first", "good")
    town.fleet.offer([first])
    town.clock.advance(hours=1)
    town.fleet.offer([first], [Deployment("m", "next", "canary", 10, 0)])
    since = {version: stats.since_ms for version, stats in town.fleet.stats("m").items()}
    assert since == {"upstream": town.clock.now_ms() - 3_600_000, "next": town.clock.now_ms()}
    assert town.fleet.queues() == {("m", "upstream"): 0, ("m", "next"): 0}
    canary = next(one for one in town.fleet.versions() if one.model.version == "next")
    waits = asyncio.create_task(canary.line.take("org", 1))  # it is not ready yet
    await asyncio.sleep(0)
    assert town.fleet.queues() == {("m", "upstream"): 0, ("m", "next"): 1}
    waits.cancel()


async def test_a_package_that_does_not_verify_is_not_served_and_what_runs_goes_on(town: Town, tmp_path: Path) -> None:
    package = town.store.import_gguf(tiny(tmp_path / "tiny.gguf"), "m")
    weights = package.weights_path
    weights.chmod(0o600)
    with weights.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    town.fleet.offer([town.model("first", "good")])
    await town.until(first=State.READY)
    changed = Model("m", "chat", "M", "llama_cpp", package.manifest.version, None, 0)
    town.fleet.offer([changed])
    async with asyncio.timeout(60):
        while "m" not in town.fleet.broken:
            await asyncio.sleep(0.01)
    assert town.fleet.find("m").model.engine == "upstream"
    town.fleet.offer([])
    town.fleet.offer([changed])
    async with asyncio.timeout(60):
        while "m" not in town.fleet.broken or town.fleet.all():
            await asyncio.sleep(0.01)
    with pytest.raises(Unavailable):
        town.fleet.find("m")


async def test_an_upstream_that_is_down_does_not_close_the_shop(town: Town) -> None:
    """Two upstreams, one mute: the shop is ready; with the mute one alone nothing could be answered, and it is not."""
    good = town.model("first", "good")
    mute = Model("other", "chat", "O", "upstream", "upstream", town.model("second", "mute").upstream, 0)
    town.fleet.offer([mute])
    await asyncio.sleep(0.2)
    assert not town.fleet.ready
    town.fleet.offer([mute, good])
    await town.until(first=State.READY)
    assert town.fleet.ready
    assert [served.name for served in town.fleet.all() if not served.ready] == ["other"]
    await asyncio.wait_for(town.fleet.wait_ready(), 60)


async def test_nothing_is_made_beside_a_stable_version_that_is_not_there(town: Town, tmp_path: Path) -> None:
    package = town.store.import_gguf(tiny(tmp_path / "tiny.gguf"), "m")
    gone = Model("m", "chat", "M", "llama_cpp", "gone", None, 0)
    canary = Deployment("m", package.manifest.version, "canary", share=10, began_ms=0)
    for _ in range(3):
        town.fleet.offer([gone], [canary])
        await asyncio.sleep(0)
    assert not town.fleet._alive and not town.fleet.versions()
    with pytest.raises(Unavailable):
        town.fleet.find("m")


async def test_a_version_is_loaded_on_the_engine_that_was_chosen_for_it_and_keeps_it_in_another_role(
    town: Town, tmp_path: Path
) -> None:
    for number in ("1", "2"):
        about = tiny_models.text_classifier(tmp_path / number)
        tiny_models.in_torch(tmp_path / number)
        (tmp_path / number / "note.txt").write_text(number)
        town.store.add_package("mood", tmp_path / number, about)
    mood = Model("mood", "classification", "Mood", "onnx", "1", None, 0)
    town.fleet.offer([mood], [Deployment("mood", "2", "canary", 10, 0, chosen_engine="torch")])
    async with asyncio.timeout(120):
        await town.fleet.wait_ready()
        stable, canary = town.fleet.versions()
        while not canary.ready:
            await asyncio.sleep(0.01)
    assert [one.replica.engine.name for one in (stable, canary)] == ["onnx", "torch"]
    package = town.store.get("mood", "2")
    tuning.keep(town.store, package, tuning.Choice(engine="onnx", format="onnx", threads=1))
    promoted = msgspec.structs.replace(mood, version="2", chosen_engine="torch")
    town.fleet.offer([promoted])
    assert town.fleet.find("mood") is canary, "nothing is loaded anew, whatever was measured of it"
    town.fleet.offer([msgspec.structs.replace(promoted, chosen_engine="")])
    async with asyncio.timeout(120):
        await town.fleet.wait_ready()
    assert town.fleet.find("mood") is not canary and town.fleet.find("mood").replica.engine.name == "onnx"
