"""The plan: a recipe's [train] resolved, every problem at once; schedules as pure functions."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tollway.forge import recipe
from tollway.forge.train import schedules
from tollway.forge.train.plan import SCHEDULES, Plan, better
from tollway.kit.errors import BadRequest


def test_a_recipes_part_becomes_a_plan():
    part = recipe.Train(epochs=2.5, early_stopping={"patience": 3, "metric": "accuracy"}, adversarial={"epsilon": 0.5}, clip=0)
    plan = Plan.of(part, seed=11, threads=2)
    assert (plan.epochs, plan.patience, plan.metric, plan.adversarial_epsilon, plan.clip) == (2.5, 3, "accuracy", 0.5, 0)
    assert (plan.seed, plan.threads) == (11, 2)
    assert Plan.from_json(plan.to_json()) == plan


def test_every_problem_is_named_at_once():
    with pytest.raises(BadRequest) as caught:
        Plan.of({"optimizer": "adamv", "learning_rate": -1, "label_smoothing": 2, "soup": True, "method": "top:x"})
    said = str(caught.value)
    assert "did you mean 'adam" in said
    for name in ("learning_rate", "label_smoothing", "members", "top:x"):
        assert name in said


def test_the_rate_suits_the_case_unless_it_is_given():
    assert Plan.of({"learning_rate": 0.3}).rate(pretrained=True) == 0.3
    assert Plan.of({}).rate(pretrained=True) < Plan.of({"method": "lora"}).rate(pretrained=True) < Plan.of({}).rate(pretrained=False)


def test_steps_are_counted_from_epochs_or_given():
    assert Plan.of({"epochs": 2}).total_steps(lambda number: 10 + number) == 21
    assert Plan.of({"epochs": 0.5}).total_steps(lambda number: 10) == 5
    assert Plan.of({"steps": 7}).total_steps(lambda number: 10) == 7


@given(some.sampled_from(SCHEDULES), some.integers(1, 500), some.floats(0, 0.9))
def test_a_schedule_stays_between_nothing_and_the_whole_rate(schedule, total, warmup):
    rise = Plan.of({"warmup": warmup}).warmup_steps(total)
    factors = [schedules.factor(schedule, step, total, rise) for step in range(total)]
    assert all(0 <= each <= 1 for each in factors)
    assert max(factors) > 0


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("linear", 0.01), ("cosine", 0.001), ("one-cycle", 1e-4)])
def test_schedules_rise_in_the_warm_up_and_end_where_they_should(schedule, last):
    factors = [schedules.factor(schedule, step, 100, 10) for step in range(100)]
    assert factors[0] <= 0.11 and factors[0] < factors[5] < factors[10] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(last, abs=0.02)
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(factors[10:]))


def test_better_knows_which_way_is_up():
    assert better("accuracy", 0.9, 0.8) and not better("loss", 0.9, 0.8) and better("rmse", 0.1, None)
    assert not better("loss", float("nan"), 0.8) and better("loss", 0.5, float("nan"))
