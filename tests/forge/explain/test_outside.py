"""Explanations from outside: against the definition of Shapley values, on models whose workings are known."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.forge.evaluate.baselines import Linear
from tollway.inference import explain
from tollway.inference.masking import cut
from tollway.kit.errors import BadRequest


class Formula:
    """A table model whose answer is a formula of the columns; None counts as 0."""

    def __init__(self, formula):
        self.formula = formula

    def predict(self, rows):
        return [{"value": float(self.formula({name: value or 0.0 for name, value in row.items()}))} for row in rows]


def by_definition(values, n):
    """Shapley values by going through all n! orders."""
    found = np.zeros(n)
    for order in itertools.permutations(range(n)):
        mask = np.zeros(n, dtype=bool)
        for unit in order:
            before = values(mask[None])[0]
            mask[unit] = True
            found[unit] += values(mask[None])[0] - before
    return found / math.factorial(n)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_exact_shapley_is_the_definition(seed, n):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=2**n)
    place = 2 ** np.arange(n)

    def values(masks):
        return table[(masks * place).sum(axis=1)]

    names = [f"c{at}" for at in range(n)]
    model = Formula(lambda row: values(np.array([[row[name] != 0 for name in names]]))[0])
    found = explain.explain(model, dict.fromkeys(names, 1.0), "shap")
    assert [unit["weight"] for unit in found.units] == pytest.approx(by_definition(values, n), abs=1e-9)
    assert found.checks == {"additivity_gap": pytest.approx(0, abs=1e-9), "exact": 1.0}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(11, 30), st.sampled_from(["shap", "permutation"]))
def test_sampled_shapley_values_add_up(seed, n, method):
    rng = np.random.default_rng(seed)
    pull, pairs = rng.normal(size=n), rng.normal(size=(n, n)) / n

    def formula(row):
        there = np.array([row[f"c{at}"] for at in range(n)])
        return math.tanh(there @ pull + there @ pairs @ there)

    found = explain.explain(Formula(formula), {f"c{at}": 1.0 for at in range(n)}, method, budget=300, measure=False)
    total = sum(unit["weight"] for unit in found.units)
    assert total == pytest.approx(found.value - found.base, abs=1e-8)
    assert found.checks["additivity_gap"] < 1e-8


def test_kernel_shap_comes_close_to_the_exact_values():
    """A game of pairs: each unit's value is its own pull and half of its pairs', known in closed form."""
    rng = np.random.default_rng(3)
    n = 16
    pull, pairs = rng.normal(size=n), np.triu(rng.normal(size=(n, n)), 1)
    exact = pull + (pairs.sum(axis=0) + pairs.sum(axis=1)) / 2
    model = Formula(lambda row: (there := np.array([row[f"c{at}"] for at in range(n)])) @ pull + there @ pairs @ there)
    row = {f"c{at}": 1.0 for at in range(n)}
    found = [unit["weight"] for unit in explain.explain(model, row, "shap", budget=1500, measure=False).units]
    assert np.abs(np.array(found) - exact).max() < 0.15 * np.abs(exact).max()


@pytest.mark.parametrize("method", explain.METHODS)
def test_a_linear_table_is_explained_by_its_coefficients(method):
    model = Formula(lambda row: 3 * row["a"] - 2 * row["b"] + 0.5 * row["c"] + 7)
    found = explain.explain(model, {"a": 1.0, "b": 1.0, "c": 1.0}, method)
    weights = {unit["field"]: unit["weight"] for unit in found.units}
    assert sorted(weights, key=weights.get) == ["b", "c", "a"]
    if method != "lime":  # ridge shrinks
        assert weights == pytest.approx({"a": 3, "b": -2, "c": 0.5})
    assert found.base == 7 and found.value == 8.5


def test_background_rows_stand_in_for_what_is_absent():
    """Interventional values: coefficient times (value - mean of the background)."""
    model = Formula(lambda row: 2 * row["a"] + row["b"])
    background = [{"a": 1.0, "b": 0.0}, {"a": 3.0, "b": 4.0}]
    found = explain.explain(model, {"a": 5.0, "b": 1.0}, "shap", background=background)
    assert [unit["weight"] for unit in found.units] == pytest.approx([2 * (5 - 2), 1 - 2])
    assert found.evaluations == 4 * 2


@pytest.fixture(scope="module")
def reviews():
    """A real classifier on a few English and Chinese sentences."""
    good = [
        "a lovely film",
        "wonderful and funny",
        "I loved it",
        "lovely acting, wonderful music",
        "很好看，喜欢",
        "非常好，推荐",
    ]
    bad = [
        "a dreadful film",
        "boring and long",
        "I hated it",
        "dreadful acting, boring music",
        "很难看，失望",
        "非常差，不推荐",
    ]
    rows = [{"text": text, "label": "good"} for text in good] + [{"text": text, "label": "bad"} for text in bad]
    return Linear("text-classification", rows * 3)


@pytest.mark.parametrize("method", explain.METHODS)
def test_the_word_that_decides_is_found(reviews, method):
    found = explain.explain(reviews, {"text": "The music was long, but lovely and wonderful!"}, method, target="good")
    words = {unit["text"].strip(" ,!"): unit["weight"] for unit in found.units}
    assert {max(words, key=words.get), sorted(words, key=words.get)[-2]} == {"lovely", "wonderful"}
    assert words["long"] < 0
    assert found.faithfulness["gain"] > 0.1
    assert "".join(unit["text"] for unit in found.units) == "The music was long, but lovely and wonderful!"
    assert json.loads(json.dumps(found.to_json()))["target"] == "good"


def test_chinese_is_cut_by_character(reviews):
    units = cut(reviews, {"text": "很难看，失望。Bad!"}).units
    assert [unit["text"] for unit in units] == ["很", "难", "看，", "失", "望。", "Bad!"]


@given(st.text(max_size=400))
def test_a_text_is_cut_without_loss(text):
    try:
        pieces = cut(None, {"text": text})
    except BadRequest:
        return
    assert "".join(unit["text"] for unit in pieces.units) == text
    assert len(pieces.units) <= 64
    assert pieces.rows(np.zeros(len(pieces.units), bool)) == [{"text": ""}]


def test_a_picture_is_explained_by_the_part_that_is_looked_at():
    class TopLeft:
        def predict(self, rows):
            return [{"score": float(np.asarray(row["image"])[:7, :7].mean() / 255)} for row in rows]

    picture = np.zeros((28, 28), dtype=np.uint8)
    picture[2:7, 2:7] = 255
    found = explain.explain(TopLeft(), {"image": picture}, "shap", budget=400)
    best = sorted(found.units, key=lambda unit: -unit["weight"])[:4]
    assert all(unit["box"][0] < 7 and unit["box"][1] < 7 for unit in best) and found.kind == "image"
    assert sum(unit["weight"] for unit in found.units) == pytest.approx(found.value - found.base)


def test_a_wrong_order_is_not_called_faithful():
    n = 12
    weights = np.arange(n, dtype=float)

    def values(masks):
        return masks @ weights / weights.sum()

    right = explain.faithfulness(values, weights, np.random.default_rng(0))
    wrong = explain.faithfulness(values, -weights, np.random.default_rng(0))
    assert right["gain"] > 0.2 and wrong["gain"] < -0.2
    assert right["insertion_curve"][-1] == pytest.approx(1) and right["deletion_curve"][-1] == pytest.approx(0)


@pytest.mark.parametrize(
    ("row", "method", "target"),
    [
        ({"text": "fine"}, "magic", None),
        ({"text": "fine"}, "shap", "ugly"),
        ({"text": " ... "}, "shap", None),
        ({}, "shap", None),
        ("fine", "shap", None),
    ],
)
def test_what_cannot_be_explained_is_refused_with_a_way_out(reviews, row, method, target):
    with pytest.raises(BadRequest) as caught:
        explain.explain(reviews, row, method, target=target)
    assert caught.value.message
