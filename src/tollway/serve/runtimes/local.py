"""Replicas as processes of this machine: start one, hear that its model is loaded, end it for certain.

Also what a node of a cluster does for itself (see `host`): the process is the same everywhere.
"""

import asyncio
import contextlib
import json
import os
import resource
import signal
from pathlib import Path
from typing import Any, Final

from tollway.kit.said import say
from tollway.serve.engines import Address, Engine, Launch, child, fence
from tollway.serve.runtimes.port import Confinement, Failed, Place, Waits

SOCKET: Final = "replica.sock"
_NOISE_BYTES: Final = 8 * 1024
_PASSED_ON: Final = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "PYTHONDONTWRITEBYTECODE",
)


class Process:
    """A place on this machine."""

    def __init__(self, process: asyncio.subprocess.Process, address: Address) -> None:
        self.process = process
        self.address = address
        self.node = "local"

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process.returncode is None else None

    async def ended(self) -> str:
        return say("replica.ended", "its process ended with code {status}", status=await self.process.wait())

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class Local:
    """The runtime of one box."""

    async def start(self, engine: Engine, folder: Path, confinement: Confinement, waits: Waits) -> Place | None:
        socket = folder / SOCKET
        launch = engine.launch(socket)
        if launch is None:
            return None
        return Process(await started(launch, socket, confinement), engine.address(socket))

    async def stop(self, place: Place, within_s: float) -> None:
        assert isinstance(place, Process)
        await buried(place.process, within_s)

    async def crowded(self) -> list[Place]:
        return []

    def expect(self, replicas: int) -> None:
        return None

    async def close(self) -> None:
        return None


async def started(launch: Launch, socket: Path, confinement: Confinement) -> asyncio.subprocess.Process:
    """Start an engine's process and wait for its word that the model is loaded. The task must run in a thread that lives as
    long as the service: the kernel ends the process with the thread that started it. Raises Failed."""
    socket.unlink(missing_ok=True)  # noqa: ASYNC240 - the folder is in memory
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *launch.argv, stdin=pipe, stdout=pipe, stderr=pipe, env=_environment(confinement), start_new_session=True
        )
    except OSError as error:
        raise Failed(
            say("replica.no_start", "its process cannot be started: {failure}", failure=str(error.strerror))
        ) from None
    try:
        assert process.stdin is not None and process.stdout is not None
        _limit(process.pid, confinement)
        with contextlib.suppress(ConnectionError):
            process.stdin.write(launch.first_line)
            await process.stdin.drain()
        word: Any = None
        with contextlib.suppress(ValueError):  # no JSON, or a line without end
            word = json.loads(await process.stdout.readline())
        if not isinstance(word, dict) or word.get("event") != "ready":
            raise Failed(await _reason(process, word))
    except BaseException:
        await buried(process, 0.2)
        raise
    return process


async def buried(process: asyncio.subprocess.Process, within_s: float) -> None:
    """End a process for certain and collect it: first the polite way (end of its input), then the sure one."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(within_s):
            await process.wait()
    except TimeoutError:
        pass
    finally:  # also when cancelled here
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process._transport.close()  # type: ignore[attr-defined]  # `wait` would wait for output nobody reads
        await process.wait()


def _limit(pid: int, confinement: Confinement) -> None:
    """Before it has heard what to load: more than it may have is refused by the kernel, and then it ends."""
    if confinement.memory_bytes and hasattr(resource, "prlimit"):
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_DATA, (confinement.memory_bytes, confinement.memory_bytes))


async def _reason(process: asyncio.subprocess.Process, word: Any) -> str:
    """Why loading failed, from what the process said before anybody had asked it anything it could quote."""
    if isinstance(word, dict) and word.get("why"):
        return _quoted(str(word["why"]))
    assert process.stderr is not None
    noise = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            noise = await process.stderr.read(_NOISE_BYTES)
            await process.wait()
    last = noise.decode(errors="replace").strip().splitlines()[-1:]
    by = -(process.returncode or 0)
    if by > 0 and not (last and by == signal.SIGABRT):  # who aborts has said why; of other signals a process knows nothing
        return say("replica.killed", "its process was ended by {signal} while it loaded the model", signal=_signal(by))
    return _quoted(last[0]) if last else say("replica.no_report", "its process did not report that the model is loaded")


def _signal(number: int) -> str:
    """As people know it: SIGFPE."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _quoted(words: str) -> str:
    """What an engine said in its own words, which nobody translates."""
    return say("replica.engine_words", "{words}", words=" ".join(words.split()))


def _environment(confinement: Confinement) -> dict[str, str]:
    """What a replica may know of ours: no keys, no database address."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | child.QUIET
    return kept | ({fence.VARIABLE: confinement.home} if confinement.home else {})
