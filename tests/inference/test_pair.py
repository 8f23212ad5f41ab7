"""Users and items: strangers are number 0, a user alone gets the best items, those asked to be left out are."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway import inference
from tollway.kit.errors import BadRequest

ITEMS = [f"i{number}" for number in range(30)]
ROWS = pa.table({"user": ["ann", "bob", "王"] * 10, "item": ITEMS, "rating": [1.0, 3.0, 5.0] * 10})


@pytest.fixture(scope="module")
def predictor():
    features = inference.fit("recommendation", ROWS)
    scores = np.random.default_rng(0).permutation(31 * 4).reshape(4, 31).astype(np.float32)
    return inference.Predictor(features, lambda arrays: {"score": scores[arrays["user"], arrays["item"]]})


def test_strangers_are_number_zero(predictor):
    made = predictor.features.encode([{"user": "eve", "item": "i99"}, {"user": "王", "item": "i3"}])
    assert (made[0]["user"][0], made[0]["item"][0]) == (0, 0)
    assert made[1]["user"][0] > 0


@settings(max_examples=30, deadline=None)
@given(
    user=st.sampled_from(["ann", "bob", "nobody"]), top=st.integers(1, 40),
    exclude=st.lists(st.sampled_from([*ITEMS, "i99"]), max_size=35),
)  # fmt: skip
def test_a_user_alone_gets_the_best_items_in_order(predictor, user, top, exclude):
    (answer,) = predictor.predict([{"user": user, "top": top, "exclude": exclude}])
    scores = {item: predictor.predict([{"user": user, "item": item}])[0]["score"] for item in ITEMS}
    wanted = sorted((item for item in ITEMS if item not in exclude), key=lambda item: -scores[item])[:top]
    assert [one["item"] for one in answer["items"]] == wanted


def test_mixed_questions_keep_their_order(predictor):
    rows = [{"user": "ann", "item": "i3"}, {"user": "bob"}, {"user": "ann", "item": "i3"}, {"user": "bob", "top": 2}]
    one, other, third, fourth = predictor.predict(rows)
    assert one == third
    assert other["items"][:2] == fourth["items"]
    assert len(other["items"]) == 10


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({}, "user"), ({"user": None}, "user"), ({"user": ""}, "user"), ({"user": ["ann"]}, "user"),
        ({"user": "ann", "item": {}}, "item"), ({"user": "ann", "top": 0}, "top"), ({"user": "ann", "top": True}, "top"),
        ({"user": "ann", "exclude": "i1"}, "exclude"), ({"user": "ann", "itme": "i1"}, "itme"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_field(predictor, row, field):
    with pytest.raises(BadRequest) as caught:
        predictor.predict([row])
    assert caught.value.param == field


def test_whole_numbers_are_names_too():
    features = inference.fit("recommendation", pa.table({"user": [1, 2], "item": [10, 20]}))
    assert (
        features.encode([{"user": 1, "item": 20}])[0]["user"].tolist()
        == features.encode([{"user": "1"}])[0]["user"][:1].tolist()
    )
    assert features.targets([{"user": 1, "item": 10}])["target"].tolist() == [1.0]


def test_what_was_saved_encodes_the_same(predictor, tmp_path):
    predictor.features.save(tmp_path)
    again = inference.load_features(tmp_path)
    row = {"user": "王", "item": "i7"}
    assert again.encode([row])[0]["item"].tolist() == predictor.features.encode([row])[0]["item"].tolist()
