"""Batches: every row once an epoch, within the budget, little padding, and the same again for the same seed and epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tollway.forge.train.batches import Batches, pad_arrays
from tollway.kit.errors import BadRequest


def rows_of(lengths: list[int]) -> list[dict[str, np.ndarray]]:
    return [{"input_ids": np.full(length, at + 1, dtype=np.int64)} for at, length in enumerate(lengths)]


@settings(max_examples=60, deadline=None)
@given(some.lists(some.integers(1, 60), min_size=1, max_size=200), some.integers(16, 400), some.integers(0, 2**31), some.integers(0, 50))
def test_an_epoch_has_every_row_once_and_no_batch_breaks_the_budget(lengths, budget, seed, number):
    batches = Batches(rows_of(lengths), budget_tokens=budget, seed=seed)
    epoch = batches.epoch(number)
    assert sorted(row for batch in epoch for row in batch) == list(range(len(lengths)))
    for batch in epoch:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


@settings(max_examples=30, deadline=None)
@given(some.lists(some.integers(1, 60), min_size=2, max_size=100), some.integers(0, 2**31))
def test_order_depends_on_nothing_but_seed_and_epoch(lengths, seed):
    one, other = (Batches(rows_of(lengths), budget_tokens=100, seed=seed) for _ in range(2))
    one.epoch(0), one.epoch(5)
    assert one.epoch(3) == other.epoch(3)


def test_epochs_differ_and_seeds_differ():
    lengths = list(range(1, 61)) * 3
    batches = Batches(rows_of(lengths), budget_tokens=200, seed=1)
    assert batches.epoch(0) != batches.epoch(1)
    assert batches.epoch(0) != Batches(rows_of(lengths), budget_tokens=200, seed=2).epoch(0)


def test_little_padding_on_texts_of_mixed_length():
    chance = np.random.default_rng(0)
    lengths = np.clip(chance.lognormal(4.3, 0.8, 4000).astype(int), 3, 256).tolist()
    batches = Batches(rows_of(lengths), budget_tokens=2048, seed=3)
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches.epoch(0))
    assert sum(lengths) / padded > 0.95


def test_a_batch_is_padded_and_carries_its_targets():
    batches = Batches(rows_of([3, 1, 2]), {"label": np.array([7, 8, 9])}, rows=3)
    batch = batches.batch([0, 1])
    assert batch["input_ids"].tolist() == [[1, 1, 1], [2, 0, 0]]
    assert batch["label"].tolist() == [7, 8]
    assert batches.size([0, 1]) == 4


def test_targets_a_token_are_as_wide_as_their_batch():
    wide = np.full((3, 3), -100)
    wide[0], wide[1, :1], wide[2, :2] = 1, 2, 3
    assert Batches(rows_of([3, 1, 2]), {"labels": wide}, rows=2).batch([1, 2])["labels"].tolist() == [[2, -100], [3, 3]]
    ragged = [np.array([1, 1, 1]), np.array([2]), np.array([3, 3])]
    assert Batches(rows_of([3, 1, 2]), {"labels": ragged}, rows=2).batch([1, 2])["labels"].tolist() == [[2, -100], [3, 3]]


def test_pictures_and_numbers_have_no_length():
    rows = [{"pixels": np.full((1, 2, 2), at, dtype=np.float32)} for at in range(5)]
    batches = Batches(rows, rows=2)
    assert batches.size([0, 3]) == 2
    assert batches.batch([4, 1])["pixels"].shape == (2, 1, 2, 2)


def test_arrays_of_different_extent_are_filled_up():
    assert pad_arrays([np.ones((1, 2)), np.ones((2, 1))], 0).tolist() == [[[1, 1], [0, 0]], [[1, 0], [1, 0]]]


@pytest.mark.parametrize("wrong", [{}, {"rows": 2, "budget_tokens": 3}])
def test_one_size_and_only_one(wrong):
    with pytest.raises(BadRequest, match="either by tokens or by rows"):
        Batches(rows_of([1]), **wrong)


def test_no_rows_and_lost_targets_are_refused():
    with pytest.raises(BadRequest, match="no rows"):
        Batches([], rows=1)
    with pytest.raises(BadRequest, match="2 rows but 1 values of 'label'"):
        Batches(rows_of([1, 1]), {"label": np.array([1])}, rows=1)
