"""`tollway model serving` and upstreams with several addresses."""

import pytest

from tollway.serve import models


@pytest.fixture
def mill(tollway, home):
    from tests.proof.house import shop_of

    with shop_of(home):
        pass  # opened once: there is a shop now
    assert tollway("model", "add", "mill", "--upstream", "http://a:1/v1/", "--upstream", "http://b:1/v1").code == 0
    return "mill"


def test_an_upstream_may_have_several_addresses(ask, mill):
    (model,) = ask("model", "list")
    there = models.Upstream(**{**model["upstream"], "more": tuple(model["upstream"]["more"])})
    assert there.urls == ("http://a:1/v1", "http://b:1/v1")


def test_how_a_model_is_served_is_kept_over_versions(ask, mill):
    set_ = ask("model", "serving", mill, "--replicas", "0-4", "--idle-s", "60", "--pin", "--cost-limit", "0.5")
    assert set_["serving"] == {
        "replicas_min": 0,
        "replicas_max": 4,
        "idle_s": 60.0,
        "wait_s": None,
        "pinned": True,
        "limit_micros_per_hour": 500_000,
    }
    ask("model", "add", mill, "--upstream", "http://c:1/v1")
    assert ask("model", "serving", mill)["serving"] == set_["serving"]
    assert ask("model", "serving", mill, "--replicas", "2")["serving"]["replicas_max"] == 2
    assert ask("model", "serving", mill, "--default")["serving"]["replicas_min"] is None


@pytest.mark.parametrize(
    "wrong", [("--replicas", "x"), ("--replicas", "4-2"), ("--idle-s", "-1"), ("--cost-limit", "no")]
)
def test_what_cannot_be_is_refused(tollway, mill, wrong):
    ran = tollway("model", "serving", mill, *wrong)
    assert ran.code == 2
    assert "Traceback" not in ran.err
