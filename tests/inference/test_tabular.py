"""Tables: missing values are a fact, strangers have a place, what makes no sense is named."""

import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway import inference
from tollway.kit.errors import BadRequest

ROWS = pa.table(
    {
        "age": [20.0, None, 40.0, 60.0] * 5,
        "visits": [1, 2, 3, 4] * 5,
        "member": [True, False, True, True] * 5,
        "city": ["北京", "Paris", None, "Paris"] * 5,
        "since": [dt.datetime(2020, 1, day, tzinfo=dt.UTC) for day in range(1, 21)],
        "empty": pa.array([None] * 20, pa.string()),
        "x_group": ["a"] * 20,
        "label": ["yes", "no"] * 10,
    }
)
ASK = {"age": 30.0, "visits": 2, "member": True, "city": "Paris", "since": "2020-01-05"}


@pytest.fixture(scope="module", params=["standard", "quantile"])
def features(request):
    return inference.fit("tabular-classification", ROWS, {"normalise": request.param})


def one(features, **row):
    return features.encode([row])[0]


def test_columns_get_their_kind_and_labels_and_slices_are_left_out(features):
    assert features.fields() == {
        "age": "number",
        "visits": "number",
        "member": "number",
        "city": "category",
        "since": "time",
    }


def test_numbers_have_mean_zero_and_a_common_spread(features):
    numbers = features.collate(features.encode(ROWS.to_pylist()))["numbers"]
    assert numbers.shape == (20, 5)  # four columns and the flag of the one that had gaps
    assert np.abs(numbers[:, 1].mean()) < 0.1
    assert 0.5 < numbers[:, 1].std() < 1.5


def test_a_missing_number_is_the_mean_and_flagged(features):
    for gone in (None, math.nan, "", "NA", "?"):
        row = one(features, age=gone, visits=1)
        assert row["numbers"][0] == 0
        assert row["numbers"][4] == 1
    assert one(features, age=30, visits=1)["numbers"][4] == 0
    assert one(features, visits=1)["numbers"][4] == 1


def test_missing_unknown_and_known_categories_are_three_things(features):
    codes = [one(features, city=city)["categories"][0] for city in (None, "Atlantis", "Paris", "北京")]
    assert codes == [0, 1, 2, 3]
    assert features.cardinalities == [4]


@settings(max_examples=100, deadline=None)
@given(
    age=st.one_of(st.none(), st.floats(allow_infinity=False), st.integers(-(10**30), 10**30)),
    city=st.one_of(st.none(), st.text(max_size=20), st.integers(), st.booleans()),
)
def test_any_finite_value_gives_bounded_numbers(features, age, city):
    row = one(features, age=age, city=city)
    assert np.isfinite(row["numbers"]).all()
    assert np.abs(row["numbers"]).max() <= 10
    assert 0 <= row["categories"][0] < 4


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("age", math.inf, "not finite"), ("age", "-inf", "not finite"), ("age", "forty", "a number is expected"),
        ("age", [1], "not a list"), ("age", 10**400, "too large"), ("city", {"a": 1}, "not a dict"),
        ("since", "last year", "a date like"), ("since", 5, "a date is expected"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_row_and_field(features, field, value, what):
    with pytest.raises(BadRequest, match=what) as caught:
        features.encode([ASK, {**ASK, field: value}])
    assert caught.value.param == field
    assert "Row 1" in caught.value.message


def test_numbers_as_text_are_numbers(features):
    assert one(features, age="30")["numbers"].tolist() == one(features, age=30.0)["numbers"].tolist()


def test_a_misspelt_column_and_an_empty_row_are_refused(features):
    with pytest.raises(BadRequest, match="'agee'"):
        features.check([{"agee": 3}])
    with pytest.raises(BadRequest, match="at least one"):
        features.check([{}])


def test_what_was_saved_encodes_the_same(features, tmp_path):
    features.save(tmp_path)
    again = inference.load_features(tmp_path)
    for name, array in features.encode([ASK])[0].items():
        assert (again.encode([ASK])[0][name] == array).all()


def test_an_infinite_value_in_the_training_rows_is_named():
    table = pa.table({"age": [1.0, math.inf], "label": ["a", "b"]})
    with pytest.raises(BadRequest, match="Row 1, 'age'"):
        inference.fit("tabular-classification", table)


def test_a_table_of_nothing_but_the_label_is_refused():
    with pytest.raises(BadRequest, match="no column to learn from"):
        inference.fit("tabular-classification", pa.table({"label": ["a", "b"], "x_id": [1, 2]}))


def test_only_the_most_frequent_categories_are_known():
    table = pa.table({"city": ["a"] * 5 + ["b"] * 3 + ["c"], "target": list(map(float, range(9)))})
    made = inference.fit("tabular-regression", table, {"max_categories": 2})
    assert made.columns[0]["values"] == ["a", "b"]
    assert made.encode([{"city": "c"}])[0]["categories"][0] == 1
