"""A model that was made here can be the base of the next: its words, pixels and weights stay, its answers may be new."""

import pyarrow as pa
import pytest
import torch

from tests.forge.models import worlds
from tollway.forge import models
from tollway.kit.errors import BadRequest


def shelved(net, tmp_path, name="first", version="1"):
    models.save(net, tmp_path / "packages" / name / version)
    return name


@pytest.fixture
def first(tmp_path):
    net = worlds.make("text-classification", architecture="bilstm", options={"min_count": 1, "width": 16})
    worlds.learn(net, 5)
    return net, shelved(net, tmp_path)


def grown(name, task, table, home):
    part = worlds.Part(base=name)
    return models.create(part, task, models.fit_features(part, task, table, home), 3, home)


def test_more_of_the_same_begins_where_the_first_ended(first, tmp_path):
    net, name = first
    table = pa.table({"text": ["lovely unheard words"] * 3, "label": ["pos", "neg", "pos"]})
    again = grown(name, "text-classification", table, tmp_path)
    assert again.features.vocabulary_size == net.features.vocabulary_size
    assert again.spec.parent == name
    rows = worlds.ask("text-classification")
    assert models.TorchPredictor(again).predict(rows) == models.TorchPredictor(net).predict(rows)


def test_new_answers_get_a_new_head_on_the_old_body(first, tmp_path):
    net, name = first
    table = pa.table({"text": ["a", "b", "c"], "label": ["good", "bad", "so-so"]})
    again = grown(name, "text-classification", table, tmp_path)
    assert again.features.labels == ["bad", "good", "so-so"]
    assert torch.equal(again.embedding.weight, net.embedding.weight)
    assert again.head.out.weight.shape == (3, 32)


def test_another_task_of_the_same_kind_is_possible_and_of_another_is_not(first, tmp_path):
    _, name = first
    table = pa.table({"text": ["a", "b"], "target": [1.0, 100.0]})
    value = models.TorchPredictor(grown(name, "text-regression", table, tmp_path)).predict([{"text": "a"}])[0]["value"]
    assert abs(value) < 1000
    with pytest.raises(BadRequest, match="does not do image-classification"):
        grown(name, "image-classification", worlds.TABLES["image-classification"], tmp_path)


def test_a_version_can_be_named(first, tmp_path):
    _, name = first
    other = worlds.make("text-classification", architecture="bilstm", options={"min_count": 1, "width": 8})
    shelved(other, tmp_path, version="2")
    assert models.base(f"{name}@1", tmp_path).name == "1"
    assert models.base(name, tmp_path).name == "2"
    table = worlds.TABLES["text-classification"]
    assert grown(f"{name}@1", "text-classification", table, tmp_path).spec.options["width"] == 16


def test_a_package_without_weights_says_how_to_have_them(first, tmp_path):
    _, name = first
    (tmp_path / "packages" / name / "1" / "model.safetensors").unlink()
    with pytest.raises(BadRequest, match='Add "safetensors" to'):
        grown(name, "text-classification", worlds.TABLES["text-classification"], tmp_path)


def test_a_trunk_taught_without_labels_is_a_base(tmp_path):
    net = worlds.make("image-classification", architecture="cnn", options={"filters": [8]})
    goal = models.rotation(net)
    models.save(goal, tmp_path / "packages" / "eyes" / "1")  # what is saved is the net, not the goal
    again = grown("eyes", "image-classification", worlds.TABLES["image-classification"], tmp_path)
    assert torch.equal(again.trunk[0][0].weight, net.trunk[0][0].weight)


def test_what_grew_here_keeps_its_pace_and_other_bases_want_small_steps(first, tmp_path):
    """A small net that goes on at a large base's rate learns nothing in the epochs a recipe gives it."""
    _, name = first
    assert models.grows(worlds.Part(base=name), "text-classification", tmp_path)
    assert models.grows(worlds.Part(base="mobilenet-v2"), "image-classification", tmp_path)
    assert not models.grows(worlds.Part(base="minilm"), "text-classification", tmp_path)
    assert not models.grows(worlds.Part(architecture="bilstm"), "text-classification", tmp_path)
    assert not models.grows(worlds.Part(base=name), "preference", tmp_path)


@pytest.mark.parametrize("goal", ["rotation", "masked-image"])
def test_a_goal_without_labels_runs_through_training_and_saves_the_net(goal, tmp_path):
    from types import SimpleNamespace

    from tollway.forge import recipe
    from tollway.forge.train.case import Case
    from tollway.forge.train.plan import Plan

    table = worlds.TABLES["image-classification"]
    prepared = SimpleNamespace(rows=lambda split: len(table) * (split == "train"), read=lambda split: table)
    part, train = recipe.Model(architecture="cnn", options={"filters": [8]}), recipe.Train(objective=goal)
    case = Case.of(train, part, "image-classification", prepared)
    net = case.net(Plan.of(train), 7)
    before = net.wanted.trunk[0][0].weight.detach().clone()
    optimiser = torch.optim.AdamW(net.parameters_of("all"), lr=1e-2)
    batch = {name: torch.as_tensor(one) for name, one in case.material.collate(case.material.encoded).items()}
    loss, _ = case.objective.loss(net, batch)
    loss.backward()
    optimiser.step()
    case.save(net, tmp_path, SimpleNamespace(note=print))
    again = models.load(tmp_path)
    assert again.spec.architecture == "cnn"
    assert not torch.equal(again.trunk[0][0].weight, before)
    assert torch.equal(again.trunk[0][0].weight, net.wanted.trunk[0][0].weight)
