"""Splits: nothing is lost or on two sides, shares are kept, and the same rows are always split in the same way."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.forge.data.split import split
from tollway.kit.errors import BadRequest

ROWS = st.lists(st.tuples(st.text("ab", max_size=4), st.sampled_from("xyz")), min_size=12, max_size=120)


def table(rows):
    return pa.table({"text": pa.array([row[0] for row in rows]), "label": [row[1] for row in rows], "n": list(range(len(rows)))})


@settings(max_examples=80, deadline=None)
@given(ROWS, st.integers(0, 99), st.sampled_from(["stratified", "random", "group:text", "time:n"]))
def test_nothing_is_lost_and_nothing_is_on_two_sides(rows, seed, by):
    whole = table(rows)
    try:
        parts = split(whole, validation=0.2, test=0.2, by=by, label="label", content=["text"], seed=seed)
    except BadRequest:
        assert len({row[0] for row in rows}) < 6  # too few groups or different rows to part them
        return
    assert sorted(n for part in parts.values() for n in part["n"].to_pylist()) == list(range(len(rows)))
    for part in parts.values():
        assert part["n"].to_pylist() == sorted(part["n"].to_pylist())
    if by != "time:n":
        sides = [set(part["text"].to_pylist()) for part in parts.values()]
        assert sum(map(len, sides)) == len(set().union(*sides))
    again = split(whole, validation=0.2, test=0.2, by=by, label="label", content=["text"], seed=seed)
    assert {name: part.to_pydict() for name, part in parts.items()} == {name: part.to_pydict() for name, part in again.items()}


def test_every_class_has_its_share():
    rows = [(f"{n}", "many" if n % 10 else "few") for n in range(1000)]
    parts = split(table(rows), validation=0.1, test=0.2, label="label", seed=3)
    counts = {name: (part["label"].to_pylist().count("many"), part["label"].to_pylist().count("few")) for name, part in parts.items()}
    assert counts == {"train": (630, 70), "validation": (90, 10), "test": (180, 20)}


def test_a_small_class_is_on_every_side():
    rows = [(f"{n}", "rare" if n < 3 else "usual") for n in range(100)]
    parts = split(table(rows), label="label")
    assert [part["label"].to_pylist().count("rare") for part in parts.values()] == [1, 1, 1]


def test_another_seed_is_another_split():
    whole = table([(f"{n}", "x") for n in range(200)])
    tests = [tuple(split(whole, seed=seed)["test"]["n"].to_pylist()) for seed in range(5)]
    assert len(set(tests)) == 5 and all(len(one) == 20 for one in tests)


def test_most_rows_keep_their_side_when_the_dataset_grows():
    before = split(table([(f"{n}", "x") for n in range(1000)]), label="label")
    after = split(table([(f"{n}", "x") for n in range(1100)]), label="label")
    was, now = set(before["test"]["text"].to_pylist()), set(after["test"]["text"].to_pylist())
    assert len(was & now) >= 0.9 * len(was)


def test_a_group_stays_together_and_shares_are_met():
    whole = pa.table({"text": [f"{n}" for n in range(1000)], "customer": [n // 7 for n in range(1000)]})
    parts = split(whole, by="group:customer", validation=0.1, test=0.2)
    groups = [set(part["customer"].to_pylist()) for part in parts.values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert abs(parts["test"].num_rows - 200) <= 7 and abs(parts["validation"].num_rows - 100) <= 7


def test_the_newest_rows_judge():
    whole = pa.table({"text": [f"{n}" for n in range(100)], "day": pa.array([(n * 37) % 100 for n in range(100)])})
    parts = split(whole, by="time:day")
    days = {name: part["day"].to_pylist() for name, part in parts.items()}
    assert max(days["train"]) < min(days["validation"]) and max(days["validation"]) < min(days["test"])
    assert [len(one) for one in days.values()] == [80, 10, 10]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"validation": 0.6, "test": 0.5}, "nothing to train on"),
        ({"by": "group:nobody"}, "no column 'nobody'"),
        ({"by": "group:label"}, "only 1 groups"),
        ({"by": "time:text"}, "neither a time nor a number"),
        ({"by": "alphabet"}, "no way to split"),
    ],
)
def test_what_cannot_be_split_so_is_said(arguments, why):
    with pytest.raises(BadRequest, match=why):
        split(table([(f"{n}", "x") for n in range(50)]), **arguments)


def test_dates_written_as_text_give_an_order_too():
    """Parquet files and saved datasets often hold them so."""
    rows = table([(f"{n}", "x") for n in range(20)])
    days = rows.append_column("day", pa.array([f"2024-01-{20 - n:02d}" for n in range(20)]))
    parts = split(days, validation=0.1, test=0.1, by="time:day")
    assert parts["test"]["n"].to_pylist() == [0, 1] and parts["validation"]["n"].to_pylist() == [2, 3]
