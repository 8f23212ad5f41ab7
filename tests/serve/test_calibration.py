"""A plan knows how much others held the cores while it was measured, and one of a restless moment is measured again in a quiet
one, beside lanes that go on answering. The neighbours and the waiting are made; model, lanes and counter are real."""

import asyncio
import contextlib
import fcntl
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.serve import tiny_models
from tollway import inference
from tollway.serve.engines.rows import Spec, again, calibration
from tollway.serve.engines.rows.calibration import Broken, Ready
from tollway.serve.engines.rows.counter import Counter
from tollway.serve.engines.rows.lanes import Lanes, Plan
from tollway.serve.engines.rows.neighbours import Neighbours
from tollway.serve.engines.rows.rack import Shape

LIMIT_S = 0.3
ASK = b'{"model": "mood", "input": ["a lovely film"]}'


class Machine:
    """Counters of the kernel and a clock, as a test sets them; its processors are those that this process may use."""

    def __init__(self, folder: Path, processors: int = 2) -> None:
        self.stat, self.now, self.own, self.others = folder / "stat", 0.0, 0.0, 0.0
        self.names = [f"cpu{number}" for number in range(processors)]
        self.write()

    def write(self) -> None:
        ticks = round((self.own + self.others) * os.sysconf("SC_CLK_TCK"))
        lines = [f"cpu  {ticks} 0 0 9999 0 0 0 0 0 0", f"{self.names[0]} {ticks // 2} 0 {ticks - ticks // 2} 77 5 0 0 0 0 0"]
        self.stat.write_text("\n".join(lines + [f"{name} 0 0 0 77 5 0 0 0 0 0" for name in self.names[1:]] + ["intr 5"]))

    def spend(self, seconds: float, *, own: float = 0.0, others: float = 0.0) -> None:
        self.now, self.own, self.others = self.now + seconds, self.own + own, self.others + others
        self.write()

    def neighbours(self, cores: int) -> Neighbours:
        return Neighbours(cores, self.stat, lambda: self.now, lambda: self.own)

    def restless(self, share: float) -> Callable[[int], Neighbours]:
        """Neighbours that take so much between two looks."""

        def looked(cores: int) -> Neighbours:
            made = self.neighbours(cores)
            self.spend(10, own=3, others=10 * share * cores)
            return made

        return looked


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    return Machine(tmp_path)


def test_others_are_what_the_machine_did_less_what_we_did(machine: Machine) -> None:
    seen = machine.neighbours(2)
    machine.spend(10, own=19)
    assert seen.share() == 0
    machine.spend(10, own=4, others=6)
    assert seen.share() == pytest.approx(0.3)
    machine.spend(10)
    assert seen.share() == 0, "since the last look"
    assert seen.share() == 0, "no time has passed"


def test_what_others_take_of_cores_that_we_may_not_use_disturbs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))
    machine = Machine(tmp_path, processors=16)
    seen = machine.neighbours(2)
    machine.spend(10, own=20, others=140)
    assert seen.share() == 0
    machine.spend(10, own=10, others=150)
    assert seen.share() == pytest.approx(0.5)


def test_where_nobody_counts_nobody_disturbs(tmp_path: Path) -> None:
    seen = Neighbours(2, tmp_path / "none", iter((0.0, 5.0)).__next__, lambda: 0.0)
    assert seen.share() == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shelf" / "mood" / "1"
    made.mkdir(parents=True)
    tiny_models.text_classifier(made)
    return made


def builder(folder: Path) -> calibration.Build:
    features = inference.load_features(folder)
    return lambda threads, spinning: inference.load(folder, "onnx", threads, spinning=spinning, features=features)


def kept(folder: Path) -> Plan:
    (plan,) = msgspec.json.decode((folder.parent / "1.rows.json").read_bytes(), type=calibration.Kept).plans.values()
    return plan


def test_a_plan_of_a_restless_moment_gives_way_to_one_of_a_quieter(folder: Path, machine: Machine) -> None:
    build, stop = builder(folder), threading.Event()

    def again_at(share: float) -> Plan:
        found = calibration.again(folder, "onnx", 2, build, stop, limit_s=LIMIT_S, neighbours=machine.restless(share))
        return found.plan

    first = calibration.ready(folder, "onnx", 2, build, limit_s=LIMIT_S, neighbours=machine.restless(0.4))
    assert first.plan.disturbed == kept(folder).disturbed == 0.4
    assert calibration.ready(folder, "onnx", 2, build).plan.disturbed == 0.4, "a start never waits for another try"
    assert again_at(0.6).disturbed == 0.6
    assert kept(folder).disturbed == 0.4, "no better: the first one stays"
    assert again_at(0.02).disturbed == kept(folder).disturbed == 0.02
    assert again_at(0.0).disturbed == 0.02, "another replica has found it in a quiet moment: it is read"


def test_a_word_to_stop_breaks_measuring_off_and_keeps_nothing(folder: Path) -> None:
    stop = threading.Event()
    built = 0

    def build(threads: int, spinning: bool) -> inference.Predictor:
        nonlocal built
        built += 1
        if built == 2:
            stop.set()  # a call comes while the second layout is being built
        return builder(folder)(threads, spinning)

    with pytest.raises(Broken):
        calibration.again(folder, "onnx", 2, build, stop, limit_s=600)
    assert not (folder.parent / "1.rows.json").exists()


@pytest.mark.parametrize("above", [0, 2])
def test_two_replicas_do_not_measure_again_at_the_same_time(folder: Path, above: int) -> None:
    """Neither two of one version, nor those of two models of a shelf: each would be what disturbs the other."""
    handle = os.open([folder, *folder.parents][above], os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(Broken):
            calibration.again(folder, "onnx", 2, builder(folder), threading.Event(), limit_s=600)
    finally:
        os.close(handle)


class Days:
    """A sleep for `watch`: each is one look; what happens meanwhile is the script's, and after it the day is over."""

    def __init__(self, script: list[Callable[[], Awaitable[Any]] | None]) -> None:
        self.script, self.looks = script, 0

    async def __call__(self, seconds: float) -> None:
        assert seconds == again.LOOK_S
        if self.looks == len(self.script):
            raise asyncio.CancelledError
        happens = self.script[self.looks]
        self.looks += 1
        if happens is not None:
            await happens()


class Measures:
    """What another try finds."""

    def __init__(self, predictor: inference.Predictor, *disturbed: float) -> None:
        self.predictor, self.disturbed, self.looks = predictor, list(disturbed), list[int]()
        self.days: Days | None = None
        self.waits_for_stop = False

    def __call__(self, stop: threading.Event) -> Ready:
        assert self.days is not None
        self.looks.append(self.days.looks)
        if self.waits_for_stop:
            assert stop.wait(60), "nobody said stop"
            raise Broken
        plan = Plan(lanes=1, shape=Shape(budget=64), disturbed=self.disturbed.pop(0))
        return Ready(plan, [self.predictor], None)


@pytest.fixture
def counter(folder: Path) -> Iterator[tuple[Counter, Measures]]:
    predictor = builder(folder)(1, False)
    spec = Spec(
        socket="", model="mood", folder=str(folder), format="onnx", kind="classification", input="text", cores=2,
        memory_bytes=0,
    )  # fmt: skip
    made = Counter(spec, Lanes([predictor], None, Plan(lanes=2, disturbed=0.5)))
    yield made, Measures(predictor)
    made.lanes.close()


def days(counter: Counter, measures: Measures, *script: Any, share: Callable[[], float] = lambda: 0.0) -> Days:
    async def call() -> None:
        answer = await counter("POST", "/v1/classify", ASK)
        assert b"scores" in answer

    made = measures.days = Days([call if one == "call" else one for one in script])

    async def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await again.watch(counter, measures, share, made)
        await call()  # whatever was tried, it answers

    asyncio.run(run())
    return made


def test_when_nobody_called_for_a_while_it_is_measured_again(counter: tuple[Counter, Measures]) -> None:
    desk, measures = counter
    measures.disturbed = [0.01]
    days(desk, measures, None, "call", None, None, None, None, None)
    assert measures.looks == [5], "three looks after the call"
    assert desk.lanes.plan.disturbed == 0.01 and desk.lanes.plan.lanes == 1
    assert desk.lanes.figures.rows == 2, "what was counted before goes on being counted"


def test_while_the_machine_is_restless_nothing_is_tried(counter: tuple[Counter, Measures]) -> None:
    desk, measures = counter
    days(desk, measures, *[None] * 20, share=lambda: 0.3)
    assert measures.looks == [] and desk.lanes.plan.disturbed == 0.5


def test_what_was_found_no_quieter_is_not_taken_and_the_next_try_waits_longer(
    counter: tuple[Counter, Measures],
) -> None:
    desk, measures = counter
    measures.disturbed = [0.6, 0.5, 0.2, 0.05]
    days(desk, measures, *[None] * 100)
    assert measures.looks == [3, 9, 21, 45], "the third is better, though not good; the fourth ends it"
    assert desk.lanes.plan.disturbed == 0.05


def test_a_call_that_comes_while_it_measures_is_answered_and_ends_the_measuring(
    counter: tuple[Counter, Measures],
) -> None:
    desk, measures = counter
    measures.waits_for_stop = True

    async def calls() -> None:
        while not measures.looks:
            await asyncio.sleep(0.01)
        assert b"scores" in await desk("POST", "/v1/classify", ASK)

    async def run() -> None:
        measures.days = Days([None, None, None])
        caller = asyncio.ensure_future(calls())
        with contextlib.suppress(asyncio.CancelledError):
            await again.watch(desk, measures, lambda: 0.0, measures.days)
        await caller

    asyncio.run(run())
    assert measures.looks == [3] and desk.lanes.plan.disturbed == 0.5


class Held:
    """A model that does not come back until it is let go."""

    def __init__(self, predictor: inference.Predictor) -> None:
        self.features, self._inner, self.let_go = predictor.features, predictor, threading.Event()

    def run(self, arrays: Any) -> Any:
        assert self.let_go.wait(120)
        return self._inner.run(arrays)


def test_a_lane_that_computes_for_a_caller_who_left_is_not_taken_out_of_sight(
    counter: tuple[Counter, Measures],
) -> None:
    """Whoever looks after the replica has to see that it does not come back."""
    desk, measures = counter
    held = Held(measures.predictor)
    desk.lanes.close()
    desk.lanes = Lanes([held], None, Plan(lanes=1, disturbed=0.5))  # type: ignore[list-item]

    async def run() -> None:
        left = asyncio.ensure_future(desk("POST", "/v1/classify", ASK))
        while not desk.running or desk.lanes.at_work()[0] < 1.5:
            await asyncio.sleep(0.05)
        left.cancel()
        measures.days = Days([None] * 20)
        with contextlib.suppress(asyncio.CancelledError):
            await again.watch(desk, measures, lambda: 0.0, measures.days)

    try:
        asyncio.run(run())
    finally:
        held.let_go.set()
    assert measures.looks == []


def test_a_plan_of_a_quiet_moment_is_not_looked_at_again(counter: tuple[Counter, Measures]) -> None:
    desk, measures = counter
    desk.lanes.plan = msgspec.structs.replace(desk.lanes.plan, disturbed=0.05)
    assert days(desk, measures, *[None] * 5).looks == 0
