"""Calls that work as they are shown: from the package's own example, else from what its features learnt."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forge.models import worlds
from tests.serve import tiny_models
from tollway import inference
from tollway.flows import release, sample_calls
from tollway.forge import models as nets
from tollway.inference import answers
from tollway.kit.settings import Settings
from tollway.serve.engines import Caps
from tollway.serve.models import Model, Upstream
from tollway.shop import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with Shop.open(Settings(tmp_path / "home", environment={})) as shop:
        yield shop


def calls(shop: Shop, model: Model) -> dict[str, sample_calls.SampleCall]:
    return {one.call: one for one in sample_calls.of(shop.store, shop.settings, model)}


EXPECTED = {
    "mood": ["classify", "moderations", "explain"],
    "words": ["embeddings", "rerank"],
    "digits": ["classify", "explain"],
    "rent": ["classify", "explain"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_kind_shows_what_it_answers(shop: Shop, tmp_path: Path, name: str) -> None:
    package = tiny_models.shelve(shop.store, name, tmp_path)
    found = calls(shop, release.deploy(shop, name))
    assert list(found) == EXPECTED[name]
    for call in found.values():
        assert call.body["model"] == name and call.path.startswith("/v1/")
    if name != "words":  # the replica's own check of the input
        features = inference.load_features(package.folder)
        features.check(answers.rows_of(found["classify"].body["input"], features, package.manifest.input))


def test_what_the_package_carries_is_what_is_shown(shop: Shop, tmp_path: Path) -> None:
    about = tiny_models.MAKERS["mood"](tmp_path)
    (tmp_path / "example.json").write_text(json.dumps({"input": "a truly lovely film"}))
    shop.store.add_package("mood", tmp_path, about)
    found = calls(shop, release.deploy(shop, "mood"))
    assert {one.body["input"] for one in found.values()} == {"a truly lovely film"}


def test_an_example_that_cannot_be_read_is_none(shop: Shop, tmp_path: Path) -> None:
    about = tiny_models.MAKERS["mood"](tmp_path)
    (tmp_path / "example.json").write_text("{not json")
    shop.store.add_package("mood", tmp_path, about)
    assert calls(shop, release.deploy(shop, "mood"))["classify"].body["input"] == sample_calls.TEXT


def test_an_upstream_and_a_model_whose_package_is_gone_show_one_too(shop: Shop) -> None:
    upstream = Upstream("http://127.0.0.1:9/v1", "gpt")
    far = Model("far", "chat", "far", "upstream", "upstream", upstream, 0)
    assert list(calls(shop, far)) == ["chat", "completions"]
    spoken = calls(shop, Model("far", "speech", "far", "upstream", "upstream", upstream, 0))
    assert spoken["speech"].body["voice"] == "alloy"
    drawn = calls(shop, Model("far", "image-generation", "far", "upstream", "upstream", upstream, 0))
    assert drawn["images"].body["prompt"] and list(drawn) == ["images"]
    gone = Model("gone", "object-detection", "gone", "onnx", "7", None, 0)
    assert list(calls(shop, gone)) == ["detect"]


_FIRST = {
    "text-classification": "bilstm", "text-regression": "bilstm", "sentence-embedding": "transformer",
    "token-classification": "bilstm", "translation": "seq2seq",
    "image-classification": "cnn", "object-detection": "centernet", "tabular-classification": "tabular",
    "tabular-regression": "tabular",
}  # fmt: skip


@pytest.mark.parametrize("task", _FIRST)
def test_what_is_made_up_is_read_by_the_features_it_was_made_from(task: str, tmp_path: Path) -> None:
    features = nets.fit_features(worlds.Part(architecture=_FIRST[task]), task, worlds.TABLES[task])
    features.save(tmp_path)
    kept = json.loads((tmp_path / "features.json").read_text())
    made = sample_calls.made_up(kept)
    rows = answers.rows_of(made, features, "row" if task.startswith("tabular") else "text")
    features.check(rows)
    assert features.encode(rows)



def test_a_model_that_draws_is_asked_for_a_class_it_knows() -> None:
    knows = sample_calls.Input(None, Caps(images=True, prompts=("boot", "shirt")))
    assert sample_calls._drawn(knows) == {"prompt": "boot", "n": 1}
    assert sample_calls._drawn(sample_calls.Input(None, Caps(images=True))) == {"n": 1}
