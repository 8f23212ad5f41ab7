"""A limited process for the parsing of files from outside: archives, images, tables, recordings, model files.

    result = sandbox.call("tollway.forge.data.readers:read_into", {"source": "x.zip", "out": "…"}, writable=out)

The function takes and gives plain JSON and runs in a fresh Python that has none of our environment (no keys, no database
URL), limits on memory, CPU time, file size and open files, no new privileges, no network of its own where the system
allows that, and, where the kernel has Landlock, write access to one folder only. An exploited parser can spoil its own
output; it cannot reach the shop. Errors of ours come back as such; running into a limit is an error that says which.
"""

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tollway.kit import errors
from tollway.kit.errors import BadRequest, TollwayError, TooLarge

GIB: Final = 1 << 30
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_LANDLOCK: Final = (444, 445, 446)  # create_ruleset, add_rule, restrict_self; the same numbers on every architecture
_WRITES: Final = 0x1FF2  # write_file and everything that makes or removes names (Landlock ABI 1)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ResourceLimits:
    """What the process may use."""

    memory_bytes: int = 6 * GIB
    cpu_s: int = 1800
    wall_s: float = 3600
    file_bytes: int = 64 * GIB
    files: int = 256


def call(
    target: str,
    arguments: Mapping[str, Any],
    *,
    writable: Path | None = None,
    limits: ResourceLimits | None = None,
    progress: Progress | None = None,
) -> Any:
    """Run `module:function` on `arguments` in a limited process; gives back its result.

    The function gets `progress=` (a callable) when it has a parameter of that name. Raises what it raised if that was
    one of ours, TooLarge when a limit was met, BadRequest when it failed otherwise.
    """
    limits = limits or ResourceLimits()
    job = {"target": target, "arguments": dict(arguments), "limits": asdict(limits), "writable": str(writable or "")}
    environment = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV") if name in os.environ}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system",
                    "PYTHONDONTWRITEBYTECODE": "1", "MALLOC_ARENA_MAX": "2"}  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "tollway.kit.sandbox"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=environment, close_fds=True, start_new_session=True,
    )  # fmt: skip
    late = threading.Timer(limits.wall_s, process.kill)
    late.start()
    said = bytearray()
    listener = threading.Thread(target=lambda: said.extend(_tail(process)), daemon=True)
    listener.start()
    try:
        answer = _converse(process, job, progress)
    finally:
        timed_out = not late.is_alive()
        late.cancel()
        if process.poll() is None:
            process.kill()
        process.wait()
        listener.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
    if "ok" in answer:
        return answer["ok"]
    raise _error(answer, process.returncode, limits, timed_out, said.decode("utf-8", "replace"))


def _converse(process: "subprocess.Popen[bytes]", job: Mapping[str, Any], progress: Progress | None) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
    for line in process.stdout:
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if "progress" in message:
            if progress is not None:
                progress(*message["progress"])
        else:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
            return dict(message)
    process.wait()
    return {}


def _tail(process: "subprocess.Popen[bytes]") -> bytes:
    """The end of what it complained about; a hostile file cannot fill our memory with complaints."""
    assert process.stderr is not None
    kept, pipe = b"", process.stderr.fileno()
    while chunk := os.read(pipe, 65_536):
        kept = (kept + chunk)[-4096:]
    return kept


def _error(answer: Mapping[str, Any], code: int, limits: ResourceLimits, timed_out: bool, said: str) -> TollwayError:
    if "error" in answer:
        told = answer["error"]
        kind = getattr(errors, told["class"], BadRequest)
        return kind(told["message"], code=told["code"], param=told["param"], hint=told["hint"])
    memory = f"{limits.memory_bytes / GIB:.1f} GiB"
    if answer.get("memory") or (code in (-signal.SIGABRT, -signal.SIGSEGV) and "alloc" in said):
        return TooLarge(f"Reading this needs more than {memory} of memory.", code="limit_memory", hint="Give smaller files.")
    if timed_out or code == -signal.SIGXCPU:
        return TooLarge(
            f"Reading this takes longer than allowed ({limits.cpu_s:g} s of CPU, {limits.wall_s:g} s in all).",
            code="limit_time", hint="Give smaller files.",
        )  # fmt: skip
    if code == -signal.SIGXFSZ or answer.get("file"):
        return TooLarge(
            f"Reading this writes a file of more than {limits.file_bytes / GIB:.1f} GiB.", code="limit_file", hint="Give smaller files."
        )
    why = answer.get("why") or (said.strip().splitlines() or [f"ended with {code}"])[-1][:300]
    return BadRequest(f"The file cannot be read: {why}", code="unreadable", hint="Is it whole, and of the format it claims?")


# -- the other side ----------------------------------------------------------------------------------------------------


def _main() -> None:
    """Read one job from stdin, confine ourselves, do it, answer on the pipe that was stdout."""
    job = json.loads(sys.stdin.buffer.readline())
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints is a complaint, not an answer
    module, _, name = job["target"].partition(":")
    if not module.startswith("tollway."):
        raise SystemExit("only functions of Tollway run here")
    function = getattr(importlib.import_module(module), name)
    confine(ResourceLimits(**job["limits"]), job["writable"])

    def tell(message: Mapping[str, Any]) -> None:
        answers.write(json.dumps(message, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass") + b"\n")

    arguments = job["arguments"]
    if "progress" in function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]:
        arguments["progress"] = lambda done, total: tell({"progress": [done, total]})
    try:
        tell({"ok": function(**arguments)})
    except TollwayError as error:
        tell({"error": {"class": type(error).__name__, "message": error.message, "code": error.code,
                        "param": error.param, "hint": error.hint}})  # fmt: skip
    except MemoryError:
        tell({"memory": True})
    except OSError as error:
        tell({"file": True} if error.errno == 27 else {"why": f"{error.strerror}: {error.filename or ''}"})
    except Exception as error:
        if "alloc" in f"{error}".lower():
            tell({"memory": True})
        else:
            tell({"why": f"{type(error).__name__}: {error}"})
            raise


def confine(limits: ResourceLimits, writable: str = "") -> None:
    """Give up what parsing does not need. What a system cannot do is left out: the limits always hold."""
    for what, most in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        # One second of grace between the signal that can be told apart and the one that cannot.
        resource.setrlimit(what, (most, most + 1 if what == resource.RLIMIT_CPU and hard == resource.RLIM_INFINITY else most))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then the write fails with an error that can be told
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # nobody waits for the answer of an orphan
    if libc.unshare(_CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    _landlock(libc, writable)


def _landlock(libc: ctypes.CDLL, writable: str) -> None:
    """Writing only below one folder, where the kernel can see to it."""
    create, add, restrict = _LANDLOCK
    handled = ctypes.c_uint64(_WRITES)
    ruleset = libc.syscall(create, ctypes.byref(handled), ctypes.c_size_t(8), 0)
    if ruleset < 0:
        return
    if writable:
        folder = os.open(writable, os.O_PATH | os.O_DIRECTORY)
        rule = ctypes.create_string_buffer(_WRITES.to_bytes(8, sys.byteorder) + folder.to_bytes(4, sys.byteorder))
        libc.syscall(add, ruleset, 1, rule, 0)
        os.close(folder)
    libc.syscall(restrict, ruleset, 0)
    os.close(ruleset)


if __name__ == "__main__":
    _main()
