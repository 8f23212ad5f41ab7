"""Processes under measurement: started pinned, watched, and all stopped at the end, whatever the end is.

`Rig` is a context manager. Every child leads a session of its own and asks the kernel for SIGTERM should this process
die; on leaving (also by Ctrl-C, SIGTERM or the time limit) the whole tree below each child is stopped.
"""

import contextlib
import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType

TICK = os.sysconf("SC_CLK_TCK")
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Overtime(Exception):
    """The bench took longer than it may."""


def cores() -> tuple[int, int]:
    """The core for servers under test and the core for the mock and the load; the same one when there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1 if len(allowed) == 1 else 1]


def free_port() -> int:
    """A TCP port on the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def tree(root: int) -> list[int]:
    """The process and everything below it."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(int(entry))):
            parents[int(entry)] = int(stat[1])
    found = [root] if root in parents else []
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found


class Child:
    """One started process and the tree below it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.process, self.log = name, process, log

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu_seconds(self) -> float:
        """CPU used so far by the tree, as far as it still lives."""
        stats = [_stat(pid) for pid in tree(self.pid)]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats if stat) / TICK

    def rss_mb(self) -> dict[str, float]:
        """Resident memory in MB (1e6 bytes) of each process in the tree, by pid and the end of its command."""
        found = {}
        for pid in tree(self.pid):
            with contextlib.suppress(OSError):
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[f"{pid} {command.strip()[-60:]}"] = pages * PAGE_MB
        return found

    def wait_for(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Returns when `ready()` holds; raises with the end of the log when the process dies or the time is up."""
        end = time.monotonic() + timeout_s
        while not ready():
            if self.process.poll() is not None or time.monotonic() > end:
                how = "ended early" if self.process.poll() is not None else f"was not ready in {timeout_s:.0f} s"
                raise RuntimeError(f"{self.name} {how}; the end of its log:\n{self.tail()}")
            time.sleep(0.05)

    def wait_for_http(self, port: int, path: str, timeout_s: float = 60) -> None:
        """Returns when `GET path` answers 200."""
        self.wait_for(lambda: http_status(port, path) == 200, timeout_s)

    def tail(self, length: int = 2000) -> str:
        """The end of what the process has written."""
        return self.log.read_text(errors="replace")[-length:] if self.log.exists() else ""


def http_status(port: int, path: str) -> int:
    """The status of a GET on the loopback, 0 when there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def plain_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without anything that would send loopback traffic through a proxy."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return {**kept, "NO_PROXY": "127.0.0.1,localhost", **(extra or {})}


class Rig:
    """Starts children, keeps the time limit, stops everything."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.children: list[Child] = []
        self._folder = tempfile.TemporaryDirectory(prefix="tollway-bench-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> "Rig":
        self._handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)}
        signal.signal(signal.SIGINT, self._interrupted)  # also where a shell started us with Ctrl-C ignored
        signal.signal(signal.SIGTERM, self._interrupted)
        signal.signal(signal.SIGHUP, self._interrupted)
        signal.signal(signal.SIGALRM, self._overtime)
        signal.setitimer(signal.ITIMER_REAL, self.limit_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for wanted in (signal.SIGINT, *self._handlers):
            signal.signal(wanted, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind
        try:
            self.stop(*reversed(self.children))
            self._folder.cleanup()
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for which, handler in self._handlers.items():
                signal.signal(which, handler)  # type: ignore[arg-type]

    @staticmethod
    def _interrupted(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def _overtime(self, number: int, frame: FrameType | None) -> None:
        raise Overtime(f"the bench took more than {self.limit_s:.0f} s and was stopped")

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        core: int | None = None,
        env: Mapping[str, str] | None = None,
        pipes: bool = False,
    ) -> Child:
        """Starts a process pinned to `core`, its output in a log file; with `pipes`, stdin and stdout are ours."""
        log = self.folder / f"{name}.log"
        parent = os.getpid()

        def prepare() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)
            if core is not None:
                os.sched_setaffinity(0, {core})

        with log.open("wb") as sink:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else sink,
                stderr=sink,
                env=plain_environment(env),
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=prepare,
            )
        child = Child(name, process, log)
        self.children.append(child)
        return child

    def stop(self, *children: Child) -> None:
        """SIGTERM to each tree, 5 s to leave, then SIGKILL to what remains of it."""
        members = {child.name: tree(child.pid) for child in children}
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
        end = time.monotonic() + 5
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.1, end - time.monotonic()))
            for pipe in (child.process.stdin, child.process.stdout):
                if pipe:
                    with contextlib.suppress(OSError):
                        pipe.close()
            for pid in members[child.name]:
                stat = _stat(pid)
                if stat and stat[0] != "Z" and int(stat[3]) in (child.pid, pid):  # its session is ours: not a reused id
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(5)
            if child in self.children:
                self.children.remove(child)


def talk(text: str) -> None:
    """A line for the person watching, on stderr."""
    print(text, file=sys.stderr, flush=True)
