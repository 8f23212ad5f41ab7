"""Bounds that hold however often one looks: exact for small numbers, and no more false alarms than they promise."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.kit.sequential import bounds


def test_nothing_is_known_before_the_first_trial() -> None:
    assert bounds(0, 0, 0.05) == (0.0, 1.0)


def test_few_trials_say_little_and_many_say_much() -> None:
    assert bounds(0, 10, 0.05)[1] > 0.3
    assert bounds(0, 1000, 0.05)[1] < 0.01
    assert bounds(5, 5, 0.05)[0] < 0.5 < bounds(50, 50, 0.05)[0]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2000), st.integers(1, 2000), st.sampled_from([0.2, 0.05, 0.001]))
def test_what_was_seen_is_always_possible_and_less_chance_means_wider(hits: int, trials: int, chance: float) -> None:
    hits = min(hits, trials)
    low, high = bounds(hits, trials, chance)
    assert 0.0 <= low <= hits / trials <= high <= 1.0
    wider = bounds(hits, trials, chance / 10)
    assert wider[0] <= low and wider[1] >= high
    mirrored = bounds(trials - hits, trials, chance)
    assert abs(mirrored[0] - (1 - high)) < 1e-9 and abs(mirrored[1] - (1 - low)) < 1e-9


def test_looking_after_every_trial_does_not_raise_false_alarms_beyond_the_chance() -> None:
    """Wilson's interval at the same 5 %, looked at as often, is wrong several times as often: that is why it is not used."""
    wrong = wilson = 0
    for seed in range(200):
        chance, hits, missed, wilson_missed = random.Random(seed), 0, False, False
        for trials in range(1, 400):
            hits += chance.random() < 0.1
            low, high = bounds(hits, trials, 0.05) if trials % 3 == 0 else (0.0, 1.0)
            missed = missed or not low <= 0.1 <= high
            wilson_missed = wilson_missed or not _wilson(hits, trials)
        wrong += missed
        wilson += wilson_missed
    assert wrong <= 10 < 30 < wilson


def _wilson(hits: int, trials: int, z: float = 1.959964) -> bool:
    """Whether 0.1 is inside."""
    seen, middle = hits / trials, 1 + z * z / trials
    half = z * (seen * (1 - seen) / trials + z * z / (4 * trials * trials)) ** 0.5
    return abs(0.1 - (seen + z * z / (2 * trials)) / middle) <= half / middle
