"""A rollout's figures: every gateway's part counts, before and after it was started anew, and nothing counts twice."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tollway.flows.rollout_figures import Figures, Growth, Part, read
from tollway.flows.rollout_verdict import Agreement
from tollway.serve.stats import Stats


def stats(calls: int, errors: int = 0, took_s: float = 0.05) -> Stats:
    made = Stats(since_ms=77, calls=calls, errors=errors)
    for _ in range(calls - errors):
        made.latency.add(took_s)
    return made


def test_only_what_grew_since_the_beginning_counts() -> None:
    growth, part, served = Growth(), Part(), stats(40, 3)
    growth.begin("stable", served)
    growth.add("stable", served, part.stable)
    assert (part.stable.calls, part.stable.errors, part.stable.latency.count) == (0, 0, 0)
    served.calls += 2
    served.latency.add(0.2)
    for _ in range(2):
        growth.add("stable", served, part.stable)
    assert (part.stable.calls, part.stable.latency.count) == (2, 1)


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 7))
def test_counters_that_begin_anew_lose_nothing(steps: list[int], anew: int) -> None:
    """A replica's counters start from nothing when its version is loaded again."""
    growth, part, served, true = Growth(), Part(), Stats(), 0
    for number, step in enumerate(steps):
        if number == anew:
            served = Stats()
            if step <= served.calls:
                continue
        served.calls += step
        true += step
        growth.add("canary", served, part.canary)
    assert part.canary.calls <= true  # a restart with more calls than before hides the difference, never adds
    if anew >= len(steps):
        assert part.canary.calls == true


def test_the_sum_is_of_all_gateways_and_survives_being_stored() -> None:
    figures = Figures(parts={"gw_1": Part(stats(10, 1), stats(90), Agreement(3, 2, 2.5, 1)), "gw_2": Part(stats(5))})
    figures.canary.rated = 4
    figures.add_up()
    figures.add_up()
    assert (figures.canary.stats.calls, figures.stable.stats.calls, figures.canary.stats.errors) == (15, 90, 1)
    assert figures.canary.stats.latency.count == 14 and figures.canary.rated == 4
    assert (figures.agreement.compared, figures.agreement.dropped) == (3, 1)
    again = read(msgspec.json.decode(msgspec.json.encode(figures)), "dep_1")
    assert again == figures


def test_figures_of_another_release_start_anew() -> None:
    assert read({"canary": "many"}, "dep_1") == Figures()
    assert read({}, "dep_1") == Figures()
