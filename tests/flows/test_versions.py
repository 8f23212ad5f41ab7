"""Versions of a model: what is in service, what was and why, and the way back from every step."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serve import tiny_models
from tollway.artifacts import tuning
from tollway.artifacts.store import ModelPackage
from tollway.flows import release, tune, versions
from tollway.flows.rollout_verdict import RolloutPolicy, policy_of
from tollway.forge.models import bases
from tollway.kit.errors import BadRequest, Conflict, NotFound
from tollway.kit.settings import Settings
from tollway.serve import assembly, deployments, models
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


def in_two_formats(shop: Shop, folder: Path) -> ModelPackage:
    """Version 4 of `mood`: for onnx, as its manifest says, and for torch."""
    about = tiny_models.text_classifier(folder)
    tiny_models.in_torch(folder)
    return shop.store.add_package("mood", folder, about)


def engines(shop: Shop) -> dict[str, tuple[str, str]]:
    """What is in service, by role: the version, and the engine that a gateway would load it on."""
    with shop.db.read() as conn:
        now, model = deployments.running(conn, "mood"), models.get_model(conn, "mood")
    found = {}
    for role, one in now.items():
        served = msgspec.structs.replace(model, version=one.version, chosen_engine=one.chosen_engine)
        found[role] = (one.version, assembly.engine(served, shop.store.get("mood", one.version), shop.settings).name)
    assert (now["stable"].version, now["stable"].chosen_engine) == (model.version, model.chosen_engine)
    return {str(role): one for role, one in found.items()}


def test_another_engine_is_a_step_like_another_version_with_its_way_back(shop: Shop, tmp_path: Path) -> None:
    in_two_formats(shop, tmp_path / "both")
    release.deploy(shop, "mood", "4")
    with pytest.raises(Conflict, match="answers all calls to mood already"):
        versions.start(shop, "mood", "4", "canary", 10, engine="torch")
    assert engines(shop) == {"stable": ("4", "onnx")}, "what is refused changes nothing"
    release.deploy(shop, "mood", "4", engine="torch")
    found = versions.status(shop, "mood")
    assert (engines(shop), found.stable, found.way_back) == ({"stable": ("4", "torch")}, "4", "4")
    assert found.in_service[0].ready_ms is None and found.history[1].why == "torch took its place"
    release.deploy(shop, "mood", "4", engine="torch")
    release.deploy(shop, "mood", "4")
    assert versions.status(shop, "mood").in_service == found.in_service, "it is served so already"

    release.deploy(shop, "mood", "3", grace_s=60)
    assert engines(shop)["warm"] == ("4", "torch")
    versions.back(shop, "mood")
    assert engines(shop) == {"stable": ("4", "torch")}, "back to the version is back to its engine"
    versions.back(shop, "mood")
    assert engines(shop) == {"stable": ("4", "onnx")}
    versions.back(shop, "mood")
    assert versions.status(shop, "mood").stable == "1"


@pytest.mark.parametrize("role", ["stable", "canary", "shadow"])
@pytest.mark.parametrize("end", [versions.back, versions.stop, lambda shop, name: release.deploy(shop, name, "3")])
def test_an_engine_goes_with_the_deployment_that_it_was_chosen_for(
    role: str, end: Callable[[Shop, str], Any], shop: Shop, tmp_path: Path
) -> None:
    in_two_formats(shop, tmp_path / "both")
    if role == "stable":
        release.deploy(shop, "mood", "4", engine="torch")
    else:
        versions.start(shop, "mood", "4", role, 10, engine="torch")  # type: ignore[arg-type]
    assert engines(shop)[role] == ("4", "torch")
    with contextlib.suppress(Conflict, NotFound):  # nothing beside it; no way back from a shadow
        end(shop, "mood")
    if "4" not in [one.version for one in versions.status(shop, "mood").in_service]:
        release.deploy(shop, "mood", "4")
        assert engines(shop) == {"stable": ("4", "onnx")}


def test_a_version_goes_on_with_its_engine_in_another_role(shop: Shop, tmp_path: Path) -> None:
    in_two_formats(shop, tmp_path / "both")
    versions.start(shop, "mood", "4", "shadow", 10, engine="torch")
    versions.start(shop, "mood", "4", "canary", 10)
    assert engines(shop) == {"stable": ("1", "onnx"), "canary": ("4", "torch")}
    versions.promote(shop, "mood")
    assert engines(shop) == {"stable": ("4", "torch"), "warm": ("1", "onnx")}
    release.deploy(shop, "mood", "3", grace_s=60)
    versions.start(shop, "mood", "4", "canary", 10)
    assert engines(shop) == {"stable": ("3", "onnx"), "canary": ("4", "torch")}
    release.deploy(shop, "mood", "4")
    assert engines(shop) == {"stable": ("4", "torch")}
    versions.back(shop, "mood")
    versions.back(shop, "mood")
    assert engines(shop) == {"stable": ("4", "torch")}, "where it was promoted"
    versions.back(shop, "mood")
    assert engines(shop) == {"stable": ("1", "onnx")}


def test_a_canary_on_another_engine_is_measured_anew(shop: Shop, tmp_path: Path) -> None:
    in_two_formats(shop, tmp_path / "both")
    first = versions.start(shop, "mood", "4", "canary", 10, engine="torch")
    made = versions.start(shop, "mood", "4", "canary", 20, RolloutPolicy(min_calls=5))
    assert (made.id, made.share, made.chosen_engine) == (first.id, 20, "torch"), "other rules are no other engine"
    assert policy_of(made.policy) == RolloutPolicy(min_calls=5)
    again = versions.start(shop, "mood", "4", "canary", 20, engine="onnx")
    assert (again.id != made.id, again.chosen_engine, again.figures) == (True, "onnx", {})
    assert versions.status(shop, "mood").history[1].why == "onnx took its place"


def test_what_is_measured_takes_the_place_of_what_was_chosen_by_name_and_there_is_a_way_back(
    shop: Shop, tmp_path: Path
) -> None:
    in_two_formats(shop, tmp_path / "both")
    release.deploy(shop, "mood", "4", engine="torch")
    assert tune.undo(shop, "mood") and engines(shop) == {"stable": ("4", "onnx")}
    assert "measured" in versions.status(shop, "mood").history[1].why
    assert not tune.undo(shop, "mood"), "it is served as its manifest says"
    versions.back(shop, "mood")
    assert engines(shop) == {"stable": ("4", "torch")}
    release.deploy(shop, "mood", "3")
    tune.undo(shop, "mood", "4")
    assert engines(shop) == {"stable": ("3", "onnx")}


def test_an_engine_is_chosen_for_every_gateway_of_a_shop(postgres_url: str, tmp_path: Path) -> None:
    """Each machine has its own package folder; what was measured on one says nothing of the other, what was chosen does."""
    where = {"TOLLWAY_DATABASE_URL": postgres_url}
    with (
        Shop.open(Settings(tmp_path / "here", environment=where)) as here,
        Shop.open(Settings(tmp_path / "there", environment=where)) as there,
    ):
        for number, shop in enumerate((here, there)):
            in_two_formats(shop, tmp_path / str(number))
        release.deploy(here, "mood")
        tuning.keep(there.store, there.store.get("mood"), tuning.Choice(engine="torch", format="pt2", threads=1))
        assert (engines(here)["stable"][1], engines(there)["stable"][1]) == ("onnx", "torch")
        release.deploy(here, "mood", engine="onnx")
        assert (engines(here)["stable"][1], engines(there)["stable"][1]) == ("onnx", "onnx")
        release.deploy(here, "mood", engine="torch")
        assert (engines(here)["stable"][1], engines(there)["stable"][1]) == ("torch", "torch")
        about = tiny_models.text_classifier(tmp_path / "another")
        there.store.add_package("mood", tmp_path / "another", about)
        (tmp_path / "0" / "note.txt").write_text("2")
        assert in_two_formats(here, tmp_path / "0").manifest.version == "2"
        release.deploy(here, "mood", "2", engine="torch")
        with pytest.raises(Conflict, match="mood@2, as it lies on this machine, has no format for torch"):
            engines(there)


def test_of_two_who_choose_an_engine_at_once_one_is_the_last(either: Shop, tmp_path: Path) -> None:
    """Beside each other, beside a way back, beside tuning: what is in service is the last step of the history."""
    in_two_formats(either, tmp_path / "both")
    for _ in range(6):
        release.deploy(either, "mood", "4", engine="onnx")
        at_once(
            lambda: release.deploy(either, "mood", "4", engine="torch"),
            lambda: release.deploy(either, "mood", "4", engine="onnx"),
            lambda: versions.back(either, "mood"),
            lambda: tune.undo(either, "mood"),
        )
        with either.db.read() as conn:
            steps = [one for one in deployments.history(conn, "mood", 1000) if one.role == "stable"]
        assert [one.running for one in steps] == [True] + [False] * (len(steps) - 1)
        assert engines(either)["stable"] == (steps[0].version, steps[0].chosen_engine or "onnx")


def test_two_who_offer_a_name_for_the_first_time_at_once_both_succeed(either: Shop, tmp_path: Path) -> None:
    package = tmp_path / "0"
    for name in ("glad", "calm", "keen"):
        either.store.add_package(name, package, tiny_models.text_classifier(package))
        far = models.Upstream("http://127.0.0.1:9/v1", "far")
        told = at_once(
            lambda name=name: release.deploy(either, name, engine="onnx"),
            lambda name=name: release.deploy(either, name),
            lambda name=name, far=far: release.add_upstream(either, name, "classification", far),
        )
        assert [one.name for one in told] == [name] * 3
        (stable,) = versions.status(either, name).in_service
        with either.db.read() as conn:
            assert models.get_model(conn, name).version == stable.version


def test_a_deployment_that_is_killed_before_its_commit_has_not_happened(shop: Shop, tmp_path: Path) -> None:
    in_two_formats(shop, tmp_path / "both")
    release.deploy(shop, "mood", "4")
    before = versions.status(shop, "mood")
    words = [sys.executable, "-m", "tollway", "deploy", "mood", "--engine", "torch", "--home", str(shop.settings.home)]
    armed = os.environ | {"TOLLWAY_CRASH_AT": "deploy.before_commit"}
    assert subprocess.run(words, env=armed, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert (versions.status(shop, "mood"), engines(shop)) == (before, {"stable": ("4", "onnx")})


def test_a_pipe_instead_of_a_model_file_is_not_waited_for(shop: Shop, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.gguf")
    with pytest.raises(NotFound, match="a pipe or a device, not a file"):
        release.import_file(shop, tmp_path / "x.gguf", "x")
    (tmp_path / "base").mkdir()
    os.mkfifo(tmp_path / "base" / "model.safetensors")
    with pytest.raises(BadRequest, match=r"base holds no model\.safetensors"):
        bases.look(str(tmp_path / "base"))
