"""Whose turn a call is: by the caller's word, its plan, the shop."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from tollway.flows.call import turn_of
from tollway.sell.catalog import Terms


def caller(terms: Terms | None) -> Any:
    return SimpleNamespace(account=SimpleNamespace(org_id="org", plan=terms and SimpleNamespace(terms=terms)))


@pytest.mark.parametrize(
    ("terms", "said_s", "tier", "wanted"),
    [
        (None, None, "", (300, 1, 1)),
        (Terms(), None, "", (300, 1, 1)),
        (Terms(timeout_ms=5000), None, "", (5, 1, 1)),
        (Terms(timeout_ms=5000), 20.0, "", (20, 1, 1)),
        (Terms(), 4000.0, "", (300, 1, 1)),
        (Terms(weight=4, priority="priority"), None, "", (300, 0, 4)),
        (Terms(weight=4, priority="priority"), None, "batch", (300, 2, 4)),
    ],
)
def test_a_turn_is_what_was_promised(
    terms: Terms | None, said_s: float | None, tier: str, wanted: tuple[int, int, int]
) -> None:
    service: Any = SimpleNamespace(call_timeout_s=300.0)
    left_s, its_tier, weight = wanted
    began = time.monotonic()
    turn = turn_of(service, caller(terms), said_s, tier)
    assert began + left_s <= turn.deadline <= time.monotonic() + left_s
    assert (turn.org_id, turn.tier, turn.weight) == ("org", its_tier, weight)


def test_terms_that_cannot_be_kept_are_refused() -> None:
    assert any("weight" in problem for problem in Terms(weight=0).check())
    assert any("timeout_ms" in problem for problem in Terms(timeout_ms=-1).check())
    assert not Terms(weight=1000, timeout_ms=1, priority="priority").check()
