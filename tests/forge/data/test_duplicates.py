"""Near duplicates: what MinHash finds is what comparing all pairs finds; images that look the same are found too."""

import random
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest

from tollway.forge.data import duplicates, samples
from tollway.forge.data.images import png


def slow(texts: list[str], similarity: float) -> set[tuple[int, int]]:
    """All pairs, compared one by one."""

    def shingles(text: str) -> set[str]:
        text = " ".join(text.casefold().split())
        return {text[at : at + 5] for at in range(max(1, len(text) - 4))}

    sets = [shingles(text) for text in texts]
    return {(i, j) for i, j in combinations(range(len(texts)), 2) if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= similarity}


def pairs(groups: list[list[int]]) -> set[tuple[int, int]]:
    return {pair for group in groups for pair in combinations(group, 2)}


@pytest.mark.parametrize("alphabet", ["abcdefghij klmnop", "的一是不了人我在有他这为之大来以个中上们"])
def test_it_finds_what_comparing_all_pairs_finds(alphabet):
    dice = random.Random(5)
    texts = []
    for _ in range(60):
        base = "".join(dice.choice(alphabet) for _ in range(dice.randint(20, 120)))
        texts += [base, base[:-1] + dice.choice(alphabet), base[: len(base) // 2]]
    truth = slow(texts, 0.8)
    found = pairs(duplicates.near(pa.table({"text": texts}), ["text"]))
    assert len(truth) >= 30
    assert len(truth - found) <= 0.02 * len(truth)  # MinHash may miss a pair at the very threshold
    linked = {root for pair in truth for root in pair}
    assert not [pair for pair in found if not set(pair) <= linked]


def test_exact_groups_are_in_row_order():
    table = pa.table({"text": ["b", "a", "b", "c", "a", "b"], "n": [1, 2, 3, 4, 5, 6]})
    assert sorted(duplicates.exact(table, ["text"])) == [[0, 2, 5], [1, 4]]
    assert duplicates.exact(table) == []


def test_the_same_picture_a_little_brighter_is_found():
    pixels = [np.asarray(random.Random(n).choices(range(40, 200), k=256), np.uint8).reshape(16, 16) for n in range(20)]
    images = [png(one) for one in pixels] + [png(pixels[3] + 1), png(pixels[7])]
    table = pa.table({"image": pa.array(images, pa.binary())})
    assert sorted(duplicates.near(table, ["image"])) == [[3, 20], [7, 21]]


def test_digits_that_are_different_are_not_taken_for_the_same():
    table = samples.load("digits").read("train").slice(0, 600)
    assert len(pairs(duplicates.near(table, ["image"]))) <= 3
