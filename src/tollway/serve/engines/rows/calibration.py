"""Calibration: how a model runs fastest on this machine, measured when it is loaded for the first time.

    plan = calibrated(folder, ...)      # seconds; from then on read from `<version>.rows.json` beside the package

Measured is the model itself on rows of several lengths, with all lanes at work as under load: lanes of one thread each
against fewer wider ones, what a batch costs by rows and length, what it costs its lane besides, and whether a lone row is
faster on all cores. What is compared is measured in turns, so that what disturbs disturbs both. What follows for the size of
batches is `cost.py`'s business, and goes on while serving. How much others held the cores meanwhile is noted with the plan
(`neighbours.py`); one that was found in a restless moment is measured again in a quiet one (`again.py`).
"""

import asyncio
import contextlib
import fcntl
import hashlib
import itertools
import os
import statistics
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from tollway.inference import Encoded, Features, Predictor
from tollway.serve.engines.rows.cost import Cost, Point
from tollway.serve.engines.rows.lanes import Lanes, Plan
from tollway.serve.engines.rows.lone import Lone
from tollway.serve.engines.rows.neighbours import DISTURBED, Neighbours
from tollway.serve.engines.rows.rack import Row, Shape

VERSION: Final = 5  # of what is measured: raise it and all machines measure again
LIMIT_S: Final = 12.0
_LENGTHS: Final = (8, 32, 128, 384)
_ROWS: Final = (1, 4, 16, 64)
_TOKENS_MAX: Final = 1100
_EACH_S: Final = 0.02  # a point is measured for as long, and twice at least
_GAIN: Final = 1.05  # what fewer wider lanes, or threads that spin, must bring
_PAIRS: Final = 3  # of measurements, before one plan is said to be faster than another
_ROUNDS: Final = 4  # of the ways of a lone row, the fastest of each: it is about a machine that has nothing else to do
_STRANGE: Final = 1.25
_STREAM_ROWS: Final = 64
_STREAM_LEAST_S, _STREAM_MOST_S = 0.12, 0.8
_STOPS_WITHIN_S: Final = 0.01
_LONGEST_WORDS: Final = 400

Build = Callable[[int, bool], Predictor]
"""(threads, spinning) -> the model on an engine of its own."""
Built = dict[tuple[int, bool], list[Predictor]]
Rows = dict[int, tuple[Row, Encoded]]
"""A row by its length."""


class Kept(msgspec.Struct):
    """What lies beside a package: plans by machine."""

    plans: dict[str, Plan] = {}


class Ready(msgspec.Struct):
    """A plan and the predictors for it: one for each lane (or one that all share), and the wide one."""

    plan: Plan
    lanes: list[Predictor]
    wide: Predictor | None


class Broken(Exception):
    """Measuring was broken off: there is something better to do."""


class Until:
    """Until when measuring may go on: a time (monotonic), or a word to stop."""

    def __init__(self, end: float, stop: threading.Event | None = None) -> None:
        self._end, self._stop = end, stop or threading.Event()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def allows(self, seconds: float = 0.0) -> bool:
        """Whether there is time for what takes so long. Raises Broken after a word to stop."""
        if self.stopped:
            raise Broken
        return time.monotonic() + seconds < self._end


def ready(
    folder: Path,
    format: str,
    cores: int,
    build: Build,
    *,
    limit_s: float = LIMIT_S,
    neighbours: Callable[[int], Neighbours] = Neighbours,
) -> Ready:
    """The model loaded as it runs best here: as found before, else as found now."""
    machine = fingerprint(folder, format, cores)
    plan = _kept(folder).plans.get(machine)
    if plan is not None:  # nobody waits for a replica that measures again
        return _loaded(plan, build, {})
    with _alone(folder):
        plan = _kept(folder).plans.get(machine)
        if plan is not None:
            return _loaded(plan, build, {})
        built: Built = {}
        plan = _found(build, cores, Until(time.monotonic() + limit_s), built, neighbours)
        _keep(folder, machine, plan)
    return _loaded(plan, build, built)


def again(
    folder: Path,
    format: str,
    cores: int,
    build: Build,
    stop: threading.Event,
    *,
    limit_s: float = LIMIT_S,
    neighbours: Callable[[int], Neighbours] = Neighbours,
) -> Ready:
    """What is found now, unless another replica has found a plan in a quiet moment; kept when it was disturbed less than what
    is kept. Raises Broken once `stop` is set, and while another replica is at it, be it of another model of this shelf: they
    would disturb each other, and as they began to wait together they would do so again and again."""
    machine = fingerprint(folder, format, cores)
    with _alone(folder.parent.parent, wait=False), _alone(folder, wait=False):
        before = _kept(folder).plans.get(machine)
        if before is not None and before.disturbed <= DISTURBED:
            return _loaded(before, build, {})
        built: Built = {}
        plan = _found(build, cores, Until(time.monotonic() + limit_s, stop), built, neighbours)
        if before is None or plan.disturbed < before.disturbed:
            _keep(folder, machine, plan)
    return _loaded(plan, build, built)


def _found(build: Build, cores: int, until: Until, built: Built, neighbours: Callable[[int], Neighbours]) -> Plan:
    share = neighbours(cores).share
    plan = measured(build, cores, until, built)
    return msgspec.structs.replace(plan, disturbed=round(share(), 3))


def measured(build: Build, cores: int, until: Until, built: Built) -> Plan:
    """Try what there is to try while there is time and say what was best."""
    single = _built(build, 1, False, cores, built)
    rows = _rows_by_length(single[0].features)
    plan = _shaped(Plan(lanes=cores), single, rows, until)
    for threads, lanes in _layouts(cores):
        if not until.allows():
            break
        predictors = _built(build, threads, False, lanes, built)
        other = msgspec.structs.replace(plan, lanes=lanes, threads=threads)
        if _faster(other, plan, built, rows, until):
            plan = _shaped(other, predictors, rows, until)
    lone, spinning = Lone(), False
    if plan.lanes > 1:
        lone, spinning = _wide(build, plan, cores, rows, until, built)
    return msgspec.structs.replace(plan, lone=lone, wide_spins=spinning)


def _layouts(cores: int) -> list[tuple[int, int]]:
    """(threads, lanes) to try besides one lane of one thread for each core: fewer wider ones; a single one, for models so
    small that lanes would only wait for each other."""
    return [
        (threads, cores // threads)
        for threads in sorted({2, 4, cores})
        if 1 < threads <= cores and cores % threads == 0
    ] + ([(1, 1)] if cores > 1 else [])


def _shaped(plan: Plan, predictors: Sequence[Predictor], rows: Rows, until: Until) -> Plan:
    """The plan with what its batches cost, and the shape of batches that follows."""
    cost = _cost(predictors, plan.lanes, rows, until)
    plan = msgspec.structs.replace(plan, cost=cost)
    if until.allows(2 * _stream_s(plan, rows)):
        cost.turn = _turn(plan, predictors, rows, until)
    return msgspec.structs.replace(plan, shape=cost.shape(_usual(rows), plan.shape))


def fingerprint(folder: Path, format: str, cores: int, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Of the machine, as far as speed depends on it, of the engine, and of what is in the package."""
    import importlib.metadata as metadata

    names = ("model name", "cache size", "Hardware")
    lines: set[str] = set()
    with contextlib.suppress(OSError):
        lines = {line.strip() for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith(names)}
    engine = {"onnx": "onnxruntime", "openvino": "openvino", "litert": "ai-edge-litert", "pt2": "torch"}.get(
        format.split("-")[0], ""
    )
    with contextlib.suppress(metadata.PackageNotFoundError):
        engine += " " + metadata.version(engine)
    manifest = folder / "manifest.toml"
    package = hashlib.sha256(manifest.read_bytes() if manifest.is_file() else b"").hexdigest()
    told = "\n".join([*sorted(lines), package, f"{os.uname().machine} {cores} {engine} {format} {VERSION}"])
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
def _alone(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Two replicas of one version do not measure at the same time: the second reads what the first found, or is told."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Broken from None
        yield
    finally:
        os.close(handle)


def _place(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.rows.json"


def _kept(folder: Path) -> Kept:
    try:
        return msgspec.json.decode(_place(folder).read_bytes(), type=Kept)
    except (OSError, msgspec.MsgspecError):
        return Kept()


def _keep(folder: Path, machine: str, plan: Plan) -> None:
    kept, place = _kept(folder), _place(folder)
    kept.plans[machine] = plan
    with contextlib.suppress(OSError):  # a shelf that is read-only: measured each time
        aside = place.with_name(f"{place.name}.{os.getpid()}")
        aside.write_bytes(msgspec.json.encode(kept))
        aside.replace(place)


# -- measuring ----------------------------------------------------------------------------------------------------------


def _rows_by_length(features: Features) -> Rows:
    """A row of each length, as far as the features know lengths: their example, its texts repeated."""
    example = features.example(1)[0]
    plain = features.encode([example])[0]
    found: Rows = {max(1, features.length(plain)): (example, plain)}
    texts = [
        name for name, value in example.items() if isinstance(value, str) and features.fields().get(name) == "text"
    ]
    if not texts:
        return found
    for wanted in _LENGTHS:
        best: tuple[int, Row, Encoded] | None = None
        for times in range(1, _LONGEST_WORDS):
            words = {name: " ".join((f"{example[name]} " * times).split()[: max(1, wanted - 2)]) for name in texts}
            made = features.encode([example | words])[0]
            length = max(1, features.length(made))
            if best is not None and length <= best[0]:
                break  # as long as it gets
            best = (length, example | words, made)
            if length >= wanted - 2:
                break
        if best is not None:
            found[best[0]] = best[1:]
    return dict(sorted(found.items()))


def _points(lanes: Sequence[Predictor], count: int, rows: Rows, until: Until) -> Iterator[Point]:
    """What batches take while every lane runs one of the same size; the small ones first."""
    sizes = sorted(
        ((n, length) for length in rows for n in _ROWS if n == 1 or n * length <= _TOKENS_MAX),
        key=lambda size: size[0] * size[1],
    )
    for n, length in sizes:
        if not until.allows():
            return
        yield n, length, _timed(lanes, count, [rows[length][1]] * n, until)


def _cost(lanes: Sequence[Predictor], count: int, rows: Rows, until: Until) -> Cost:
    """The fitted cost. What does not fit is measured once more: something may have disturbed it."""
    points = list(_points(lanes, count, rows, until))
    cost = Cost.fitted(points)
    for number, (n, length, seconds) in enumerate(points):
        if seconds > _STRANGE * cost.plain(n, length) and until.allows():
            points[number] = (n, length, min(seconds, _timed(lanes, count, [rows[length][1]] * n, until)))
    return Cost.fitted(points)


def _stream_s(plan: Plan, rows: Rows) -> float:
    """Long enough for several batches of every lane."""
    return min(_STREAM_MOST_S, max(_STREAM_LEAST_S, _STREAM_ROWS * plan.cost.seconds(1, _middle(rows)) / plan.lanes))


def _stream(
    plan: Plan, predictors: Sequence[Predictor], rows: Rows, seconds: float, until: Until
) -> tuple[float, float]:
    """(rows per second, rows of a batch) of real lanes beside an event loop, as they serve: calls of one row waiting all the
    time, in lengths as texts have them."""
    lanes = Lanes(predictors, None, msgspec.structs.replace(plan, lone=Lone(), cost=Cost()))
    known = sorted(rows)
    mix = itertools.cycle([rows[known[min(bisect_left(known, length), len(known) - 1)]] for length in _usual(rows)])
    done = 0

    async def caller() -> None:
        nonlocal done
        while True:
            row, encoded = next(mix)
            await lanes.answer([row], [encoded])
            done += 1

    async def stopped() -> None:
        while not until.stopped:  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(_STOPS_WITHIN_S)

    async def load() -> None:
        callers = [asyncio.ensure_future(caller()) for _ in range(_STREAM_ROWS)]
        callers.append(asyncio.ensure_future(stopped()))
        await asyncio.wait(callers, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for one in callers:
            one.cancel()
        for ended in await asyncio.gather(*callers, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    broken: list[Exception] = []

    def work() -> None:  # in a thread of its own: the one that calibrates may have a loop that runs
        try:
            uvloop.run(load())
        except Exception as error:  # noqa: BLE001 - raised again below, in the thread that asked
            broken.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    lanes.close()
    if broken:
        raise broken[0]
    until.allows()
    return done / seconds, lanes.figures.rows / max(1, lanes.figures.batches)


def _faster(other: Plan, plan: Plan, built: Built, rows: Rows, until: Until) -> bool:
    """Whether the other plan serves more, by enough to be no accident."""
    gains: list[float] = []
    seconds = _stream_s(plan, rows)
    while len(gains) < _PAIRS and until.allows(2 * seconds):
        rates = [_stream(one, built[one.threads, False], rows, seconds, until)[0] for one in (plan, other)]
        gains.append(rates[1] / max(rates[0], 1e-9))
        if gains[0] < _GAIN:
            return False  # most are far behind: seen at once
    return len(gains) == _PAIRS and statistics.median(gains) > _GAIN


def _turn(plan: Plan, predictors: Sequence[Predictor], rows: Rows, until: Until) -> float:
    """Seconds of a lane for a batch besides the model: what is left of them in batches of one row and of many, less what
    grows with the rows."""
    length = min(rows, key=lambda known: abs(known - _middle(rows)))
    left: list[tuple[float, float]] = []
    for most in (_ROWS[0], _ROWS[2]):
        sized = msgspec.structs.replace(plan, shape=Shape(budget=most * length, rows=most))
        rate, each = _stream(sized, predictors, {length: rows[length]}, _stream_s(plan, rows), until)
        if rate <= 0:
            return 0.0
        left.append((each, plan.lanes * each / rate - plan.cost.seconds(round(each), length)))
    (few, small), (many, large) = left
    return max(0.0, small - few * max(0.0, large - small) / (many - few)) if many > few else 0.0


def _wide(build: Build, plan: Plan, cores: int, rows: Rows, until: Until, built: Built) -> tuple[Lone, bool]:
    """What a lone row takes in one lane and on all cores, and whether the threads of the wide one had better spin."""
    ways = {
        "narrow": built[plan.threads, False],
        "waiting": _built(build, cores, False, 1, built),
        "spinning": _built(build, cores, True, 1, built),
    }
    found: dict[str, dict[int, float]] = {way: {} for way in ways}
    for _ in range(_ROUNDS):
        for length, one in rows.items():
            for way, predictors in ways.items():
                if until.allows():
                    took = _timed(predictors, 1, [one[1]], until, _EACH_S / 2)
                    found[way][length] = min(took, found[way].get(length, took))
    known = sorted(set.intersection(*(set(times) for times in found.values())))
    if not known:
        return Lone(), False
    usual = [known[min(bisect_left(known, length), len(known) - 1)] for length in _usual(rows)]
    spins = _GAIN * sum(found["spinning"][one] for one in usual) < sum(found["waiting"][one] for one in usual)
    wide = found["spinning" if spins else "waiting"]
    return Lone(
        narrow={length.bit_length(): found["narrow"][length] for length in known},
        wide={length.bit_length(): wide[length] for length in known},
    ), spins


def _timed(
    lanes: Sequence[Predictor], count: int, encoded: list[Encoded], until: Until, each_s: float = _EACH_S
) -> float:
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
            while (runs < 2 or spent < each_s) and not until.stopped:
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
    until.allows()
    return sum(best) / count


def _middle(rows: Rows) -> int:
    return sorted(_usual(rows))[len(_usual(rows)) // 2]


def _usual(rows: Rows) -> list[int]:
    """Lengths as texts have them until it is seen what comes: many short ones, few long."""
    import numpy as np

    longest = max(rows)
    if longest == 1 or len(rows) == 1:
        return [longest] * 64
    drawn = np.random.default_rng(1).lognormal(3.0, 1.0, 256)
    return [int(one) for one in np.clip(drawn, 1, longest)]
