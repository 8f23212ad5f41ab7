"""Replicas: ready means a real answer; whatever kills or freezes one, it comes back by itself; stopped means gone."""

import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.serve.unplugged import Unplugged
from tollway.forge.convert import starter
from tollway.kit.clock import SystemClock
from tollway.kit.errors import Unavailable
from tollway.kit.said import say
from tollway.serve.engines import Address, Caps, Engine, Launch, LlamaCpp, Probe, UpstreamServer
from tollway.serve.replica import Pace, Replica, State
from tollway.serve.runtimes import Confinement, Local, Place, Waits
from tollway.serve.wire import Pool, WireError

IMPATIENT = Pace(
    ready_within_s=120,
    pulse_every_s=0.1,
    upstream_pulse_every_s=0.1,
    pulse_within_s=5.0,
    backoff_first_s=0.05,
    stop_within_s=1,
)


def smollm2() -> LlamaCpp:
    weights = starter.locate_smollm2()
    assert weights is not None, "the starter model is not installed: make setup"
    return LlamaCpp(weights, "smol", model_context_tokens=8192, slots=2, context_tokens=2048)


class Scripted:
    """An engine whose process is a few lines of Python: for failures that a real engine does not produce on demand."""

    name = "scripted"
    model = "m"
    version = "1"
    caps = Caps(chat=True)
    probe = Probe(path="/completions", body={"prompt": "."})
    pulse = "/pulse"

    def __init__(self, script: str) -> None:
        self._script = textwrap.dedent(script)

    def launch(self, socket: Path) -> Launch:
        return Launch(argv=(sys.executable, "-c", self._script, str(socket)), first_line=b"orders\n")

    def address(self, socket: Path) -> Address:
        return Address(url=f"unix:{socket}")


async def until(replica: Replica, state: State, within_s: float = 60) -> float:
    """Seconds until the replica is in `state`."""
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while replica.state is not state:
            await asyncio.sleep(0.005)
    return time.monotonic() - began


@contextlib.asynccontextmanager
async def running(replica: Replica) -> AsyncIterator[Replica]:
    try:
        await replica.start()
        yield replica
    finally:
        await replica.stop()


async def ask(replica: Replica, tokens: int = 1) -> int:
    pool = Pool(replica.address.url)
    body = json.dumps({"prompt": "Once", "max_tokens": tokens, "ignore_eos": True, "stream": tokens > 1}).encode()
    try:
        return (await pool.post(replica.address.prefix + "/completions", body)).status
    finally:
        pool.close()


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# -- with the real model -----------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_killed_it_is_back_at_the_same_address() -> None:
    async def story() -> None:
        seen: list[State] = []
        replica = Replica(smollm2(), SystemClock(), on_state=lambda _, state: seen.append(state))
        async with running(replica):
            assert (replica.state, await ask(replica)) == (State.READY, 200)
            assert replica.load_seconds > 0
            assert replica.rss_bytes > 100 << 20
            pid, address, rate = replica.pid, replica.address, replica.rate
            assert pid is not None
            assert rate > 0, "it showed how fast it is"
            inside = asyncio.create_task(ask(replica, tokens=1000))
            await asyncio.sleep(0.5)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(WireError):
                await inside  # what was inside is lost, and says so
            await until(replica, State.STARTING)
            await until(replica, State.READY)
            assert (replica.address, await ask(replica)) == (address, 200)
            assert replica.pid not in (None, pid)
            assert replica.restarts == 1
            assert replica.rate == rate, "that is known: it is back without being measured again"
            assert "code -9" in replica.last_failure
        assert seen == [State.STARTING, State.READY, State.STARTING, State.READY, State.DEAD]

    asyncio.run(story())


@pytest.mark.engine
def test_frozen_it_is_found_by_its_pulse_and_replaced() -> None:
    async def story() -> None:
        async with running(Replica(smollm2(), SystemClock(), pace=IMPATIENT)) as replica:
            pid = replica.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            await until(replica, State.STARTING)
            assert "no sign of life" in replica.last_failure
            await until(replica, State.READY)
            assert not alive(pid)
            assert await ask(replica) == 200

    asyncio.run(story())


@pytest.mark.engine
def test_stopped_in_the_moment_of_a_failure_it_stays_stopped() -> None:
    async def story() -> None:
        async with running(Replica(smollm2(), SystemClock(), pace=IMPATIENT)) as replica:
            pid = replica.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            async with asyncio.timeout(60):
                while replica.pid is not None:
                    await asyncio.sleep(0.001)
            await asyncio.wait_for(replica.stop(), 60)
            assert not alive(pid)
            await asyncio.sleep(0.3)
            assert (replica.state, replica.pid) == (State.DEAD, None)

    asyncio.run(story())


@pytest.mark.engine
def test_stopped_nothing_of_it_is_left() -> None:
    async def story() -> None:
        replica = Replica(smollm2(), SystemClock())
        async with running(replica):
            pid = replica.pid
            folder = Path(replica.address.url.removeprefix("unix:")).parent
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            call = asyncio.create_task(ask(replica, tokens=1500))
            await asyncio.sleep(0.3)
            await replica.stop()
            with pytest.raises(WireError):
                await call  # a running call does not hold it up
        assert pid is not None
        assert not alive(pid)
        assert not folder.exists()
        assert (replica.state, replica.pid, replica.rss_bytes) == (State.DEAD, None, 0)

    asyncio.run(story())


@pytest.mark.engine
def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\0" * 100)

    async def story() -> None:
        replica = Replica(LlamaCpp(tmp_path / "broken.gguf", "broken"), SystemClock(), pace=IMPATIENT)
        with pytest.raises(Unavailable, match="did not start"):
            await replica.start()
        await replica.stop()
        assert "Failed to init" in replica.last_failure

    asyncio.run(story())


@pytest.mark.engine
def test_it_works_on_the_gateways_own_event_loop() -> None:
    import uvloop

    async def story() -> None:
        async with running(Replica(smollm2(), SystemClock())) as replica:
            assert replica.pid is not None
            os.kill(replica.pid, signal.SIGKILL)
            await until(replica, State.STARTING)
            await until(replica, State.READY)
            assert await ask(replica) == 200

    uvloop.run(story())


# -- with processes that misbehave -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("raise SystemExit(7)", "did not report"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGFPE)", "was ended by SIGFPE while it loaded"),
        ("import os, sys; print('what(): no such layer', file=sys.stderr, flush=True); os.abort()", "no such layer"),
        ("import sys; sys.exit('no such library')", "no such library"),
        ("print('{}')", "did not report"),
        ("print('[1]')", "did not report"),
        ("print('not json')", "did not report"),
        ('print(\'{"event": "failed", "why": "bad weights"}\')', "bad weights"),
        ("""import sys; print('{"event": "ready"}', flush=True); sys.stdin.read()""", "first inference failed"),
        ("import time; time.sleep(60)", "not ready within"),
        ("import sys; sys.stdout.write('x' * 1_000_000); sys.stdout.flush(); sys.stdin.read()", "did not report"),
    ],
)
def test_every_way_not_to_become_ready_has_its_reason(script: str, why: str) -> None:
    async def story() -> None:
        pace = Pace(ready_within_s=1.5 if "sleep" in script else 60, backoff_first_s=30)
        replica = Replica(Scripted(script), SystemClock(), pace=pace)
        with pytest.raises(Unavailable):
            await replica.start()
        assert why in replica.last_failure
        assert replica.pid is None
        await replica.stop()

    asyncio.run(story())


class Crowded(Local):
    """This machine, with room for nobody until somebody makes some."""

    def __init__(self) -> None:
        self.room = asyncio.Event()

    async def start(self, engine: Engine, folder: Path, confinement: Confinement, waits: Waits) -> Place | None:
        waits(say("replica.no_room", "no room"))
        await self.room.wait()
        waits("")
        return await super().start(engine, folder, confinement, waits)


@pytest.mark.parametrize(
    ("script", "why"), [("import sys; sys.exit('no such library')", "no such library"), ("import time; time.sleep(60)", "not ready")]
)
def test_to_wait_for_room_is_no_failure_and_the_time_to_get_ready_begins_after_it(script: str, why: str) -> None:
    async def story() -> None:
        told: list[tuple[State, str]] = []
        runtime = Crowded()
        replica = Replica(
            Scripted(script), SystemClock(), runtime=runtime, pace=Pace(ready_within_s=0.2, backoff_first_s=30),
            on_state=lambda one, state: told.append((state, one.waits)),
        )  # fmt: skip
        with pytest.raises(Unavailable, match="did not start: no room"):
            await replica.start()  # whoever starts it has others to start
        await asyncio.sleep(0.5)
        assert (replica.state, replica.waits, replica.node, replica.restarts) == (State.STARTING, "no room", "", 0)
        assert told[-1] == (State.STARTING, "no room")
        replica._pace = Pace(ready_within_s=1 if why == "not ready" else 60, backoff_first_s=30)
        replica._turn.clear()
        runtime.room.set()
        await replica._turn.wait()
        assert why in replica.last_failure
        assert (replica.waits, replica.node) == ("", "local")
        await replica.stop()

    asyncio.run(story())


def test_one_that_waits_for_room_can_be_stopped() -> None:
    async def story() -> None:
        replica = Replica(Scripted(""), SystemClock(), runtime=Crowded())
        with pytest.raises(Unavailable, match="no room"):
            await replica.start()
        await replica.stop()
        assert (replica.state, replica.waits) == (State.DEAD, "")

    asyncio.run(story())


def test_waiting_doubles_up_to_a_bound() -> None:
    async def story() -> list[float]:
        births: list[float] = []

        class Counted(Scripted):
            def launch(self, socket: Path) -> Launch:
                births.append(time.monotonic())
                return Launch(argv=("/bin/false",), first_line=b"")

        pace = Pace(backoff_first_s=0.1, backoff_most_s=0.4)
        replica = Replica(Counted(""), SystemClock(), pace=pace)
        with pytest.raises(Unavailable):
            await replica.start()
        while len(births) < 8:
            await asyncio.sleep(0.01)
        await replica.stop()
        count = len(births)
        await asyncio.sleep(0.6)
        assert len(births) == count, "a stopped replica is not started again"
        return [later - sooner for sooner, later in pairwise(births)]

    gaps = asyncio.run(story())
    for gap, expected in zip(gaps, (0.1, 0.2, 0.4, 0.4, 0.4, 0.4, 0.4), strict=True):
        assert expected <= gap
    assert min(gaps[5:]) < 3.2, "without the bound these would be 3.2 and 6.4; one of them may be held up by a busy machine"


def test_a_command_that_does_not_exist_is_a_failure_not_a_crash() -> None:
    class Absent(Scripted):
        def launch(self, socket: Path) -> Launch:
            return Launch(argv=("/no/such/program",), first_line=b"")

    async def story() -> None:
        replica = Replica(Absent(""), SystemClock(), pace=Pace(backoff_first_s=30))
        with pytest.raises(Unavailable, match="No such file"):
            await replica.start()
        await replica.stop()

    asyncio.run(story())


def test_a_process_that_ignores_the_order_to_stop_is_killed() -> None:
    script = """
        import json, signal, socketserver, sys
        from tests.serve.scripted_answers import Answer
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        server = socketserver.ThreadingUnixStreamServer(sys.argv[1], Answer)
        print(json.dumps({"event": "ready"}), flush=True)
        server.serve_forever()
    """

    async def story() -> None:
        replica = Replica(Scripted(script), SystemClock(), pace=IMPATIENT)
        async with running(replica):
            pid = replica.pid
        assert pid is not None
        assert not alive(pid)

    asyncio.run(story())


@pytest.mark.parametrize(("dropped", "kept"), [("{1, 4}", True), ("{3, 4}", False)])
def test_a_pulse_whose_connection_breaks_is_felt_a_second_time(tmp_path: Path, dropped: str, kept: bool) -> None:
    script = f"""
        import http.server, itertools, json, pathlib, socketserver, sys
        felt, count = itertools.count(1), pathlib.Path({str(tmp_path / "felt")!r})
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer()
            def do_GET(self):
                beat = next(felt)
                count.write_text(str(beat))
                if beat not in {dropped}:  # else the connection is closed without a word
                    self.answer()
            def answer(self):
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{{}}")
            def address_string(self): return ""
            def log_message(self, *args): pass
        server = socketserver.ThreadingUnixStreamServer(sys.argv[1], Answer)
        print(json.dumps({{"event": "ready"}}), flush=True)
        server.serve_forever()
    """

    async def story() -> None:
        pace = Pace(pulse_every_s=0.01, backoff_first_s=60)
        async with running(Replica(Scripted(script), SystemClock(), pace=pace)) as replica:
            async with asyncio.timeout(60):
                while kept and int(read_count(tmp_path) or 0) < 8:
                    await asyncio.sleep(0.01)
                while not kept and replica.state is State.READY:
                    await asyncio.sleep(0.01)
            assert (replica.state is State.READY) == kept
            assert ("it cannot be reached" in replica.last_failure) != kept

    asyncio.run(story())


def test_who_waits_for_a_pulse_hears_that_its_node_is_gone(tmp_path: Path) -> None:
    """The engine is given a minute for a beat; its node is known to be gone long before."""
    script = f"""
        import json, pathlib, socketserver, sys, time
        from tests.serve.scripted_answers import Answer
        class Silent(Answer):
            def do_GET(self):
                pathlib.Path({str(tmp_path / "felt")!r}).write_text("1")
                time.sleep(600)
        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
        server = Server(sys.argv[1], Silent)
        print(json.dumps({{"event": "ready"}}), flush=True)
        server.serve_forever()
    """

    async def story() -> None:
        nodes, pace = Unplugged(), Pace(pulse_every_s=0.01, pulse_within_s=600, backoff_first_s=60)
        async with running(Replica(Scripted(script), SystemClock(), pace=pace, runtime=nodes)) as replica:
            async with asyncio.timeout(60):
                while not read_count(tmp_path):
                    await asyncio.sleep(0.01)
            nodes.places[0].unplug()
            nodes.places[0].missed.set()
            await until(replica, State.STARTING)
            assert replica.last_failure == "its node is gone"
        await nodes.close()

    asyncio.run(story())


def read_count(folder: Path) -> str:
    written = folder / "felt"
    return written.read_text() if written.exists() else ""


def test_a_listener_that_fails_does_not_end_the_supervision() -> None:
    def listener(replica: Replica, state: State) -> None:
        raise RuntimeError("listener")

    async def story() -> None:
        replica = Replica(Scripted("raise SystemExit"), SystemClock(), pace=IMPATIENT, on_state=listener)
        with pytest.raises(Unavailable):
            await replica.start()
        async with asyncio.timeout(60):
            while replica.restarts < 2:
                await asyncio.sleep(0.01)
        await replica.stop()

    asyncio.run(story())


def test_stop_before_and_after_everything_is_harmless() -> None:
    async def story() -> None:
        replica = Replica(Scripted("raise SystemExit"), SystemClock(), pace=IMPATIENT)
        await replica.stop()
        with pytest.raises(RuntimeError, match="before it is started"):
            _ = replica.address
        with pytest.raises(Unavailable):
            await replica.start()
        await replica.stop()
        await replica.stop()

    asyncio.run(story())


def test_start_and_stop_at_the_same_time_end_stopped() -> None:
    async def story() -> None:
        replica = Replica(Scripted("import time; time.sleep(60)"), SystemClock())
        starting = asyncio.create_task(replica.start())
        await asyncio.sleep(0.3)
        await replica.stop()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(starting, 50)
        assert (replica.state, replica.pid) == (State.DEAD, None)

    asyncio.run(story())


def test_folders_of_owners_that_died_are_swept_and_others_kept() -> None:
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    dead = base / f"tollway-replica-{ended.pid}-test"
    ours = base / f"tollway-replica-{os.getpid()}-test"
    odd = base / f"tollway-replica-odd{os.getpid()}"
    for folder in (dead, ours, odd):
        folder.mkdir()

    async def story() -> None:
        replica = Replica(Scripted("raise SystemExit"), SystemClock(), pace=IMPATIENT)
        with pytest.raises(Unavailable):
            await replica.start()
        await replica.stop()

    try:
        asyncio.run(story())
        assert [folder.exists() for folder in (dead, ours, odd)] == [False, True, True]
    finally:
        for folder in (ours, odd):
            folder.rmdir()


# -- without a process -------------------------------------------------------------------------------------------------


async def serve(port: int, statuses: dict[str, int]) -> asyncio.Server:
    """A tiny OpenAI-shaped server; `statuses` by path may be changed while it runs."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                size = next(int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:"))
                await reader.readexactly(size)
                status = statuses.get(head.split()[1], 404)
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n{{}}".encode())
                await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", port)


def test_an_upstream_that_is_down_is_waited_for_and_one_that_fails_is_left() -> None:
    async def story() -> None:
        port = free_port()
        replica = Replica(UpstreamServer(f"http://127.0.0.1:{port}/v1", "m"), SystemClock(), pace=IMPATIENT)
        with pytest.raises(Unavailable):
            await replica.start()
        statuses = {"/v1/chat/completions": 200, "/v1/models": 200}
        server = await serve(port, statuses)
        await until(replica, State.READY)
        statuses["/v1/models"] = 404  # it may have no such page
        await asyncio.sleep(0.3)
        assert replica.state is State.READY
        statuses |= {"/v1/models": 503, "/v1/chat/completions": 503}
        await until(replica, State.STARTING)
        assert "503" in replica.last_failure
        statuses["/v1/chat/completions"] = 200
        await until(replica, State.READY)
        await replica.stop()
        server.close()

    asyncio.run(story())
