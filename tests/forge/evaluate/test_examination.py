"""The examination: real data, baselines beside, gates all at once, slices, gaps, noise; every task has a judge."""

import json
import math

import numpy as np
import pytest

from tollway.forge import evaluate
from tollway.forge.data import samples
from tollway.forge.evaluate import Rows, Wishes, baselines, noise, slices, tasks
from tollway.forge.evaluate.baselines import Linear
from tollway.forge.recipe import TASKS
from tollway.kit.errors import BadRequest, Conflict, NotFound


def split(rows, test=0.3, seed=0):
    order = np.random.default_rng(seed).permutation(len(rows))
    cut = int(len(rows) * test)
    return [rows[at] for at in order[:cut]], [rows[at] for at in order[cut:]]


def sample(name, limit=None):
    try:
        table = samples.load(name).read("train")
    except NotFound as error:
        pytest.skip(str(error))
    step = max(1, table.num_rows // limit) if limit else 1  # samples lie sorted by class
    return table.take(list(range(0, table.num_rows, step))[:limit]).to_pylist()


@pytest.fixture(scope="module")
def credit():
    rows = [{**row, "x_housing": row["housing"]} for row in sample("credit")]
    test, train = split(rows)
    return Linear("tabular-classification", train), Rows(test, train, train[:100])


@pytest.fixture(scope="module")
def scores(credit):
    model, rows = credit
    require = {"accuracy": ">=0.99", "vs.baseline": ">=0", "gap.housing": "<=0.01", "low.auc": ">=0.6"}
    wishes = Wishes(slices=["housing"], require=require, bootstrap=300)
    return evaluate.examine("tabular-classification", model, rows, wishes)


def test_a_model_that_is_its_baseline_is_not_better_than_it(scores):
    """The served model is the strongest baseline itself: the paired difference is exactly nothing."""
    mine = scores.comparisons[-1]
    assert (
        mine.name == "columns+logistic"
        and mine.difference.value == 0
        and mine.difference.low == 0 == mine.difference.high
    )
    assert scores.comparisons[0].name == "majority"


def test_all_failing_gates_are_named_at_once(scores):
    assert [gate.passed for gate in scores.gates] == [False, True, False, True]
    with pytest.raises(Conflict) as caught:
        scores.enforce()
    assert "2 of 4 gates failed" in caught.value.message
    assert "accuracy is 0.7" in caught.value.message and "gap.housing is" in caught.value.message
    with pytest.raises(Conflict):
        evaluate.enforce_figures(json.loads(json.dumps(scores.figures)))


@pytest.mark.parametrize(
    ("require", "told"),
    [
        ({"acuracy": ">=0.8", "vs.baselin": ">=0"}, ["did you mean accuracy", "vs.baseline"]),
        ({"accuracy": "about 0.8"}, ["not like"]),
        ({"f1.god": ">=0.1"}, ["did you mean f1.good"]),
    ],
)
def test_gates_that_mean_nothing_are_refused_before_any_work(credit, require, told):
    with pytest.raises(BadRequest) as caught:
        evaluate.refuse("tabular-classification", credit[1], Wishes(require=require))
    assert all(word in caught.value.message for word in told)


def test_every_name_a_gate_may_have_is_known_before_and_after(credit, scores):
    """What `refuse` lets pass is what `check` finds: no gate is refused after training that was fine before."""
    names = {name for name in scores.named() if not name.startswith("noise.")}
    evaluate.refuse("tabular-classification", credit[1], Wishes(["housing"], require=dict.fromkeys(names, ">=0")))


def test_slices_that_are_not_there_are_named(credit):
    with pytest.raises(BadRequest, match="religion"):
        evaluate.examine("tabular-classification", credit[0], credit[1], Wishes(slices=["religion"]))


def test_scores_survive_the_disk(scores, tmp_path):
    scores.save(tmp_path)
    assert evaluate.read(tmp_path) == scores
    with pytest.raises(NotFound):
        evaluate.read(tmp_path / "nowhere")


def test_slices_cover_the_rows_and_small_parts_decide_nothing(credit, scores):
    housing = [one for one in scores.slices if one.column == "housing"]
    assert sum(one.rows for one in housing) == scores.rows
    part = housing[0]
    mine = [row for row in credit[1].test if row["housing"] == part.value]
    answers = credit[0].predict(mine)
    assert part.figure.value == pytest.approx(
        np.mean([a["label"] == row["label"] for a, row in zip(answers, mine, strict=True)])
    )
    assert scores.named()["slice.housing"] == min(one.figure.value for one in housing if not one.small)


class Unfair:
    """Says yes to all of group a, and to half of group b."""

    def predict(self, rows):
        return [{"label": "yes" if row["g"] == "a" or row["n"] % 2 else "no", "score": 1.0} for row in rows]


def test_fairness_gaps_by_hand():
    """a: 100 rows, all get yes; b: 100 rows, half get yes; c: 5 rows, too few to count. Truth is yes everywhere."""
    rows = [
        {"g": group, "x_g": group, "n": at, "label": "yes" if at % 4 else "no"}
        for group, count in (("a", 100), ("b", 100), ("c", 5))
        for at in range(count)
    ]
    case = tasks.judge("tabular-classification", Unfair(), rows, tasks.Known())
    gap = slices.gaps(case, rows, ["g"], evaluate.Draws(case.units, 200))[0]
    assert gap.parity.value == pytest.approx(0.5) and gap.left_out == ["c"] and gap.groups == ["a", "b"]
    # among true yes (n % 4 != 0): a 1.0; b: 50 of 75 are odd. Among true no (n % 4 == 0): a never gets no, b always does
    assert gap.opportunity.value == pytest.approx(1.0)
    assert gap.worst == pytest.approx(1.0) and gap.parity.low <= 0.5 <= gap.parity.high


@pytest.mark.parametrize("kind", ["typos", "case", "missing", "jitter"])
def test_noise_is_the_same_each_time_and_never_touches_the_truth(kind):
    rows = [
        {"text": "Good film 很好看", "tokens": ["a"], "number": float(at), "label": "good", "x_g": "a"}
        for at in range(50)
    ]
    once, again = noise.noisy(kind, 0.3, rows, 1), noise.noisy(kind, 0.3, rows, 1)
    assert once == again != rows and all(row["label"] == "good" and row["x_g"] == "a" for row in once)
    assert noise.noisy(kind, 0.0, rows, 1) == rows or kind == "case"


def test_pixel_noise_grows_with_its_level():
    rows = [{"image": row["image"], "label": row["label"]} for row in sample("digits", 5)]
    before = tasks.pixels(rows[0]["image"])
    far = [
        np.abs(tasks.pixels(noise.noisy("pixels", level, rows)[0]["image"]) - before).mean()
        for level in (0.0, 0.1, 0.4)
    ]
    assert far[0] == 0 and far[0] < far[1] < far[2]


def test_typing_errors_cost_a_reader_of_words():
    test, train = split([{"text": row["text"], "label": row["label"]} for row in sample("movies", 3000)])
    scores = evaluate.examine(
        "text-classification",
        Linear("text-classification", train),
        Rows(test, train),
        Wishes(bootstrap=100, noise=(0.02, 0.3)),
    )
    by_level = {one.level: one.lost for one in scores.noise if one.kind == "typos"}
    assert by_level[0.3] > by_level[0.02] and by_level[0.3] > 0.05
    assert next(one for one in scores.noise if one.kind == "case").lost == 0  # TF-IDF lowers the case
    assert scores.metrics["accuracy"].low > 0.55 and any(one.column == "length" for one in scores.slices)


def test_movielens_is_judged_by_user():
    rows = [
        {name: row[name] for name in ("user", "item", "rating")} | {"x_gender": row["gender"]}
        for row in sample("ml-100k", 40_000)
    ]
    test, train = split(rows, 0.2)
    scores = evaluate.examine(
        "recommendation", baselines.Popular(train), Rows(test, train), Wishes(["gender"], bootstrap=100)
    )
    assert 0.9 < scores.metrics["rmse"].value < 1.05 and 0 < scores.metrics["ndcg@10"].value < 1
    assert scores.units < scores.rows and scores.primary == "rmse"
    assert {one.column for one in scores.slices} == {"gender"}


def test_what_a_user_had_is_not_recommended_again():
    train = [{"user": "u", "item": f"i{at}", "rating": 5.0} for at in range(5)] + [
        {"user": "v", "item": "new", "rating": 4.0}
    ]
    known = tasks.known_of("recommendation", train)
    asked = []

    class Spy(baselines.Popular):
        def predict(self, rows):
            asked.extend(rows)
            return super().predict(rows)

    case = tasks.judge("recommendation", Spy(train), [{"user": "u", "item": "new", "rating": 5.0}], known)
    assert case.measures["recall@5"].value(1) == 1 and asked[-1]["exclude"] == [f"i{at}" for at in range(5)]


def test_the_predictor_never_sees_the_truth():
    seen = []

    class Spy:
        def predict(self, rows):
            seen.extend(rows)
            return [{"label": "a", "score": 1.0} for _ in rows]

    tasks.judge("text-classification", Spy(), [{"text": "t", "label": "a", "x_group": "g"}], tasks.Known())
    assert seen == [{"text": "t"}]


LANGUAGE = [{"text": "to be or not to be"}, {"text": "是的，没有问题"}] * 8
ROWS = {
    "text-regression": [{"text": f"{'good ' * at}film", "target": float(at)} for at in range(16)],
    "token-classification": [{"tokens": ["Ada", "lives", "in", "Paris"], "tags": ["B-PER", "O", "O", "B-LOC"]}] * 8,
    "question-answering": [
        {
            "context": "Ada was born in London. She liked maths.",
            "question": "Where was Ada born?",
            "answer": "London",
            "answer_start": 16,
        }
    ]
    * 8,
    "translation": [{"source": "hello world", "target": "hola mundo"}] * 8,
    "language-modeling": LANGUAGE,
    "chat": [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}] * 8,
    "sentence-embedding": [
        {
            "text": f"a cat number {at}",
            "text_b": f"cat number {at}" if at % 2 else f"the stock fell by {at}",
            "label": float(at % 2),
        }
        for at in range(16)
    ],
}


@pytest.mark.parametrize("task", sorted(ROWS))
def test_every_task_is_judged_with_its_baseline(task):
    rows = ROWS[task]
    simple = list(baselines.simple(task, rows).values())[-1]
    scores = evaluate.examine(task, simple, Rows(rows, rows), Wishes(bootstrap=50))
    assert all(one.value is None or math.isfinite(one.value) for one in scores.metrics.values()) and scores.metrics
    assert scores.comparisons[-1].difference.value == pytest.approx(0, abs=1e-9)
    json.dumps(scores.figures)


def test_all_tasks_of_recipes_have_a_judge():
    assert set(TASKS) == set(evaluate.JUDGES)


def test_a_frequent_tag_finds_what_it_has_seen():
    rows = ROWS["token-classification"]
    case = tasks.judge("token-classification", baselines.FrequentTag(rows), rows, tasks.Known())
    assert case.measures["f1"].value(8) == 1


def test_a_byte_bigram_beats_knowing_nothing_and_not_the_impossible():
    rows = [{"text": "abababababababab" * 20}]
    case = tasks.judge("language-modeling", baselines.Bigram(rows), rows, tasks.Known())
    assert 0 < case.measures["bits_per_byte"].value(1) < 0.6
    fresh = tasks.judge("language-modeling", baselines.Bigram(rows), [{"text": "zqzqzq"}], tasks.Known())
    assert fresh.measures["bits_per_byte"].value(1) > 8


def test_no_rows_is_a_clear_refusal():
    with pytest.raises(BadRequest, match="no rows"):
        evaluate.examine("text-classification", baselines.Copy(), Rows([]), Wishes())


def test_the_first_metric_asked_for_is_the_main_one(credit):
    model, rows = credit
    scores = evaluate.examine(
        "tabular-classification", model, rows, Wishes(metrics=["auc", "f1"], bootstrap=20, slices=["housing"])
    )
    assert scores.primary == "auc" and list(scores.metrics)[:3] == ["auc", "f1", "accuracy"]
    assert scores.noise[0].value == pytest.approx(scores.metrics["auc"].value, abs=0.1)
    with pytest.raises(BadRequest, match="Did you mean auc"):
        evaluate.refuse("tabular-classification", rows, Wishes(metrics=["aucc"]))
