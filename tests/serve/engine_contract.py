"""What every engine owes, as tests to inherit: `AnyEngine` for all, `OwnProcess` for those with a process of their own."""

import asyncio
import json
import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec
import pytest

from tollway.serve.engines import Engine, child
from tollway.serve.replica import Replica
from tollway.serve.wire import Pool

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]


class Served:
    """A running replica and a pool to it, used from tests that are not asynchronous themselves."""

    def __init__(self, replica: Replica, run: Run[Any]) -> None:
        self.replica = replica
        self.run = run
        self.caps = replica.caps
        self.address = replica.address
        self.pool = Pool(replica.address.url, replica.address.key)

    def post(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(self._asked(body)).encode()
        reply = self.run(self.pool.post(self.address.prefix + path, data))
        return reply.status, json.loads(reply.body)

    def _asked(self, body: dict[str, Any]) -> dict[str, Any]:
        """What is sent: a text is never drawn by lot unless the test says so (a first token may be the end)."""
        sure = {"temperature": 0} if {"messages", "prompt"} & body.keys() else {}
        return {"model": self.replica.engine.model} | sure | body

    def plain(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A path without prefix."""
        reply = self.run(self.pool.post(path, json.dumps(body).encode()))
        assert reply.status == 200
        return dict(json.loads(reply.body))

    def events(self, path: str, body: dict[str, Any], most: int = 1_000_000) -> list[str]:
        """The `data:` lines of a stream, left after `most` of them."""

        async def read() -> list[str]:
            data = json.dumps(self._asked(body) | {"stream": True}).encode()
            text = ""
            async with self.pool.stream(self.address.prefix + path, data) as answer:
                assert answer.status == 200
                async for chunk in answer.chunks():
                    text += chunk.decode()
                    if text.count("\n\n") >= most:
                        break
            return [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]

        return list(self.run(read()))


def running() -> Iterator[Run[Any]]:
    """Runs coroutines on a loop of its own, in a thread that outlives every replica started there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(500)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def gone(pid: int, within_s: float = 60) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def connections(engine: Engine, folder: Path) -> list[str]:
    """What the engine's process and its children connect to, as the kernel saw it."""
    order = engine.launch(folder / "r.sock")
    assert order is not None
    log = folder / "calls"
    traced = ["strace", "-f", "--seccomp-bpf", "-e", "trace=connect,sendto", "-o", str(log), *order.argv]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **child.QUIET}
    with subprocess.Popen(traced, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None
        # its parent is strace, not we
        spec = msgspec.json.decode(order.first_line) | {"parent": process.pid}
        process.stdin.write(msgspec.json.encode(spec) + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["event"] == "ready"
        body = json.dumps(engine.probe.body).encode()
        reply = asyncio.run(Pool(f"unix:{folder}/r.sock").post("/v1" + engine.probe.path, body))
        assert reply.status == 200
        process.stdin.close()
        process.wait(120)
    assert "exited" in log.read_text(errors="replace"), "it was watched to its end"
    return log.read_text(errors="replace").splitlines()


class AnyEngine:
    """What every engine does. Subclasses give `served`, and a call that it answers."""

    path: ClassVar[str]
    ask: ClassVar[dict[str, Any]]
    sent: ClassVar[bytes] = b""  # what follows the JSON of a call: a recording
    calls: ClassVar[int]  # more than it has slots

    @pytest.mark.parametrize(
        "raw", [b"", b"{", b"[]", b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', b"\0" * 100]
    )
    def test_what_is_no_json_is_a_4xx(self, raw: bytes, served: Served) -> None:
        status, answer = served.post(self.path, raw)
        assert 400 <= status < 500
        assert "error" in answer

    def test_more_calls_than_slots_are_all_answered(self, served: Served) -> None:
        body = json.dumps({"model": served.replica.engine.model, **self.ask}).encode() + self.sent

        async def many() -> list[int]:
            path = served.address.prefix + self.path
            replies = await asyncio.gather(*(served.pool.post(path, body) for _ in range(self.calls)))
            return [reply.status for reply in replies]

        assert served.run(many()) == [200] * self.calls

    def test_the_probe_and_the_pulse_answer(self, served: Served) -> None:
        probe = served.replica.engine.probe
        body = json.dumps(probe.body).encode()
        assert served.run(served.pool.post(served.address.prefix + probe.path, body)).status == 200
        prefix = "" if served.replica.pid else served.address.prefix
        assert served.run(served.pool.get(prefix + served.replica.engine.pulse)).status == 200


class OwnProcess:
    """What every engine does that runs in a process of its own."""

    def test_no_tcp_port_listens(self, served: Served) -> None:
        mine = set()
        for entry in Path(f"/proc/{served.replica.pid}/fd").iterdir():
            target = os.readlink(entry)
            if target.startswith("socket:["):
                mine.add(target[8:-1])
        assert mine, "it has its unix socket at least"
        rows = [
            line.split()
            for table in ("tcp", "tcp6", "udp")
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        ]
        assert not [row for row in rows if row[9] in mine]

    def test_the_socket_is_private(self, served: Served) -> None:
        path = Path(served.address.url.removeprefix("unix:"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    def test_the_process_was_started_fresh_and_can_say_nothing(self, served: Served) -> None:
        process = Path(f"/proc/{served.replica.pid}")
        assert served.replica.engine.launch(Path("/tmp/x")).argv[-1].encode() in (process / "cmdline").read_bytes()
        assert {os.readlink(process / "fd" / number) for number in ("1", "2")} == {"/dev/null"}
        forked = [
            (task / "children").read_text() for task in (process / "task").iterdir() if (task / "children").exists()
        ]
        assert not "".join(forked), "a child that is forked after a model was loaded hangs"

    def test_the_process_knows_no_secrets_and_goes_first_when_memory_ends(self, served: Served) -> None:
        process = Path(f"/proc/{served.replica.pid}")
        names = {entry.split(b"=")[0].decode() for entry in (process / "environ").read_bytes().split(b"\0") if entry}
        assert not [name for name in names if name.startswith(("TOLLWAY", "AWS", "OPENAI"))]
        assert names >= child.QUIET.keys(), "libraries that count their users are told not to"
        assert (process / "oom_score_adj").read_text().strip() == "500"
        core = next(line for line in (process / "limits").read_text().splitlines() if "core file" in line)
        assert core.split()[4:6] == ["0", "0"]
