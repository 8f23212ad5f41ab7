"""An engine in a process of its own: how it is started, and what it does besides its work.

    launch(MODULE, spec)        in the gateway: the command, and the spec as the first line of its standard input
    main(Spec, work)            in the process: from that line to its end

The process binds its life to its parent's, loads, says one line of JSON on standard output when it is up or has failed, and
from then on both outputs lead nowhere: what an engine prints can quote prompts. It ends when standard input does.
"""

import contextlib
import ctypes
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from tollway.kit import lifeline, quiet
from tollway.serve.engines import fence
from tollway.serve.engines.port import Launch

_NOISE: Final = 8 * 1024
_SOCKET_PATH_BYTES_MAX: Final = 107
_M_ARENA_MAX: Final = -8  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
_PIECE_BYTES: Final = 256 * 1024
QUIET: Final = {**quiet.VARIABLES, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""What every engine is told before it starts: libraries that count their users have nothing to tell here, and what is served
is on the shelf already."""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What every engine's process has to know; each engine's own adds what it is to load, and how."""

    socket: str
    model: str
    parent: int = msgspec.field(default_factory=os.getpid)  # who starts it


AnySpec = TypeVar("AnySpec", bound=Spec)
Ready = Callable[[], None]


def launch(module: str, spec: Spec) -> Launch:
    """How to start it."""
    if len(os.fsencode(spec.socket)) > _SOCKET_PATH_BYTES_MAX:
        raise ValueError(f"a unix socket's path has at most {_SOCKET_PATH_BYTES_MAX} bytes: {spec.socket}")
    return Launch(argv=(sys.executable, "-P", "-m", module), first_line=msgspec.json.encode(spec) + b"\n")


def main(kind: type[AnySpec], work: Callable[[AnySpec, Ready], None]) -> int:
    """The process, from its first line to its exit code. `work` loads the model, listens on the spec's socket, says that it
    is ready, and goes on for as long as the process lives."""
    orders = sys.stdin.buffer.readline()
    if not orders:
        return 2
    spec = msgspec.json.decode(orders, type=kind)
    settle(spec.parent)
    if hidden := os.environ.pop(fence.VARIABLE, ""):
        fence.put_up(Path(hidden), Path(spec.socket).parent)  # before any library is loaded: it holds for this thread and those that come
    began = time.monotonic()

    def ready() -> None:
        Path(spec.socket).chmod(0o600)
        _say_last({"event": "ready", "load_seconds": round(time.monotonic() - began, 3)})
        threading.Thread(target=_end_when_told, args=(spec.socket,), daemon=True).start()

    try:
        work(spec, ready)
    except Exception as error:  # noqa: BLE001 - whatever the engine throws is reported to the supervisor as the reason
        _say_last({"event": "failed", "why": f"{type(error).__name__}: {error}"[:_NOISE]})
        return 1
    return 0


def settle(parent: int) -> None:
    """Die with the parent, never write prompts to a core file, be the first to go when memory runs out, tell nobody of it."""
    os.umask(0o077)
    quiet.no_telemetry()
    lifeline.die_with(parent)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit(threads: int, memory_bytes: int = 0) -> None:
    """Before any library is loaded: threads that it may start of its own, and memory of the process's own (0: the machine's),
    so that a hostile input ends in an error here and not in the machine's."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if memory_bytes:
        most = resource.getrlimit(resource.RLIMIT_DATA)[1]  # what whoever started it lets it have
        memory_bytes = memory_bytes if most == resource.RLIM_INFINITY else min(memory_bytes, most)
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def share_one_heap() -> None:
    """For an engine that answers on many threads of its own: before it starts them. GNU's C library gives threads heaps of
    their own, up to eight a core, and each of them keeps the most that it ever held: memory that grows for a day. Large pieces
    (the prompts it remembers) come from the kernel and go back to it: by itself the library soon takes those from the heap too,
    where pieces of all lengths leave holes."""
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(_M_ARENA_MAX, 1)
        tune(_M_MMAP_THRESHOLD, _PIECE_BYTES)


def _say_last(event: dict[str, Any]) -> None:
    """One line of JSON to the supervisor, the last word: before it is said both outputs lead nowhere, for whoever hears
    "ready" may ask at once."""
    sys.stdout.flush()
    supervisor = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    with os.fdopen(supervisor, "w", encoding="utf-8") as line:
        line.write(json.dumps(event) + "\n")


def _end_when_told(socket: str) -> None:
    """Wait until standard input ends: the order to stop; nothing more is expected there. Then the socket goes and so does the
    process, at once: work under way would keep an orderly exit waiting."""
    while os.read(0, 4096):
        pass
    with contextlib.suppress(OSError):
        Path(socket).unlink()
    os._exit(0)
