"""The judge: gross faults are found within a few calls, a good version is hardly ever taken back, few calls prove nothing."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.flows.rollout_verdict import Agreement, RolloutPolicy, Side, judge, policy_of
from tollway.kit.errors import BadRequest
from tollway.kit.said import coded, translated
from tollway.serve.stats import Stats

QUICK = RolloutPolicy(promote_after_s=0)


def side(calls: int, errors: int = 0, took_ms: float = 40.0, first_ms: float = 0.0, **more: int) -> Side:
    """So many calls that took about so long."""
    made = Side(Stats(calls=calls, errors=errors, engine_us=calls * round(took_ms * 1e3)), **more)
    spread = random.Random(calls)
    for _ in range(calls - errors):
        made.stats.latency.add(took_ms * spread.uniform(0.5, 1.2) / 1e3)
        if first_ms:
            made.stats.first_token.add(first_ms * spread.uniform(0.5, 1.2) / 1e3)
    return made


def decided(
    canary: Side, stable: Side, policy: RolloutPolicy = QUICK, elapsed_s: float = 60, **agreement: float
) -> str:
    return judge(policy, canary, stable, Agreement(**agreement), elapsed_s).decision  # type: ignore[arg-type]


def test_a_version_like_the_stable_one_is_promoted_and_the_reason_is_honest() -> None:
    verdict = judge(QUICK, side(120), side(1000), Agreement(), 60)
    assert verdict.decision == "promote"
    assert "0 of 120 calls failed" in verdict.why and "would have shown" in verdict.why
    assert {one.name for one in verdict.findings} >= {"errors", "latency", "cost"}


def test_too_few_calls_or_too_little_time_prove_nothing() -> None:
    assert decided(side(99), side(1000)) == "go on"
    assert decided(side(120), side(1000), RolloutPolicy(promote_after_s=61)) == "go on"
    assert judge(QUICK, side(3), side(9), Agreement(), 60).why == "3 of 100 calls"


def test_a_version_that_fails_is_taken_back_within_a_few_calls() -> None:
    assert decided(side(2, 2), side(18)) == "go on"  # chance does that
    assert decided(side(6, 6), side(54)) == "roll back"
    assert decided(side(6, 6), side(0)) == "roll back"  # nothing to compare with
    assert decided(side(300, 30), side(3000, 3)) == "roll back"


def test_errors_of_both_are_not_the_new_ones_fault() -> None:
    assert decided(side(50, 25), side(450, 225)) == "go on"
    assert decided(side(400, 200), side(4000, 2000)) == "promote"


def test_a_version_that_wants_other_input_is_taken_back() -> None:
    """What it refuses is no error of the engine; that the stable version takes it is what tells."""
    canary, stable = side(5), side(90)
    canary.stats.calls += 20
    canary.stats.refused = 20
    assert decided(canary, stable) == "roll back"
    stable.stats.calls += 300
    stable.stats.refused = 300  # callers send nonsense to both
    assert decided(canary, stable) == "go on"


def test_wrong_requests_that_callers_send_to_both_stand_in_nobodys_way() -> None:
    """A third of all requests is wrong; chance deals the canary some more of them."""

    def refusing(calls: int, refused: int) -> Side:
        made = side(calls - refused)
        made.stats.calls, made.stats.refused = calls, refused
        return made

    verdict = judge(QUICK, refusing(160, 58), refusing(160, 48), Agreement(), 60)
    assert verdict.decision == "promote"
    assert "58 of 160 requests refused (36.2 %) against 30.0 %" in verdict.why
    assert decided(refusing(160, 70), refusing(160, 48)) == "go on"  # hardly chance, and not proven
    assert decided(refusing(400, 250), refusing(400, 120)) == "roll back"
    assert decided(refusing(150, 5), refusing(1500, 0)) == "go on"  # the stable version refuses nothing at all


def test_a_slow_version_is_taken_back_and_a_slightly_slower_one_is_not() -> None:
    assert decided(side(20, took_ms=200), side(180)) == "roll back"
    assert decided(side(200, took_ms=50), side(1800)) == "promote"
    verdict = judge(QUICK, side(60, took_ms=200), side(540), Agreement(), 60)
    assert "answers within" in verdict.why and "allowed" in verdict.why


def test_first_tokens_count_by_themselves() -> None:
    assert decided(side(40, first_ms=400), side(360, first_ms=40)) == "roll back"
    assert decided(side(200, first_ms=40), side(1800, first_ms=40)) == "promote"


def test_what_nobody_feels_is_no_difference() -> None:
    assert decided(side(200, took_ms=4), side(1800, took_ms=1)) == "promote"


def test_bad_ratings_take_it_back_and_a_handful_does_not() -> None:
    assert decided(side(200, rated=40, bad=35), side(1800, rated=300, bad=30)) == "roll back"
    assert decided(side(200, rated=3, bad=2), side(1800, rated=300, bad=30)) == "promote"


def test_answers_unlike_the_stable_ones_take_it_back() -> None:
    asked = RolloutPolicy(promote_after_s=0, min_agreement=0.9, mirror=10)
    assert decided(side(20), side(180), asked, compared=20, agreed=4) == "roll back"
    assert decided(side(200), side(1800), asked, compared=100, agreed=97) == "promote"
    assert decided(side(200), side(1800), asked) == "go on"  # none was compared yet
    assert decided(side(200), side(1800), asked, compared=100, agreed=88) == "go on"  # below, not beyond doubt
    assert decided(side(200), side(1800), asked, elapsed_s=90_000, compared=100, agreed=88) == "roll back"


def test_cost_and_margin_are_judged_when_promotion_is_due() -> None:
    dear = RolloutPolicy(promote_after_s=0, max_cost_ratio=1.2, max_latency_ratio=9)
    assert decided(side(50, took_ms=60), side(1000), dear) == "go on"
    assert decided(side(200, took_ms=60), side(1000), dear) == "roll back"
    earns = RolloutPolicy(promote_after_s=0, min_margin=0.3)
    assert decided(side(200, sold=200, price_picos=100, cost_picos=80), side(1000), earns) == "roll back"
    assert decided(side(200, sold=200, price_picos=100, cost_picos=60), side(1000), earns) == "promote"


def test_what_is_asked_of_margin_and_cost_stands_in_the_reason_in_both_languages() -> None:
    earns = RolloutPolicy(promote_after_s=0, min_margin=0.3, max_cost_ratio=1.2, max_latency_ratio=9)
    dear = side(200, took_ms=60, sold=200, price_picos=100, cost_picos=80)
    verdict = judge(earns, dear, side(1000, sold=1000, price_picos=100, cost_picos=40), Agreement(), 60)
    assert verdict.decision == "roll back"
    assert "1.50 times the stable version's, at most 1.20 allowed" in verdict.why
    assert "margin 20.0 % of the price against 60.0 %, at least 30.0 % asked" in verdict.why
    told = translated("zh", verdict.why, coded(verdict.reason))
    assert "上限 1.20 倍" in told and "稳定版为 60.0 %，要求至少 30.0 %" in told


def test_a_margin_that_nobody_has_paid_for_yet_is_not_shown() -> None:
    earns = RolloutPolicy(promote_after_s=0, min_margin=0.3)
    verdict = judge(earns, side(200), side(1000), Agreement(), 60)
    assert verdict.decision == "go on" and "nothing sold yet" in verdict.why


def test_what_cannot_be_shown_in_time_is_taken_back_unless_a_person_decides() -> None:
    day = 86_400
    assert decided(side(37), side(300), QUICK, day) == "roll back"
    assert decided(side(37), side(300), RolloutPolicy(automatic=False), day) == "go on"


@pytest.mark.parametrize(
    "wrong",
    [{"max_error": 2.0}, {"min_calls": 0}, {"max_latency_ratio": 0.5}, {"promote_after_s": 90_000}, {"chance": 0.0},
     {"grace_s": -1}, {"min_margin": 3.0}, {"mirror": 101}, {"nothing": 1}, {"min_calls": "many"}],
)  # fmt: skip
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadRequest):
        policy_of(wrong)


COUNTS = st.integers(0, 400)


@settings(max_examples=150, deadline=None)
@given(COUNTS, COUNTS, COUNTS, COUNTS, st.integers(0, 100_000))
def test_more_errors_never_help(calls: int, errors: int, stable: int, stable_errors: int, elapsed: int) -> None:
    """Whatever was measured: one more failed call instead of a good one never turns a rollback into anything better."""
    errors, stable_errors = min(errors, max(0, calls - 1)), min(stable_errors, stable)
    usual = Side(Stats(calls=stable, errors=stable_errors))
    rank = {"promote": 0, "go on": 1, "roll back": 2}
    before = decided(Side(Stats(calls=calls, errors=errors)), usual, elapsed_s=elapsed)
    after = decided(Side(Stats(calls=calls, errors=errors + 1)), usual, elapsed_s=elapsed)
    assert rank[after] >= rank[before] or calls == 0


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 10_000), st.integers(0, 86_399))
def test_nothing_is_promoted_before_its_calls(calls: int, left: int, stable: int, elapsed: int) -> None:
    """Calls that the caller left do not count towards the minimum."""
    canary = Side(Stats(calls=calls + left, left=left))
    assert decided(canary, Side(Stats(calls=stable)), elapsed_s=elapsed) != "promote"


def test_an_equal_version_is_hardly_ever_taken_back_however_often_one_looks() -> None:
    """200 rollouts of versions with the same 3 % of errors and the same times, looked at after every tenth call: the
    promise is at most 5 % of false alarms."""
    policy = RolloutPolicy(min_calls=10**6, max_error=0.0, max_latency_ratio=1.0)
    alarms = 0
    for seed in range(200):
        chance = random.Random(seed)
        new, old = Side(), Side()
        for number in range(1, 1001):
            one = new if number % 4 == 0 else old
            one.stats.calls += 1
            if chance.random() < 0.03:
                one.stats.errors += 1
            else:
                one.stats.latency.add(chance.lognormvariate(-3, 0.5))
            if number % 40 == 0 and judge(policy, new, old, Agreement(), 0).decision == "roll back":
                alarms += 1
                break
    assert alarms <= 10


@pytest.mark.parametrize(("share", "within"), [(0.2, 120), (0.5, 40), (1.0, 8)])
def test_a_faulty_version_is_found_soon(share: float, within: int) -> None:
    """Its calls until it is taken back, in nine of ten rollouts at one call in ten."""
    needed = []
    for seed in range(60):
        chance = random.Random(seed)
        new, old = Side(), Side(Stats())
        for number in range(1, 2000):
            old.stats.calls += 9
            new.stats.calls += 1
            new.stats.errors += chance.random() < share
            if decided(new, old, RolloutPolicy(min_calls=10**6)) == "roll back":
                needed.append(number)
                break
    assert len(needed) == 60
    assert sorted(needed)[53] <= within
