"""What is measured, one function a question. Every figure is a ratio between two things measured side by side."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.rig.figures import Figure
from bench.rig.processes import Child, Rig, http_status, talk
from bench.rig.store import Missing
from bench.serving import loads, peers
from bench.serving.limit import Limit
from bench.serving.loads import Seen, Target
from bench.serving.ours import Ours

BUSY = 64
NEAR_LEAST = 0.999


@dataclass(frozen=True)
class Pace:
    """How long and how often."""

    rounds: int
    seconds: float
    peer_seconds: float
    overload_seconds: float
    grid_seconds: float
    limit_texts: int


FULL = Pace(5, 6.0, 6.0, 12.0, 1.5, 600)
QUICK = Pace(2, 4.0, 3.0, 7.0, 0.4, 400)


class Check(Exception):
    """A server does not answer what it should."""


def throughput(rig: Rig, ours: Ours, limit: Limit, pace: Pace) -> list[Figure]:
    """At 64 connections against the in-process limit; at one against the naive app, that works for nobody else meanwhile."""
    shares, alone = [], []
    naive = _naive(rig, limit)
    for number in range(pace.rounds):
        before = limit.rate(pace.limit_texts)
        busy = loads.closed(ours.target, limit.texts, BUSY, pace.seconds)
        after = limit.rate(pace.limit_texts)
        shares.append(busy.rate / ((before + after) / 2))
        talk(f"  round {number + 1}: limit {before:.0f} and {after:.0f}/s ({limit.best}); ours at {BUSY} {busy.row()}")
        if naive is not None:
            pair = {"ours": ours.target, "naive": naive[0]}
            order = sorted(pair, reverse=bool(number % 2))
            seen = {name: loads.closed(pair[name], limit.texts, 1, pace.seconds) for name in order}
            alone.append(seen["ours"].rate / max(seen["naive"].rate, 1e-9))
            talk(f"  round {number + 1}: at 1 ours {seen['ours'].row()}\n{'':11}at 1 naive {seen['naive'].row()}")
    if naive is not None:
        rig.stop(naive[1])
    figures = [Figure("classifier_share_of_limit", shares, "ratio", 0.80, "the same engine in process, full sort")]
    if alone:
        figures.append(
            Figure("classifier_vs_naive_1", alone, "ratio", 0.95, "a thread pool behind FastAPI, 1 connection")
        )
    return figures


def against_peers(rig: Rig, ours: Ours, limit: Limit, pace: Pace, names: Sequence[str]) -> list[Figure]:
    """At 64 connections beside each peer, as usual and tuned; ours is measured right before and after each."""
    usual: dict[str, float] = {}
    tuned: dict[str, float] = {}
    for name in names:
        mine = [loads.closed(ours.target, limit.texts, BUSY, pace.peer_seconds, warmup=0.7)]
        for is_tuned, found in ((False, usual), (True, tuned)):
            if name == "naive" and is_tuned:
                continue
            try:
                seen = _peer(rig, name, limit, pace, tuned=is_tuned)
            except (Missing, RuntimeError) as wrong:
                talk(f"  {name} is left out: {str(wrong)[-600:]}")
                break
            mine.append(loads.closed(ours.target, limit.texts, BUSY, pace.peer_seconds, warmup=0.7))
            rate = (mine[-2].rate + mine[-1].rate) / 2
            if seen.times:
                found[name] = rate / seen.rate
            talk(f"  {name} {'tuned' if is_tuned else 'usual'}: {seen.row()}; ours {rate:.1f}/s, cpu {mine[-1].cpu_ms:.1f}: "
                 f"{found.get(name, float('inf')):.2f}x")  # fmt: skip
    figures = []
    batching = {name: value for name, value in usual.items() if name != "naive"}
    if tuned:
        best = min(tuned, key=lambda name: tuned[name])
        figures.append(
            Figure("classifier_vs_best_tuned", [tuned[best]], "ratio", 1.1, f"{best}, tuned: sorted, 2 workers")
        )
    if batching:
        best = min(batching, key=lambda name: batching[name])
        figures.append(
            Figure("classifier_vs_best_usual", [batching[best]], "ratio", 3.0, f"{best}, batches of 32, 5 ms")
        )
    if "naive" in usual:
        figures.append(
            Figure("classifier_vs_naive_64", [usual["naive"]], "ratio", None, "a thread pool behind FastAPI")
        )
    return figures


def _peer(rig: Rig, name: str, limit: Limit, pace: Pace, *, tuned: bool) -> Seen:
    """A peer at 64 connections; it must answer what the engine answers."""
    target, child = peers.start(rig, name, tuned=tuned)
    try:
        near = loads.cosine(loads.vector_of(loads.ask(target, limit.texts[3])), limit.vector(limit.texts[3]))
        if near < NEAR_LEAST:
            raise Check(f"{name} answers something else (cosine {near:.4f})")
        return loads.closed(target, limit.texts, BUSY, pace.peer_seconds)
    finally:
        rig.stop(child)


def overload(ours: Ours, limit: Limit, pace: Pace) -> list[Figure]:
    """Poisson arrivals of callers who leave after one second: at 80 % of what it can do, then twice and five times as much."""
    target, seconds = ours.target, pace.overload_seconds
    caller = lambda rate: target.caller(limit.texts, ["x-tollway-timeout-ms: 1000"], rate=rate, patience_s=1.0)  # noqa: E731
    peak = loads.closed(target, limit.texts, BUSY, pace.seconds).rate
    calm = loads.run(target, [caller(0.8 * peak)], seconds, 2.0)[0]
    talk(f"  closed loop at {BUSY}: {peak:.0f}/s; open at 80 %: {calm.row()}")
    shares, slower, refusing, health, console = [], [], [], [], []
    for times in (2, 5):
        with Looks(ours.target.port, "/healthz") as looks, Looks(ours.target.port, "/console/login") as pages:
            seen = loads.run(target, [caller(times * peak)], seconds, 3.0, seed=times)[0]
        again = _recovery(ours)
        again_peak = loads.closed(target, limit.texts, BUSY, pace.seconds).rate
        best = max(calm.rate, (peak + again_peak) / 2)
        shares.append(seen.rate / best)
        slower.append(seen.percentile(0.99) / calm.percentile(0.99))
        refusing.append(1000 * loads.percentile(seen.refusals, 0.99))
        health.append(1000 * looks.slowest)
        console.append(1000 * pages.slowest)
        refused50 = 1000 * loads.percentile(seen.refusals, 0.5)
        talk(f"  {times}x: {seen.row()}; {shares[-1]:.1%} of {best:.0f}/s; refusals p50 {refused50:.1f} p99 {refusing[-1]:.1f} ms; "
             f"health at worst {health[-1]:.0f} ms, a page {console[-1]:.0f} ms; quick again after {again:.2f} s")  # fmt: skip
        peak = again_peak
    return [
        Figure("overload_goodput_share", [min(shares)], "ratio", 0.95, "its own peak, at 2x and 5x, 1 s deadline"),
        Figure("overload_p99_vs_80", [max(slower)], "ratio", 2.0, "its own p99 at 80 % load", at_least=False),
        Figure("overload_refusal_p99_ms", [max(refusing)], "ms", 20, None, at_least=False),
        Figure("overload_health_ms", [max(health)], "ms", 100, None, at_least=False),
        Figure("overload_console_ms", [max(console)], "ms", 250, None, at_least=False),
        Figure("overload_recovery_s", [again], "s", 1.0, None, at_least=False),
    ]


def fairness(ours: Ours, limit: Limit, pace: Pace) -> list[Figure]:
    """A quiet organization, five calls a second, alone and then beside one with 64 connections that never pause."""
    target, seconds = ours.target, max(10.0, 1.5 * pace.overload_seconds)
    head = target.head().replace(target.headers[0], f"Authorization: Bearer {ours.quiet}")
    quiet = target.caller(limit.texts, rate=5.0, patience_s=5.0) | {"head": head}
    flood = target.caller(limit.texts, connections=BUSY)
    alone = loads.run(target, [quiet], seconds, 1.0)[0]
    talk(f"  quiet alone {alone.row()}")
    before, times, costs = loads.closed(target, limit.texts, BUSY, pace.seconds).rate, list[float](), list[float]()
    for number in range(max(2, pace.rounds)):
        both = loads.run(target, [flood, quiet], seconds / 2, 1.5, seed=number)
        after = loads.closed(target, limit.texts, BUSY, pace.seconds).rate
        times += both[1].times
        costs.append(1 - (both[0].rate + both[1].rate) / ((before + after) / 2))
        talk(
            f"  quiet beside a flood {both[1].row()}\n  the flood {both[0].row()}; alone {before:.0f}/s, {after:.0f}/s"
        )
        before = after
    slower = loads.percentile(times, 0.99) / alone.percentile(0.99)
    return [
        Figure("fair_quiet_p99_ratio", [slower], "ratio", 3.0, "its own p99 without the flood", at_least=False),
        Figure("fair_throughput_cost", costs, "ratio", 0.05, "the flood without it", at_least=False),
    ]


class Looks:
    """Asks for a page ten times a second beside a load; `slowest` of them in seconds."""

    def __init__(self, port: int, path: str) -> None:
        self.port, self.path, self.times = port, path, list[float]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def slowest(self) -> float:
        return max(self.times, default=0.0)

    def __enter__(self) -> "Looks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            began = time.perf_counter()
            good = http_status(self.port, self.path) == 200
            self.times.append(time.perf_counter() - began if good else 60.0)


def _recovery(ours: Ours) -> float:
    """Seconds after a load's end until a call of one word takes less than 50 ms again."""
    began = time.monotonic()
    while time.monotonic() - began < 20:
        asked = time.monotonic()
        answer = loads.closed(ours.target, ["again"], 1, 0.15, warmup=0)
        if answer.times and min(answer.times) < 0.05:
            return max(0.0, asked - began)
    return 20.0


def _naive(rig: Rig, limit: Limit) -> tuple[Target, Child] | None:
    try:
        target, child = peers.start(rig, "naive")
    except (Missing, RuntimeError) as wrong:
        talk(f"  the naive app is left out: {str(wrong)[:300]}")
        return None
    near = loads.cosine(loads.vector_of(loads.ask(target, limit.texts[3])), limit.vector(limit.texts[3]))
    if near < NEAR_LEAST:
        raise Check(f"the naive app answers something else (cosine {near:.4f})")
    return target, child


def check(ours: Ours, limit: Limit) -> None:
    """Ours answers what the engine answers."""
    near = loads.cosine(loads.vector_of(loads.ask(ours.target, limit.texts[3])), limit.vector(limit.texts[3]))
    if near < NEAR_LEAST:
        raise Check(f"the shop answers something else (cosine {near:.4f})")
