"""Calibration: how a model runs fastest on this machine, measured when it is loaded for the first time.

    plan = calibrated(folder, ...)      # seconds; from then on read from `<version>.rows.json` beside the package

Measured is the model itself on rows of several lengths, with all lanes at work as under load: lanes of one thread each
against fewer wider ones, what a batch costs by rows and length, and whether a lone row is faster on all cores. What follows
for the size of batches is `cost.py`'s business, and goes on while serving.
"""

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tollway.inference import Encoded, Features, Predictor
from tollway.serve.engines.rows.cost import Cost, Point
from tollway.serve.engines.rows.lanes import Plan
from tollway.serve.engines.rows.lone import Lone

VERSION: Final = 2  # of what is measured: raise it and all machines measure again
LIMIT_S: Final = 10.0
_LENGTHS: Final = (8, 32, 128, 384)
_ROWS: Final = (1, 4, 16, 64)
_TOKENS_MAX: Final = 1100
_EACH_S: Final = 0.02  # a point is measured for as long, and twice at least
_GAIN: Final = 1.1  # what fewer wider lanes, or a wide path, must bring
_STRANGE: Final = 1.25
_LONGEST_WORDS: Final = 400

Build = Callable[[int, bool], Predictor]
"""(threads, spinning) -> the model on an engine of its own."""
Built = dict[tuple[int, bool], list[Predictor]]


class Kept(msgspec.Struct):
    """What lies beside a package: plans by machine."""

    plans: dict[str, Plan] = {}


class Ready(msgspec.Struct):
    """A plan and the predictors for it: one for each lane (or one that all share), and the wide one."""

    plan: Plan
    lanes: list[Predictor]
    wide: Predictor | None


def ready(folder: Path, format: str, cores: int, build: Build, *, limit_s: float = LIMIT_S) -> Ready:
    """The model loaded as it runs best here: as found before, else as found now."""
    place = folder.parent / f"{folder.name}.rows.json"
    machine = fingerprint(format, cores)
    with _alone(folder):
        plan = _kept(place).plans.get(machine)
        if plan is not None:
            return _loaded(plan, build, {})
        began = time.monotonic()
        built: Built = {}
        plan = measured(build, cores, began + limit_s, built)
        kept = _kept(place)
        kept.plans[machine] = plan
        with contextlib.suppress(OSError):  # a shelf that is read-only: measured each time
            aside = place.with_name(f"{place.name}.{os.getpid()}")
            aside.write_bytes(msgspec.json.encode(kept))
            aside.replace(place)
    return _loaded(plan, build, built)


def measured(build: Build, cores: int, end: float, built: Built) -> Plan:
    """Try what there is to try until `end` (monotonic) and say what was best."""
    single = _built(build, 1, False, cores, built)
    rows = _rows_by_length(single[0].features)
    plan = Plan(lanes=cores, cost=_cost(single, cores, rows, end))
    rate = _rate(single, cores, rows)
    for threads in sorted({2, 4, cores}):
        if threads > cores or cores % threads or time.monotonic() > end:
            continue
        count = cores // threads
        lanes = _built(build, threads, False, count, built)
        found = _rate(lanes, count, rows)
        if found > _GAIN * rate and _rate(lanes, count, rows) > _GAIN * _rate(
            single, cores, rows
        ):  # twice: it is for long
            cost = _cost(lanes, count, rows, end)
            plan, rate = Plan(lanes=count, threads=threads, cost=cost), found
    lone, spinning = Lone(), False
    if plan.lanes > 1:
        lone, spinning = _wide(build, plan, cores, rows, end, built)
    shape = plan.cost.shape(_usual(rows), plan.shape)
    return msgspec.structs.replace(plan, shape=shape, lone=lone, wide_spins=spinning)


def fingerprint(format: str, cores: int, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Of the machine, as far as speed depends on it, and of the engine."""
    import importlib.metadata as metadata

    names = ("model name", "cache size", "Hardware")
    lines: set[str] = set()
    with contextlib.suppress(OSError):
        lines = {line.strip() for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith(names)}
    engine = {"onnx": "onnxruntime", "openvino": "openvino", "litert": "ai-edge-litert"}.get(format.split("-")[0], "")
    with contextlib.suppress(metadata.PackageNotFoundError):
        engine += " " + metadata.version(engine)
    told = "\n".join([*sorted(lines), f"{os.uname().machine} {cores} {engine} {format} {VERSION}"])
    return hashlib.sha256(told.encode()).hexdigest()[:24]


# -- loading ------------------------------------------------------------------------------------------------------------


def _loaded(plan: Plan, build: Build, built: Built) -> Ready:
    lanes = _built(build, plan.threads, False, plan.lanes, built)
    wide = None
    if plan.lanes > 1:
        wide = _built(build, plan.lanes * plan.threads, plan.wide_spins, 1, built)[0]
    return Ready(plan, lanes, wide)


def _built(build: Build, threads: int, spinning: bool, count: int, built: Built) -> list[Predictor]:
    """Predictors: one is enough where several threads may run it at the same time."""
    made = built.setdefault((threads, spinning), [])
    if not made:
        made.append(build(threads, spinning))
    while len(made) < count and not made[0].shared:
        made.append(build(threads, spinning))
    return made


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two replicas of one version do not measure at the same time: the second reads what the first found."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _kept(place: Path) -> Kept:
    try:
        return msgspec.json.decode(place.read_bytes(), type=Kept)
    except (OSError, msgspec.MsgspecError):
        return Kept()


# -- measuring ----------------------------------------------------------------------------------------------------------


def _rows_by_length(features: Features) -> dict[int, Encoded]:
    """A row of each length, as far as the features know lengths: their example, its texts repeated."""
    example = features.example(1)[0]
    plain = features.encode([example])[0]
    found = {max(1, features.length(plain)): plain}
    texts = [
        name for name, value in example.items() if isinstance(value, str) and features.fields().get(name) == "text"
    ]
    if not texts:
        return found
    for wanted in _LENGTHS:
        best: tuple[int, Encoded] | None = None
        for times in range(1, _LONGEST_WORDS):
            words = {name: " ".join((f"{example[name]} " * times).split()[: max(1, wanted - 2)]) for name in texts}
            made = features.encode([example | words])[0]
            length = max(1, features.length(made))
            if best is not None and length <= best[0]:
                break  # as long as it gets
            best = (length, made)
            if length >= wanted - 2:
                break
        if best is not None:
            found[best[0]] = best[1]
    return dict(sorted(found.items()))


def _points(lanes: Sequence[Predictor], count: int, rows: dict[int, Encoded], end: float) -> Iterator[Point]:
    """What batches take while every lane runs one of the same size; the small ones first."""
    sizes = sorted(
        ((n, length) for length in rows for n in _ROWS if n == 1 or n * length <= _TOKENS_MAX),
        key=lambda size: size[0] * size[1],
    )
    for n, length in sizes:
        if time.monotonic() > end:
            return
        yield n, length, _timed(lanes, count, [rows[length]] * n)


def _cost(lanes: Sequence[Predictor], count: int, rows: dict[int, Encoded], end: float) -> Cost:
    """The fitted cost. What does not fit is measured once more: something may have disturbed it."""
    points = list(_points(lanes, count, rows, end))
    cost = Cost.fitted(points)
    for number, (n, length, seconds) in enumerate(points):
        if seconds > _STRANGE * cost.plain(n, length) and time.monotonic() < end:
            points[number] = (n, length, min(seconds, _timed(lanes, count, [rows[length]] * n)))
    return Cost.fitted(points)


def _rate(lanes: Sequence[Predictor], count: int, rows: dict[int, Encoded]) -> float:
    """Rows per second of all lanes together, on a few batches."""
    lengths = list(rows)
    middle = rows[lengths[len(lengths) // 2]]
    spent = _timed(lanes, count, [middle]) + _timed(lanes, count, [middle] * 8) / 8
    return count / max(spent, 1e-9)


def _wide(
    build: Build, plan: Plan, cores: int, rows: dict[int, Encoded], end: float, built: Built
) -> tuple[Lone, bool]:
    """What a lone row takes in one lane and on all cores, and whether the threads of the wide one had better spin."""
    lane, lone = built[plan.threads, False], Lone()
    found: dict[bool, dict[int, float]] = {}
    for spinning in (False, True):
        wide = _built(build, cores, spinning, 1, built)
        found[spinning] = {}
        for length, one in rows.items():
            if time.monotonic() < end:
                found[spinning][length] = _timed(wide, 1, [one])
    both = set(found[False]) & set(found[True])
    spins = sum(found[True][length] for length in both) * _GAIN < sum(found[False][length] for length in both)
    for length, seconds in found[spins].items():
        lone.wide[length.bit_length()] = seconds
        lone.narrow[length.bit_length()] = _timed(lane, 1, [rows[length]])
    return lone, spins


def _timed(lanes: Sequence[Predictor], count: int, encoded: list[Encoded]) -> float:
    """Seconds for a batch when every lane runs it at the same time; the fastest, for what disturbs only ever slows down."""
    best = [float("inf")] * count
    together = threading.Barrier(count)
    broken: list[Exception] = []

    def work(number: int) -> None:
        predictor = lanes[number % len(lanes)]
        features, spent, runs = predictor.features, 0.0, 0
        try:
            features.generate(predictor.run, features.collate(encoded))
            together.wait(60)
            while runs < 2 or spent < _EACH_S:
                began = time.perf_counter()
                features.generate(predictor.run, features.collate(encoded))
                took = time.perf_counter() - began
                best[number] = min(best[number], took)
                spent, runs = spent + took, runs + 1
        except Exception as error:  # noqa: BLE001 - raised again below, in the thread that asked
            broken.append(error)
            together.abort()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, count)]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()
    if broken:
        raise broken[0]
    return sum(best) / count


def _usual(rows: dict[int, Encoded]) -> list[int]:
    """Lengths as texts have them until it is seen what comes: many short ones, few long."""
    import numpy as np

    longest = max(rows)
    if longest == 1 or len(rows) == 1:
        return [longest] * 64
    drawn = np.random.default_rng(1).lognormal(3.0, 1.0, 256)
    return [int(one) for one in np.clip(drawn, 1, longest)]
