"""Calibration against a grid: the lanes as they set themselves up, and every point of a small grid, on the same stream of rows
with 64 calls waiting at any time."""

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import uvloop

from bench.rig.figures import Figure
from bench.rig.processes import talk
from bench.serving import models
from bench.serving.measures import BUSY, Pace

_WARM_S = 0.3
_FINALISTS, _TURNS = 3, 7
BUDGETS = (4, 16, 64, 128, 256, 512, 1024)
Built = dict[tuple[int, bool], list[Any]]


def calibration(pace: Pace, kinds: Sequence[str] = models.KINDS) -> list[Figure]:
    """The chosen plan's rows per second / the best grid point's, the worst of the models."""
    ratios, longest = [], 0.0
    for kind in kinds:
        ratio, took = _model(kind, pace.grid_seconds)
        ratios.append(ratio)
        longest = max(longest, took)
    return [
        Figure(
            "calibration_share_of_best", [min(ratios)], "ratio", 0.90, "the best point of a grid, worst of four models"
        ),
        Figure("calibration_seconds", [longest], "s", 20, None, at_least=False),
    ]


def _model(kind: str, seconds: float) -> tuple[float, float]:
    """(chosen / best, seconds of the calibration) of one model."""
    from tollway import inference
    from tollway.serve.engines import cpu_cores
    from tollway.serve.engines.rows import calibration as calibrating
    from tollway.serve.engines.rows.lanes import SWITCH_S

    sys.setswitchinterval(SWITCH_S)  # as a replica does
    folder = models.folder(kind)
    features = inference.load_features(folder)
    rows, cores = _rows(kind, features), cpu_cores()
    budgets = [budget for budget in BUDGETS if budget <= BUSY * max(length for _, length in rows)]  # more never waits

    def build(threads: int, spinning: bool) -> Any:
        return inference.load(folder, "onnx", threads, spinning=spinning, features=features)

    built: Built = {}
    began = time.monotonic()
    chosen = calibrating.measured(build, cores, calibrating.Until(began + calibrating.LIMIT_S), built)
    took = time.monotonic() - began
    points = {}
    if kind == "minilm":
        seconds *= 2.5  # it has to fill and empty a queue of 64
    for lanes, threads in sorted({(cores, 1), (1, cores), (1, 1)}):
        if (threads, False) not in built:
            built[threads, False] = [build(threads, False)]
        for budget in budgets if seconds >= 1 else budgets[::-2]:
            point = _point(chosen, lanes, threads, budget)
            points[lanes, threads, budget] = _rate(point, built, rows, seconds)
    finalists = sorted(points, key=lambda point: -points[point])[:_FINALISTS]
    shares, mine = {point: list[float]() for point in finalists}, list[float]()
    for number in range(_TURNS):  # side by side, and the middle of the ratios: what disturbs, disturbs both
        order = [None, *finalists] if number % 2 else [*finalists, None]
        rates = {one: _rate(chosen if one is None else _point(chosen, *one), built, rows, seconds) for one in order}
        mine.append(rates[None])
        for point in finalists:
            shares[point].append(rates[None] / rates[point])
    share, top = min((statistics.median(ratios), point) for point, ratios in shares.items())
    talk(f"  {kind}: set up in {took:.1f} s: {chosen.lanes} x {chosen.threads}, budget {chosen.shape.budget}: "
         f"{statistics.median(mine):.0f}/s; best of {len(points)}: {top[0]} x {top[1]}, budget {top[2]}: {share:.2f}")  # fmt: skip
    return share, took


def _point(chosen: Any, lanes: int, threads: int, budget: int) -> Any:
    """A point of the grid; its shape stays as it is, since nothing is known of its cost."""
    from tollway.serve.engines.rows.cost import Cost

    shape = msgspec.structs.replace(chosen.shape, budget=budget)
    return msgspec.structs.replace(chosen, lanes=lanes, threads=threads, shape=shape, cost=Cost())


def _rows(kind: str, features: Any) -> list[tuple[Any, int]]:
    if kind in ("minilm", "bilstm"):
        given = [{"text": text} for text in models.texts(300)]
    else:
        given = features.example(2) * 40
    encoded = features.encode(given)
    return [(one, features.length(one)) for one in encoded]


def _rate(plan: Any, built: dict[tuple[int, bool], list[Any]], rows: list[tuple[Any, int]], seconds: float) -> float:
    """Rows per second with 64 calls of one row waiting all the time."""
    from tollway.serve.engines.rows.lanes import Lanes

    lanes = Lanes(built[plan.threads, False], None, plan)
    done = 0

    async def load() -> None:
        start = time.monotonic() + _WARM_S
        end = start + seconds

        async def caller(first: int) -> None:
            nonlocal done
            mine = first * 7
            while (now := time.monotonic()) < end:
                encoded = rows[mine % len(rows)][0]
                await lanes.answer([{}], [encoded])
                done += start <= now and time.monotonic() < end
                mine += 1

        await asyncio.gather(*(caller(first) for first in range(BUSY)))

    uvloop.run(load())
    lanes.close()
    return done / seconds
