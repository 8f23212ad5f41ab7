"""Lanes with real engines: answers as alone, whatever shares the batch; fair under a flood; what is left costs nothing; the
plan is measured, kept, and right."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serve import tiny_models
from tollway import inference
from tollway.kit.errors import BadRequest, Unavailable
from tollway.serve.engines.rows import calibration, explaining
from tollway.serve.engines.rows.cost import Cost
from tollway.serve.engines.rows.lanes import Lanes, Plan, Recalled
from tollway.serve.engines.rows.lone import Lone
from tollway.serve.engines.rows.rack import Shape, Turn

WORDS = " ".join(tiny_models.GOOD + tiny_models.BAD).split()


def quantised(folder: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(folder / "model.onnx", folder / "model.int8.onnx")


@pytest.fixture(scope="module", params=["onnx", "onnx-int8"])
def predictor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> inference.Predictor:
    folder = tmp_path_factory.mktemp("mood")
    tiny_models.text_classifier(folder)
    if request.param == "onnx-int8":
        quantised(folder)
    return inference.load(folder, request.param)


@pytest.fixture(scope="module")
def lanes(predictor: inference.Predictor) -> Iterator[Lanes]:
    made = Lanes([predictor], predictor, Plan(lanes=2, shape=Shape(budget=128)))
    yield made
    made.close()


def test_a_model_that_costs_next_to_nothing_asks_for_few_calls_and_an_encoder_for_many() -> None:
    def asked(row_s: float, lanes: int = 2) -> tuple[int, int]:
        plan = Plan(lanes=lanes, cost=Cost(b=row_s))
        return plan.slots, plan.slots_sorted

    assert asked(0.000_02) == (32, 20)
    assert asked(0.000_2) == (64, 20), "larger batches gain something, but not while one is to have more than another"
    assert asked(0.005) == (64, 64), "its rows wait in the lanes' rack, and are taken by weight there"
    assert asked(0.000_02, lanes=32) == (64, 64), "a lane wants one batch under way and one to come"
    assert asked(0.0) == (64, 64), "nothing was measured"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(
        st.tuples(st.lists(st.integers(1, 80), min_size=1, max_size=12), st.integers(0, 3), st.integers(0, 3)),
        min_size=1,
        max_size=25,
    ),
    seed=st.integers(0, 2**16),
)
def test_answers_are_as_alone(
    calls: list[tuple[list[int], int, int]], seed: int, lanes: Lanes, predictor: inference.Predictor
) -> None:
    """Calls of random rows of random lengths, of several callers and tiers, all at once: each gets its own answers."""
    chance = random.Random(seed)
    asked = [
        ([{"text": " ".join(chance.choices(WORDS, k=length))} for length in lengths], Turn(who, tier=tier))
        for lengths, who, tier in calls
    ]

    async def together() -> list[Any]:
        return await asyncio.gather(*(lanes.answer(rows, lanes.features.encode(rows), turn) for rows, turn in asked))

    for (rows, _), answers in zip(asked, asyncio.run(together()), strict=True):
        alone = [predictor.predict([row])[0] for row in rows]
        wanted = [one["scores"]["good"] for one in alone]  # not the label: it may hang on the last digit
        assert [one["scores"]["good"] for one in answers] == pytest.approx(wanted, abs=2e-6)


class Slow:
    """A model that takes a millisecond for ten tokens and notes what it computes. Poisoned rows fail."""

    def __init__(self) -> None:
        self.features = Lengths()
        self.shared = True
        self.computed: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.begun = 0

    def run(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.begun += 1
        self.go.wait(60)
        lengths = arrays["lengths"]
        if (lengths == 13).any():
            raise BadRequest("thirteen")
        time.sleep(len(lengths) * int(lengths.max()) / 10_000)
        self.computed.extend(lengths.tolist())
        return {"lengths": lengths}


class Lengths:
    """Rows are their lengths."""

    def encode(self, rows: Sequence[Any]) -> list[dict[str, np.ndarray]]:
        return [{"length": np.asarray(row["length"])} for row in rows]

    def length(self, encoded: Any) -> int:
        return int(encoded["length"])

    def collate(self, encoded: Sequence[Any]) -> dict[str, np.ndarray]:
        return {"lengths": np.asarray([int(one["length"]) for one in encoded])}

    def generate(self, run: Any, arrays: Any) -> Any:
        return run(arrays)

    def decode(self, outputs: Any, rows: Any, encoded: Any) -> list[dict[str, Any]]:
        return [{"length": int(one)} for one in outputs["lengths"]]


def slow_lanes(lanes: int = 1) -> tuple[Slow, Lanes]:
    model = Slow()
    return model, Lanes([model], None, Plan(lanes=lanes, shape=Shape(budget=100)))  # type: ignore[list-item]


async def ask(lanes: Lanes, lengths: list[int], turn: Turn | None = None, call: str = "") -> list[int]:
    rows = [{"length": length} for length in lengths]
    answers = await lanes.answer(rows, lanes.features.encode(rows), turn or Turn(), call)
    return [one["length"] for one in answers]


def test_weights_hold_in_the_real_lanes() -> None:
    _, lanes = slow_lanes(2)
    served: Counter[int] = Counter()

    async def load() -> None:
        async def caller(who: int, seed: int) -> None:
            chance = random.Random(seed)
            while served.total() < 60_000:  # tokens
                lengths = [chance.randint(14, 40)]
                await ask(lanes, lengths, Turn(who, float(who)))
                served[who] += sum(lengths) * (served.total() < 60_000)

        # so many that some of each always wait, also while this thread is kept from asking again
        await asyncio.gather(*(caller(who, seed) for who in (1, 2, 4) for seed in range(80)))

    asyncio.run(load())
    lanes.close()
    for who in (1, 2, 4):
        assert served[who] / served.total() == pytest.approx(who / 7, rel=0.2)


def test_who_leaves_or_is_late_costs_nothing() -> None:
    model, lanes = slow_lanes()

    async def load() -> None:
        model.go.clear()
        first = asyncio.ensure_future(ask(lanes, [50]))
        while not model.begun:
            await asyncio.sleep(0.01)
        leaver = asyncio.ensure_future(ask(lanes, [21] * 30))
        late = asyncio.ensure_future(ask(lanes, [22] * 30, Turn(left_ms=30)))
        named = asyncio.ensure_future(ask(lanes, [23] * 30, call="c1"))
        good = asyncio.ensure_future(ask(lanes, [24] * 3))
        await asyncio.sleep(0.1)
        leaver.cancel()
        assert lanes.recall("c1") and not lanes.recall("c2")
        model.go.set()
        assert (await first, await good) == ([50], [24] * 3)
        with pytest.raises(Unavailable) as refused:
            await late
        assert refused.value.code == "late"
        with pytest.raises(Recalled) as recalled:
            await named
        assert recalled.value.done == []

    asyncio.run(load())
    lanes.close()
    assert sorted(model.computed) == [24, 24, 24, 50]
    assert (lanes.figures.left_rows, lanes.figures.late_rows, lanes.waiting) == (60, 30, 0)


def test_who_leaves_in_the_middle_is_told_what_was_done() -> None:
    model, lanes = slow_lanes()

    async def load() -> list[int]:
        model.go.clear()
        call = asyncio.ensure_future(ask(lanes, [60, 61, 62], call="c"))
        while not model.begun:
            await asyncio.sleep(0.01)
        lanes.recall("c")
        model.go.set()
        with pytest.raises(Recalled) as recalled:
            await call
        return recalled.value.done

    done = asyncio.run(load())
    lanes.close()
    assert len(done) == len(model.computed) == 1


def test_a_row_that_fails_takes_nobody_along() -> None:
    model, lanes = slow_lanes()

    async def load() -> list[Any]:
        model.go.clear()
        calls = [asyncio.ensure_future(ask(lanes, lengths)) for lengths in ([40], [12, 12], [13, 12], [14])]
        await asyncio.sleep(0.02)
        model.go.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(load())
    lanes.close()
    assert answers[:2] == [[40], [12, 12]] and answers[3] == [14]
    assert isinstance(answers[2], BadRequest)
    assert lanes.waiting == 0


def test_a_plan_is_measured_once_and_then_read(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    folder.mkdir()
    tiny_models.text_classifier(folder)
    built: list[tuple[int, bool]] = []

    def build(threads: int, spinning: bool) -> inference.Predictor:
        built.append((threads, spinning))
        return inference.load(folder, "onnx", threads, spinning=spinning)

    began = time.monotonic()
    first = calibration.ready(folder, "onnx", 2, build, limit_s=5)
    assert time.monotonic() - began < 90
    measured = len(built)
    again = calibration.ready(folder, "onnx", 2, build, limit_s=5)
    assert msgspec.json.encode(again.plan) == msgspec.json.encode(first.plan)
    assert len(built) - measured <= 2, "only what runs"
    assert (tmp_path / "1.rows.json").is_file()
    assert first.plan.lanes * first.plan.threads in (1, 2) and first.plan.shape.budget >= 1
    (tmp_path / "1.rows.json").write_text("{")
    assert calibration.ready(folder, "onnx", 2, build, limit_s=5).plan.lanes >= 1


def test_without_time_it_still_gets_a_plan(tmp_path: Path) -> None:
    tiny_models.text_classifier(tmp_path)
    until = calibration.Until(0.0)
    plan = calibration.measured(lambda threads, _: inference.load(tmp_path, "onnx", threads), 2, until, {})
    assert plan.lanes == 2 and plan.shape == Shape()


def test_the_cost_is_found_again_from_measurements() -> None:
    def real(n: int, length: int) -> float:
        return 0.004 + n * (0.0001 * length + 1e-7 * length**2)

    cost = Cost.fitted([(n, length, real(n, length)) for n in (1, 4, 16) for length in (8, 32, 128)])
    for n, length in ((1, 20), (8, 40), (2, 200)):
        assert cost.seconds(n, length) == pytest.approx(real(n, length), rel=0.15)
    chance = random.Random(1)
    lengths = [int(min(250, max(2, chance.lognormvariate(3, 1)))) for _ in range(256)]
    shape = cost.shape(lengths, Shape())
    assert 128 <= shape.budget <= 1024 and 20 <= shape.overhead <= 60
    for _ in range(200):
        cost.learn(4, 64, 3 * real(4, 64))
    assert cost.seconds(4, 64) == pytest.approx(3 * real(4, 64), rel=0.1)


def test_where_batches_gain_nothing_they_stay_small() -> None:
    cost = Cost.fitted([(n, 1, 0.001 * n) for n in (1, 4, 16, 64)])
    assert cost.shape([1] * 100, Shape()).budget <= 2
    cost = Cost.fitted([(n, 1, 0.001 + 0.000001 * n) for n in (1, 4, 16, 64)])
    assert cost.shape([1] * 256, Shape()).budget >= 32


def test_a_lone_row_follows_what_is_faster() -> None:
    lone = Lone(narrow={5: 0.011}, wide={5: 0.010})
    assert sum(lone.goes_wide(20) for _ in range(320)) == 310, "now and then the other way is tried"
    for _ in range(40):
        lone.learn(20, wide=True, seconds=0.012)
    assert sum(lone.goes_wide(20) for _ in range(320)) == 10


def test_trying_what_is_much_slower_is_rare_and_never_given_up() -> None:
    for times in (1.5, 3.0, 100.0):
        lone = Lone(narrow={5: 0.010 * times}, wide={5: 0.010})
        tries = sum(not lone.goes_wide(20) for _ in range(4096))
        assert tries * (times - 1) / 4096 <= 0.011 or tries == 4, "it costs a percent at most"
        assert tries >= 4


def test_a_way_that_was_measured_in_a_bad_moment_is_found_again() -> None:
    lone, wide = Lone(narrow={5: 0.008}, wide={5: 0.024}), 0
    for _ in range(1000):
        wide += (goes := lone.goes_wide(20))
        lone.learn(20, wide=goes, seconds=0.005 if goes else 0.008)
    assert wide > 400


def test_a_call_that_is_recalled_twice_and_then_left_is_counted_once_and_its_end_is_true() -> None:
    model, lanes = slow_lanes()

    async def load() -> None:
        model.go.clear()
        first = asyncio.ensure_future(ask(lanes, [60]))
        while not model.begun:
            await asyncio.sleep(0.01)
        call = asyncio.ensure_future(ask(lanes, [61] * 5, call="c"))
        other = asyncio.ensure_future(ask(lanes, [62] * 5, call="d"))
        await asyncio.sleep(0.02)
        assert lanes.recall("c") and lanes.recall("c")
        lanes.recall("d")
        other.cancel()
        model.go.set()
        assert await first == [60]
        with pytest.raises(Recalled):
            await call

    asyncio.run(load())
    lanes.close()
    assert lanes.figures.left_rows == 10


def test_an_explanation_that_nobody_waits_for_any_more_asks_the_model_no_further(lanes: Lanes) -> None:
    """The second question comes when the time is over: no row of it reaches a lane, and the next explanation has its turn."""
    times = iter([0.0, 2000.0])
    late = explaining.InBackground(lanes.features, lanes, 1000.0, lambda: next(times))
    before = lanes.figures.rows
    with pytest.raises(Unavailable) as told:
        explaining.explained(late, None, [{"text": "a lovely film"}], "shap", "good", 400, 1000.0)  # type: ignore[arg-type]
    assert told.value.code == "late"
    assert lanes.figures.rows - before == 1
    fresh = explaining.InBackground(lanes.features, lanes)
    (note,) = explaining.explained(fresh, None, [{"text": "a lovely film"}], "shap", "good", 64, 0.0)  # type: ignore[arg-type]
    assert note["target"] == "good"


def test_an_explanation_of_long_texts_is_asked_in_portions(lanes: Lanes, predictor: inference.Predictor) -> None:
    """Its time is looked at between them: what is encoded and held at once is little, and the answers are as alone."""
    rows = [{"text": "a lovely film " * length} for length in (2000, 1, 3000, 5000, 2)]
    looked = []

    def clock() -> float:
        looked.append(1)
        return 0.0

    answers = explaining.InBackground(lanes.features, lanes, 1000.0, clock).predict(rows)
    assert len(looked) == 3
    wanted = [one["scores"]["good"] for one in predictor.predict(rows)]
    assert [one["scores"]["good"] for one in answers] == pytest.approx(wanted, abs=2e-6)


def test_rows_of_an_explanation_that_wait_when_its_time_is_over_are_dropped(lanes: Lanes) -> None:
    before = lanes.figures.late_rows
    with pytest.raises(Unavailable):
        lanes.answer_blocking([{"text": "a lovely film"}] * 5, Turn(tier=3, left_ms=0.001))
    assert lanes.figures.late_rows - before == 5
