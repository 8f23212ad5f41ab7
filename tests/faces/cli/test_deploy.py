"""`tollway deploy`: what it says is what answers, also when somebody else deploys in the same moment."""

import pytest

from tests.proof.house import shop_of
from tests.serve import tiny_models
from tollway.artifacts import tuning
from tollway.faces.cli import deploy_view
from tollway.faces.cli.desk import Desk
from tollway.flows import release, versions
from tollway.kit.errors import Conflict


@pytest.fixture
def mood(home, tmp_path):
    """Two versions on the shelf, of which the second is for torch too; the first answers."""
    with shop_of(home) as shop:
        tiny_models.shelve(shop.store, "mood", tmp_path / "1")
        about = tiny_models.text_classifier(tmp_path / "2")
        tiny_models.in_torch(tmp_path / "2")
        shop.store.add_package("mood", tmp_path / "2", about)
        release.deploy(shop, "mood", "1")
        yield shop


def test_who_is_replaced_while_it_waits_is_not_told_that_it_answers(home, mood):
    desk = Desk(home)
    here = release.deploy(mood, "mood", "2", engine="torch")
    assert deploy_view.stable(deploy_view.until_up(desk, "mood", here)) == "version 2 on torch"
    there = release.deploy(mood, "mood", "2", engine="onnx")
    assert deploy_view.stable(deploy_view.until_up(desk, "mood", there)) == "version 2 on onnx"
    with pytest.raises(Conflict, match=r"mood@2 on torch is not in service any more: onnx took its place\.") as told:
        deploy_view.until_up(desk, "mood", here)
    assert told.value.code == "not_in_service" and "mood is answered by version 2 on onnx." in told.value.hint
    versions.back(mood, "mood")
    assert deploy_view.stable(deploy_view.until_up(desk, "mood", here)) == "version 2 on torch"
    with pytest.raises(Conflict, match=r"mood@2 on onnx was taken back: taken back by hand\."):
        deploy_view.until_up(desk, "mood", there)
    desk.close()


def test_a_canary_that_is_deployed_on_another_engine_meanwhile_is_not_promoted(home, mood):
    canary = versions.start(mood, "mood", "2", "canary", 10, engine="torch")
    release.deploy(mood, "mood", "2", engine="onnx")
    found = versions.status(mood, "mood")
    ended = next(one for one in found.history if one.id == canary.id)
    with pytest.raises(Conflict, match=r"mood@2 on torch is not in service any more: onnx took its place\."):
        deploy_view.require_not_over(found, ended)
    release.deploy(mood, "mood", "1")
    canary = versions.start(mood, "mood", "2", "canary", 10, engine="torch")
    release.deploy(mood, "mood", "2")
    found = versions.status(mood, "mood")
    promoted = next(one for one in found.history if one.id == canary.id)
    deploy_view.require_not_over(found, promoted)
    assert (promoted.state, deploy_view.stable(found)) == ("promoted", "version 2 on torch")


def test_the_engine_that_was_chosen_is_shown_where_models_are_listed(mood, ask, tollway):
    ask("deploy", "mood", "--engine", "torch")
    (model,) = ask("model", "list")
    assert (model["version"], model["engine"]) == ("2", "torch")
    assert "version 2 on onnx" in tollway("deploy", "mood", "--engine", "onnx").out
    wrong = tollway("deploy", "mood", "--engine", "openvino")
    assert (wrong.code, "cannot be served on 'openvino': its formats are for onnx, torch" in wrong.err) == (2, True)


def test_the_engine_that_tuning_chose_is_shown_too(mood, ask, tollway):
    choice = tuning.Choice(engine="torch", format="pt2", threads=2)
    release.deploy(mood, "mood", "2")
    tuning.keep(mood.store, mood.store.get("mood", "2"), choice)
    assert [one["engine"] for one in ask("model", "list")] == ["torch"]
    assert "torch as pt2, 2 threads (tuned here)" in tollway("model", "show", "mood").out
    assert "refuses" not in tollway("model", "show", "mood").out and ask("model", "show", "mood")["lost"] == []
    tried = [{"verdict": "passes", "lost": ["seed"]}, {"verdict": "chosen", "lost": ["tools", "logprobs"]}]
    tuning.write(mood.store.get("mood", "2"), {"tried": tried})
    told = " ".join(tollway("model", "show", "mood").out.split())
    assert "(tuned here); it refuses tools, logprobs: `tollway model tune mood --undo` gives them back" in told
    assert ask("model", "show", "mood")["lost"] == ["tools", "logprobs"]
    ask("deploy", "mood", "--engine", "onnx")
    shown = ask("model", "show", "mood")
    assert shown["lost"] == []
    assert (shown["engine"], shown["tuned"]) == ("onnx", None), "who names an engine goes before what was measured"
