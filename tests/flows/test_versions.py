"""Versions of a model: what is in service, what was and why, and the way back from every step."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serve import tiny_models
from tollway.artifacts import tuning
from tollway.flows import engine_choice, release, versions
from tollway.flows.rollout_verdict import RolloutPolicy, policy_of
from tollway.forge.models import bases
from tollway.kit.errors import BadRequest, Conflict, NotFound
from tollway.kit.settings import Settings
from tollway.serve import deployments, models
from tollway.shop import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop with three versions of `mood` on the shelf, the first on offer."""
    yield from opened(tmp_path, {})


@pytest.fixture(params=["sqlite", "postgres"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """The same on each of the databases."""
    server = {"TOLLWAY_DATABASE_URL": request.getfixturevalue("postgres_url")} if request.param == "postgres" else {}
    yield from opened(tmp_path, server)


def opened(tmp_path: Path, environment: dict[str, str]) -> Iterator[Shop]:
    with Shop.open(Settings(tmp_path / "home", environment=environment)) as shop:
        for number in range(3):
            folder = tmp_path / str(number)
            about = tiny_models.text_classifier(folder)
            (folder / "note.txt").write_text(str(number))
            shop.store.add_package("mood", folder, about)
        release.deploy(shop, "mood", "1")
        yield shop


def in_service(shop: Shop) -> dict[str, tuple[str, int]]:
    with shop.db.read() as conn:
        return {role: (one.version, one.share) for role, one in deployments.running(conn, "mood").items()}


def test_a_canary_is_promoted_and_the_version_before_stays_warm(shop: Shop) -> None:
    versions.start(shop, "mood", "2", "canary", 10)
    assert in_service(shop) == {"stable": ("1", 0), "canary": ("2", 10)}
    versions.promote(shop, "mood")
    assert in_service(shop) == {"stable": ("2", 0), "warm": ("1", 0)}
    with shop.db.read() as conn:
        assert models.get_model(conn, "mood").version == "2"
    told = [(one.role, one.version, one.state) for one in versions.status(shop, "mood").history]
    assert ("canary", "2", "promoted") in told and ("stable", "1", "ended") in told
    with pytest.raises(NotFound):
        versions.promote(shop, "mood")


def test_the_way_back_from_a_canary_and_from_a_deployment(shop: Shop) -> None:
    versions.start(shop, "mood", "2", "canary", 10)
    taken = versions.back(shop, "mood", "it was rude")
    assert (taken.state, taken.why, taken.version) == ("rolled_back", "it was rude", "2")
    assert in_service(shop) == {"stable": ("1", 0)}
    release.deploy(shop, "mood", "2", grace_s=60)
    release.deploy(shop, "mood", "3", grace_s=60)
    assert in_service(shop) == {"stable": ("3", 0), "warm": ("2", 0)}
    assert versions.status(shop, "mood").way_back == "2"
    assert versions.back(shop, "mood").version == "2"
    assert in_service(shop) == {"stable": ("2", 0)}
    assert versions.back(shop, "mood").version == "1"  # further back, not forth again
    with pytest.raises(Conflict, match="nothing"):
        versions.back(shop, "mood")


def test_the_same_canary_again_has_another_share_and_keeps_its_figures(shop: Shop) -> None:
    first = versions.start(shop, "mood", "2", "canary", 10)
    with shop.db.write() as conn:
        deployments.note_figures(conn, first.id, {"calls": 7}, "7 of 100 calls")
    again = versions.start(shop, "mood", "2", "canary", 50, RolloutPolicy(min_calls=5))
    assert (again.id, again.share, again.policy["min_calls"]) == (first.id, 50, 5)
    assert versions.status(shop, "mood").in_service[1].figures == {"calls": 7}
    versions.start(shop, "mood", "3", "canary", 20)
    assert in_service(shop)["canary"] == ("3", 20)
    assert versions.status(shop, "mood").history[1].why == "version 3 took its place as canary"


def test_a_shadow_and_a_canary_stand_beside_each_other_and_stop_ends_both(shop: Shop) -> None:
    versions.start(shop, "mood", "2", "canary", 10)
    versions.start(shop, "mood", "3", "shadow", 5)
    assert in_service(shop) == {"stable": ("1", 0), "canary": ("2", 10), "shadow": ("3", 5)}
    versions.start(shop, "mood", "3", "canary", 10)  # one role for a version
    assert in_service(shop) == {"stable": ("1", 0), "canary": ("3", 10)}
    assert [one.state for one in versions.stop(shop, "mood")] == ["ended"]
    with pytest.raises(NotFound):
        versions.stop(shop, "mood")


def test_deploying_a_version_ends_what_was_measured_against_the_one_before(shop: Shop) -> None:
    versions.start(shop, "mood", "2", "canary", 10)
    release.deploy(shop, "mood", "1")  # no change: a price may be set this way
    assert "canary" in in_service(shop)
    release.deploy(shop, "mood", "3")
    assert in_service(shop) == {"stable": ("3", 0)}
    release.retire(shop, "mood")
    assert in_service(shop) == {}


def test_models_without_versions_of_their_own_say_so(shop: Shop) -> None:
    release.add_upstream(shop, "far", "chat", models.Upstream("http://127.0.0.1:9/v1", "far"))
    with shop.db.write() as conn:
        models.offer_adapter(conn, 0, "ft:mood", "mood", "mood", "1", "org_1")
    for name, why in (("far", "upstream"), ("ft:mood", "adapter"), ("none", "no package|no model")):
        with pytest.raises((Conflict, NotFound), match=why):
            versions.back(shop, name)
    with pytest.raises(Conflict, match="answers all calls"):
        versions.start(shop, "mood", "1", "canary", 10)
    with pytest.raises(NotFound):
        versions.start(shop, "mood", "9", "canary", 10)
    for share in (0, 101):
        with pytest.raises(BadRequest):
            versions.start(shop, "mood", "2", "canary", share)
    assert in_service(shop) == {"stable": ("1", 0)}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("deploy"), st.sampled_from("123"), st.sampled_from([0, 60])),
        st.tuples(st.sampled_from(["canary", "shadow"]), st.sampled_from("123"), st.sampled_from([1, 50, 100])),
        st.tuples(st.sampled_from(["promote", "back", "stop"]), st.just(""), st.just(0)),
    ),
    max_size=10,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_whatever_is_done_one_version_is_stable_and_the_way_back_is_what_was_before(
    shop: Shop, steps: list[tuple[str, str, int]]
) -> None:
    release.deploy(shop, "mood", "1")
    for what, version, number in steps:
        before = versions.status(shop, "mood")
        try:
            if what == "deploy":
                release.deploy(shop, "mood", version, grace_s=number)
            elif what in ("canary", "shadow"):
                versions.start(shop, "mood", version, what, number)  # type: ignore[arg-type]
            else:
                getattr(versions, what)(shop, "mood")
        except (Conflict, NotFound):
            assert versions.status(shop, "mood") == before  # refused means: nothing happened
            continue
        now = versions.status(shop, "mood")
        with shop.db.read() as conn:
            assert models.get_model(conn, "mood").version == now.stable
        roles = [one.role for one in now.in_service]
        assert roles.count("stable") == 1 and len(roles) == len(set(roles))
        in_use = [one.version for one in now.in_service]
        assert len(in_use) == len(set(in_use)), "no version in two roles"
        assert next(one.version for one in now.in_service if one.role == "stable") == now.stable
        assert now.way_back != now.stable
        if now.stable != before.stable:
            canary_taken_back = what == "back" and any(one.role == "canary" for one in before.in_service)
            assert not canary_taken_back
            assert now.way_back == before.stable or (what == "back" and now.stable == before.way_back)
        for one in now.history:
            assert one.running == (one.ended_ms is None)
            assert one.running or one.why, "an end has a reason"


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """What each of some operators is told who act in the same moment."""
    gate = threading.Barrier(len(acts))

    def act(one: Callable[[], Any]) -> Any:
        gate.wait(30)
        try:
            return one()
        except (Conflict, NotFound) as error:
            return error

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(act, acts))


def test_of_operators_who_act_at_once_the_second_sees_what_the_first_did(either: Shop) -> None:
    """Two who promote, one who takes back, one who deploys, two who begin: whatever their order, what each is told is what is
    in the books, and no role is filled twice."""
    for _ in range(8):
        for told in at_once(
            *[lambda share=share: versions.start(either, "mood", "2", "canary", share) for share in (5, 9, 20)]
        ):
            assert isinstance(told, deployments.Record)
        promoted = at_once(
            lambda: versions.promote(either, "mood"),
            lambda: versions.back(either, "mood"),
            lambda: versions.promote(either, "mood"),
            lambda: versions.stop(either, "mood"),
        )
        with either.db.read() as conn:
            every = deployments.history(conn, "mood", 1000)
        beside = [one for one in every if one.state == "running"]
        assert sorted({one.role for one in beside}) == sorted(one.role for one in beside), "a role is filled twice"
        assert (
            sum(isinstance(one, deployments.Record) and one.role == "stable" and one.version == "2" for one in promoted)
            <= 1
        )
        ended = next(one for one in every if one.role == "canary")
        if isinstance(promoted[1], deployments.Record) and promoted[1].role == "canary":
            assert ended.state == "rolled_back" and in_service(either)["stable"] == ("1", 0)
        release.deploy(either, "mood", "1")


def test_another_engine_is_a_step_like_another_version_with_its_way_back(shop: Shop, tmp_path: Path) -> None:
    about = tiny_models.text_classifier(tmp_path / "both")
    tiny_models.in_torch(tmp_path / "both")
    package = shop.store.add_package("mood", tmp_path / "both", about)  # version 4
    release.deploy(shop, "mood", "4")

    def engines() -> tuple[str, str]:
        choice, (stable,) = tuning.choice(package), versions.status(shop, "mood").in_service
        return choice.engine if choice is not None else "", engine_choice.engine_of(stable)

    with pytest.raises(Conflict, match="answers all calls to mood already"):
        versions.start(shop, "mood", "4", "canary", 10, engine="torch")
    assert engines() == ("", ""), "what is refused changes nothing"
    release.deploy(shop, "mood", "4", engine="torch")
    found = versions.status(shop, "mood")
    assert (engines(), found.stable, found.way_back) == (("torch", "torch"), "4", "4")
    assert found.in_service[0].ready_ms is None and found.history[1].why == "torch took its place"
    release.deploy(shop, "mood", "4", engine="torch")
    assert versions.status(shop, "mood").in_service == found.in_service, "it is served so already"

    release.deploy(shop, "mood", "3")
    versions.back(shop, "mood")
    assert engines() == ("torch", "torch"), "back to the version is back to its engine"
    versions.back(shop, "mood")
    assert (engines(), versions.status(shop, "mood").stable) == (("", ""), "4")
    versions.back(shop, "mood")
    assert versions.status(shop, "mood").stable == "1"


def test_a_new_version_on_another_engine_that_is_taken_back_is_left_as_it_was(shop: Shop, tmp_path: Path) -> None:
    about = tiny_models.text_classifier(tmp_path / "both")
    tiny_models.in_torch(tmp_path / "both")
    package = shop.store.add_package("mood", tmp_path / "both", about)
    release.deploy(shop, "mood", engine="torch")
    assert tuning.choice(package) is not None
    versions.back(shop, "mood")
    assert (tuning.choice(package), versions.status(shop, "mood").stable) == (None, "1")


def test_the_engine_of_a_canary_goes_with_it(shop: Shop, tmp_path: Path) -> None:
    about = tiny_models.text_classifier(tmp_path / "both")
    tiny_models.in_torch(tmp_path / "both")
    package = shop.store.add_package("mood", tmp_path / "both", about)
    versions.start(shop, "mood", "4", "canary", 10, engine="torch")
    made = versions.start(shop, "mood", "4", "canary", 20, RolloutPolicy(min_calls=5))
    assert (made.share, engine_choice.engine_of(made)) == (20, "torch"), "other rules are no other engine"
    assert policy_of(engine_choice.rules_of(made)) == RolloutPolicy(min_calls=5)
    again = versions.start(shop, "mood", "4", "canary", 20, engine="onnx")
    assert again.id != made.id and engine_choice.engine_of(again) == "onnx"
    versions.back(shop, "mood")
    assert tuning.choice(package) is None, "as before the first of them"


def test_a_pipe_instead_of_a_model_file_is_not_waited_for(shop: Shop, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.gguf")
    with pytest.raises(NotFound, match="a pipe or a device, not a file"):
        release.import_file(shop, tmp_path / "x.gguf", "x")
    (tmp_path / "base").mkdir()
    os.mkfifo(tmp_path / "base" / "model.safetensors")
    with pytest.raises(BadRequest, match=r"base holds no model\.safetensors"):
        bases.look(str(tmp_path / "base"))
