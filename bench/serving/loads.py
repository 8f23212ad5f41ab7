"""Running the load client, and what its outcomes say."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.rig.processes import Child, plain_environment


@dataclass(frozen=True)
class Target:
    """A server under test: where it listens, and how a text is put to it."""

    name: str
    port: int
    path: str
    wrap: Any  # text -> body
    headers: tuple[str, ...] = ()
    child: Child | None = None  # its processes

    def head(self, headers: Sequence[str] = ()) -> str:
        lines = [
            f"POST {self.path} HTTP/1.1",
            "Host: 127.0.0.1",
            "Content-Type: application/json",
            "Content-Length: LENGTH",
        ]
        return "\r\n".join([*lines, *self.headers, *headers, "", ""])

    def caller(self, texts: Sequence[str], headers: Sequence[str] = (), **how: Any) -> dict[str, Any]:
        """One kind of caller in a load."""
        return {"head": self.head(headers), "bodies": [json.dumps(self.wrap(text)) for text in texts], **how}


@dataclass
class Seen:
    """What one kind of caller met within the measured time."""

    seconds: float
    times: list[float] = field(default_factory=list)  # of the answered
    refusals: list[float] = field(default_factory=list)
    asked: int = 0
    left: int = 0
    broken: int = 0
    cpu_ms: float = 0.0  # of the server's processes, for each answer

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.times) / self.seconds

    def percentile(self, share: float) -> float:
        """Seconds."""
        return percentile(self.times, share)

    def row(self) -> str:
        p50, p99 = (1000 * self.percentile(share) for share in (0.5, 0.99))
        return (
            f"{self.rate:6.1f}/s  p50 {p50:6.0f}  p99 {p99:6.0f} ms  "
            f"cpu {self.cpu_ms:.1f}  asked {self.asked}  refused {len(self.refusals)}  left {self.left}  broken {self.broken}"
        )


def percentile(values: Sequence[float], share: float) -> float:
    """Of a few values; infinite when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


def run(target: Target, callers: Sequence[dict[str, Any]], seconds: float, warmup: float, seed: int = 1) -> list[Seen]:
    """Put a load on; what each kind of caller met after the warm-up."""
    orders = {"port": target.port, "seconds": seconds + warmup, "seed": seed, "callers": list(callers)}
    used = target.child.cpu_seconds() if target.child else 0.0
    told = _client(orders, seconds + warmup + 90)
    used = target.child.cpu_seconds() - used if target.child else 0.0
    start, end = told["began"] + warmup, told["began"] + warmup + seconds
    found = [Seen(seconds) for _ in callers]
    for caller, began, took, status in told["outcomes"]:
        seen, closed = found[caller], "rate" not in callers[caller]
        moment = began + took if closed else began
        if not start <= moment < end:
            continue
        seen.asked += 1
        if status == 200:
            seen.times.append(took)
        elif status in (429, 503):
            seen.refusals.append(took)
        elif status == 0:
            seen.left += 1
        else:
            seen.broken += 1
    answered = sum(status == 200 for *_, status in told["outcomes"])
    for seen in found:
        seen.cpu_ms = 1000 * used / max(1, answered)
    return found


def closed(target: Target, texts: Sequence[str], connections: int, seconds: float, warmup: float = 1.5) -> Seen:
    """So many connections, each asking again when it has its answer."""
    return run(target, [target.caller(texts, connections=connections)], seconds, warmup)[0]


def ask(target: Target, text: str) -> dict[str, Any]:
    """One request; its answer."""
    told = _client({"port": target.port, "check": True, "callers": [target.caller([text])]}, 90)
    if told["status"] != 200:
        raise RuntimeError(f"{target.name} answered {told['status']}: {told['body'][:300]}")
    return dict(json.loads(told["body"])) if told["body"].startswith("{") else {"embedding": json.loads(told["body"])}


def vector_of(answer: dict[str, Any]) -> list[float]:
    """The embedding in whichever shape it came."""
    if "data" in answer:
        return list(answer["data"][0]["embedding"])
    if "outputs" in answer:
        return list(answer["outputs"][0]["data"])
    found = answer["embedding"]
    return list(found[0]) if found and isinstance(found[0], list) else list(found)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """How near two vectors point."""
    norms = statistics.fsum(a * a for a in one) ** 0.5 * statistics.fsum(b * b for b in other) ** 0.5
    return statistics.fsum(a * b for a, b in zip(one, other, strict=True)) / norms if norms else 0.0


def _client(orders: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("client.py"))],
        input=json.dumps(orders) + "\n", capture_output=True, text=True, timeout=timeout_s, env=plain_environment(), check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the load client failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout))


def settle(seconds: float = 0.5) -> None:
    """A breath between two loads."""
    time.sleep(seconds)
