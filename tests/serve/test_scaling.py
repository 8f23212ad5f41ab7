"""How many replicas: the formulas against published figures, and a simulated day with its nights and its rush."""

import heapq
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.serve.scaling import Scaler, ScalingPolicy, Service, erlang_c, expected_wait_s


@pytest.mark.parametrize(
    ("servers", "load", "published"),
    [
        (1, 0.5, 0.5),  # M/M/1: the utilisation
        (2, 1.0, 1 / 3),  # M/M/2 at half load, any textbook
        (3, 2.0, 4 / 9),
        (14, 10.0, 0.174),  # the worked example of call centre tables: 10 erlangs, 14 agents
        (5, 4.0, 0.5541),  # Erlang C tables
        (10, 8.0, 0.4092),
        (20, 16.0, 0.2561),
    ],
)
def test_the_share_that_waits_is_as_published(servers: int, load: float, published: float) -> None:
    assert erlang_c(servers, load) == pytest.approx(published, abs=6e-4)


def test_the_wait_is_as_published() -> None:
    """100 calls in half an hour of 180 s each, 14 agents: an average speed of answer of 7.8 s."""
    assert expected_wait_s(14, 100 / 1800, Service(180.0)) == pytest.approx(7.8, abs=0.05)
    regular = expected_wait_s(1, 0.8, Service(1.0, 0.0))
    assert regular == pytest.approx(
        0.5 * expected_wait_s(1, 0.8, Service(1.0))
    )  # M/D/1: half of M/M/1 (Pollaczek-Khinchine)
    assert expected_wait_s(2, 2.1, Service(1.0)) == math.inf


@given(st.integers(1, 40), st.floats(0.01, 39.9))
def test_more_servers_never_wait_longer(servers: int, load: float) -> None:
    assert 0 <= erlang_c(servers + 1, load) <= erlang_c(servers, load) <= 1
    assert expected_wait_s(servers + 1, load, Service(1.0)) <= expected_wait_s(servers, load, Service(1.0))


@given(
    st.lists(st.integers(0, 200), max_size=60),
    st.integers(0, 3),
    st.integers(0, 9),
    st.integers(0, 12),
    st.floats(0, 5),
    st.integers(0, 500),
)
def test_whatever_comes_the_limits_hold(
    arrivals: list[int], least: int, more: int, replicas: int, service_s: float, waiting: int
) -> None:
    policy = ScalingPolicy(least=least, most=least + more, price_micros=100, limit_micros=450)
    scaler = Scaler(policy)
    for arrived in arrivals:
        scaler.observe(arrived)
    wanted = scaler.decide(0.0, replicas, Service(service_s), waiting).replicas
    assert min(least, policy.affordable) <= wanted <= max(policy.affordable, 0)
    assert wanted * 100 <= 450


def test_a_backlog_brings_more_and_a_quiet_minute_takes_none_away() -> None:
    scaler = Scaler(ScalingPolicy(least=1, most=4, wait_s=0.5, down_after_s=120))
    for _ in range(30):
        scaler.observe(2)
    assert scaler.decide(0, 1, Service(0.2)).replicas == 1
    assert scaler.decide(0, 1, Service(0.2), waiting=150).replicas == 4
    for _ in range(60):
        scaler.observe(0)
    assert scaler.decide(60, 4, Service(0.2)).replicas == 4
    assert scaler.decide(100, 4, Service(0.2)).replicas == 4
    assert scaler.decide(181, 4, Service(0.2)).replicas == 3
    assert scaler.decide(182, 3, Service(0.2)).replicas == 3


def test_after_a_burst_they_go_one_by_one_though_no_call_is_left_to_measure() -> None:
    """Fifteen calls, and silence: soon nothing is known of how long a call takes, and the replicas must go all the same."""
    scaler = Scaler(ScalingPolicy(most=3))
    for _ in range(5):
        scaler.observe(3)
    replicas = scaler.decide(5, 1, Service(1.0), 12).replicas
    assert replicas == 3
    seen = []
    for second in range(6, 1200):
        scaler.observe(0)
        replicas = scaler.decide(second, replicas, Service(1.0) if second < 60 else None).replicas
        seen.append(replicas)
    assert [count for count, before in zip(seen[1:], seen, strict=False) if count != before] == [2, 1]
    assert seen.index(2) > 120 and seen.index(1) - seen.index(2) >= 120


def test_slots_of_a_language_model_are_servers() -> None:
    """Three answers at a time of 4 s each need no second replica of eight slots; of one slot they would need four."""
    scaler = Scaler(ScalingPolicy(least=1, most=8, wait_s=0.5))
    for second in range(60):
        scaler.observe(1 if second % 4 else 0)
    assert scaler.decide(0, 1, Service(4.0, 1.0, slots=8)).replicas == 1
    assert scaler.decide(0, 1, Service(4.0, 1.0)).replicas >= 4


def rate_at(hour: float) -> float:
    """Calls a second over a day: quiet nights, a hump by day, a rush at noon that is there within a minute."""
    day = max(0.0, math.sin((hour - 6) / 14 * math.pi)) if 6 < hour < 20 else 0.0
    return 0.3 + 12.0 * day + (10.0 if 12 <= hour < 12.5 else 0.0)


def test_a_simulated_day(capsys: pytest.CaptureFixture[str]) -> None:
    """Calls of 0.25 s (lognormal), replicas that take 8 s to load, 24 hours in two seconds."""
    dice = random.Random(7)
    mean_s, sigma = 0.25, 0.8
    mu = math.log(mean_s) - sigma * sigma / 2
    service = Service(mean_s, math.exp(sigma * sigma) - 1)
    policy = ScalingPolicy(least=1, most=12, wait_s=0.25, down_after_s=120, clear_within_s=10)
    scaler, replicas, changes, used, late, calls, waits = Scaler(policy), 1, 0, 0.0, 0, 0, 0.0
    free = [0.0]  # when each replica is free
    next_at = 0.0
    for second in range(86_400):
        rate = rate_at(second / 3600)
        arrived = queued = 0
        while next_at < second + 1:
            begins = max(next_at, heapq.heappop(free))
            heapq.heappush(free, begins + dice.lognormvariate(mu, sigma))
            calls, waits, late = calls + 1, waits + begins - next_at, late + (begins - next_at > 1.0)
            arrived, queued = arrived + 1, queued + (begins > second + 1)
            next_at += dice.expovariate(rate)
        scaler.observe(arrived)
        wanted = scaler.decide(second, replicas, service, queued).replicas
        if wanted != replicas:
            changes += 1
            for _ in range(wanted - replicas):
                heapq.heappush(free, second + 8.0)
            for _ in range(replicas - wanted):
                heapq.heappop(free)
            replicas = wanted
        used += replicas / 3600
    oracle = sum(max(1, math.ceil(rate_at(s / 3600) * mean_s / 0.7)) for s in range(86_400)) / 3600
    with capsys.disabled():
        print(f"\n{calls} calls, mean wait {waits / calls:.3f} s, {late / calls:.2%} over 1 s, {used:.0f} replica-hours "
              f"(a clairvoyant at 70 %: {oracle:.0f}; always the most: {24 * 12}), {changes} changes")  # fmt: skip
    assert waits / calls <= policy.wait_s
    assert late / calls <= 0.03
    assert used <= 1.5 * oracle
    assert changes <= 120
