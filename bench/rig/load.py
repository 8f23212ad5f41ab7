"""Timed load blocks: one target, one shape of traffic, and what else the machine was doing meanwhile."""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rig import store
from bench.rig.processes import TICK, Child, Rig, cores, plain_environment


@dataclass(frozen=True)
class Target:
    """Something that answers chat completions on the loopback."""

    name: str
    port: int
    child: Child
    model: str = "mock"
    path: str = "/v1/chat/completions"
    headers: Sequence[str] = ()


NOISY = 0.15  # a block during which others took more than this of both cores is run again


@dataclass(frozen=True)
class Block:
    """What one timed block gave. `cpu` is the share of one core its server used, `foreign` what others took of both."""

    target: str
    sse: bool
    conns: int
    result: Mapping[str, Any]
    cpu: float
    foreign: float

    @property
    def rate(self) -> float:
        return float(self.result["rate"])

    def row(self) -> str:
        """One line of the table on stderr."""
        got = self.result
        ttft = f"{got['ttft_p50_ms']:8.3f}" if self.sse else "       -"
        errors = f"  errors {got['errors']}: {got['first_error']}" if got["errors"] else ""
        return (
            f"  {self.target:<9}{'sse ' if self.sse else 'json'} c={self.conns:<4}{self.rate:>10.1f}/s  "
            f"p50 {got['latency_p50_ms']:8.3f}  p99 {got['latency_p99_ms']:8.3f}  ttft {ttft} ms  "
            f"cpu {self.cpu:4.0%}  others {self.foreign:4.0%}{errors}"
        )


def chat_body(model: str, sse: bool) -> str:
    """The request every target gets."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a helpful toll keeper."},
            {"role": "user", "content": "In one sentence: what is a toll way?"},
        ],
        "max_tokens": 64,
        "temperature": 0,
    }
    if sse:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body)


def _busy_ticks() -> int:
    wanted = {f"cpu{core}" for core in cores()}
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name in wanted:  # user nice system idle iowait irq softirq steal
            total += sum(int(t) for t in ticks[:8]) - int(ticks[3]) - int(ticks[4])
    return total


def _own_seconds(rig: Rig) -> float:
    done = os.times()
    ours = done.user + done.system + done.children_user + done.children_system
    return ours + sum(child.cpu_seconds() for child in rig.children)


class Bystanders:
    """How much of the two cores processes outside the bench took since this was made."""

    def __init__(self, rig: Rig) -> None:
        self._rig, self._began = rig, time.monotonic()
        self._busy, self._own = _busy_ticks(), _own_seconds(rig)

    def share(self) -> float:
        """Their share of both cores' time, 0 to 1."""
        took = time.monotonic() - self._began
        others = (_busy_ticks() - self._busy) / TICK - (_own_seconds(self._rig) - self._own)
        return max(0.0, others / took / len(set(cores())))


def generator_command(target: Target, conns: int, sse: bool, seconds: float, warmup: float) -> list[str]:
    """How the load generator is called for a block."""
    command = [str(store.native("load")), "--port", str(target.port), "--path", target.path, "--conns", str(conns)]
    command += ["--seconds", f"{seconds}", "--warmup", f"{warmup}"]
    command += ["--sse", "--min-events", "22"] if sse else []
    for header in target.headers:
        command += ["--header", header]
    return command


def measure(
    rig: Rig,
    target: Target,
    *,
    conns: int,
    sse: bool,
    seconds: float,
    warmup: float,
    body: Sequence[str] | None = None,
    pinned: bool = True,
) -> Block:
    """Runs one block (on the load core, when pinned) and returns what it gave."""
    command = generator_command(target, conns, sse, seconds, warmup)
    command += body if body is not None else ["--body", chat_body(target.model, sse)]
    bystanders, began, served = Bystanders(rig), time.monotonic(), target.child.cpu_seconds()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds + warmup + 60,
        env=plain_environment(),
        check=False,
        preexec_fn=(lambda: os.sched_setaffinity(0, {cores()[1]})) if pinned else None,
    )
    if done.returncode:
        raise RuntimeError(f"the load generator failed on {target.name}: {done.stderr.strip()}")
    return Block(
        target=target.name,
        sse=sse,
        conns=conns,
        result=json.loads(done.stdout),
        cpu=(target.child.cpu_seconds() - served) / (time.monotonic() - began),
        foreign=bystanders.share(),
    )
