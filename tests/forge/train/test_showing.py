"""A detector's threshold is chosen where F1 on the validation rows is best, unless the recipe says one."""

import json

import pyarrow.parquet as pq
import pytest

from tests.forge.models import worlds
from tests.forge.train import nets
from tollway.forge import data, models
from tollway.forge.models import found
from tollway.forge.train import showing


def objects(*scores, right):
    """An answer with a box for each score, the first `right` of them where the objects are."""
    boxes = [[10 * place, 0, 10 * place + 8, 8] if place < right else [500, 500, 508, 508] for place in range(len(scores))]
    return {"detections": [{"label": "a", "score": score, "box": box} for score, box in zip(scores, boxes, strict=True)]}


def truth(count):
    return {"boxes": [{"label": "a", "box": [10 * place, 0, 10 * place + 8, 8]} for place in range(count)]}


@pytest.mark.parametrize(
    ("scores", "right", "there", "threshold", "f1"),
    [
        ((0.9, 0.8, 0.3, 0.2), 2, 2, 0.55, 1.0),  # halfway between the last right box and the first wrong one
        ((0.9, 0.8, 0.3, 0.2), 3, 3, 0.25, 1.0),
        ((0.3, 0.2), 2, 2, 0.125, 1.0),  # a timid model: a fixed 0.4 would show nothing
        ((0.99, 0.98), 1, 1, 0.95, 1.0),  # never out of bounds
        ((0.6, 0.6, 0.6), 1, 1, 0.325, 0.5),  # equally sure ones are shown together
    ],
)
def test_it_lies_where_f1_is_best(scores, right, there, threshold, f1):
    best = found.best_threshold([objects(*scores, right=right)], [truth(there)])
    assert best == (pytest.approx(threshold), pytest.approx(f1))


def test_where_nothing_is_right_there_is_none():
    assert found.best_threshold([objects(0.9, right=0)], [truth(2)]) is None
    assert found.best_threshold([objects(right=0)], [truth(2)]) is None
    assert found.best_threshold([], []) is None


@pytest.fixture(scope="module")
def net():
    made = worlds.make("object-detection", architecture="centernet", options={"filters": 8})
    worlds.learn(made, 12)
    return made


@pytest.fixture
def prepared(tmp_path):
    """The world's rows as a run would have prepared them."""
    table = worlds.TABLES["object-detection"]
    pq.write_table(table, tmp_path / "validation.parquet")
    (tmp_path / "meta.json").write_text(json.dumps({"rows": {"validation": table.num_rows}}))
    return data.Prepared(tmp_path)


def test_it_travels_with_the_features_and_is_told(net, prepared, tmp_path):
    desk, rows = nets.desk(tmp_path / "desk"), worlds.TABLES["object-detection"].to_pylist()
    figures = showing.settle(net, {"filters": 8}, prepared, desk)
    answers = models.TorchPredictor(net).predict([{"image": row["image"]} for row in rows])
    assert (figures["threshold"], figures["threshold_f1"]) == (found.best_threshold(answers, rows)[0], pytest.approx(found.best_threshold(answers, rows)[1], abs=1e-4))
    models.save(net, tmp_path / "model")
    assert models.load(tmp_path / "model").features.options["threshold"] == figures["threshold"]
    assert f" {figures['threshold']} " in desk.seen[-1]["text"]


def test_a_recipe_that_says_one_keeps_it(net, prepared, tmp_path):
    before = net.features.options["threshold"]
    assert showing.settle(net, {"threshold": 0.7}, prepared, nets.desk(tmp_path / "desk")) == {}
    assert net.features.options["threshold"] == before
    said = worlds.make("object-detection", architecture="centernet", options={"filters": 8, "threshold": 0.7})
    assert said.features.options["threshold"] == 0.7
    unsaid = worlds.make("object-detection", architecture="centernet", options={"filters": 8})
    assert unsaid.features.options["threshold"] == 0.4  # until training has chosen
