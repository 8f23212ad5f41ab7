"""What is known of a model before it is trained is what the model has."""

import json

import pytest
from torch import nn

from tests.forge.models import worlds
from tollway.forge import recipe
from tollway.forge.compress import outline, plan, structured, students
from tollway.forge.models import options
from tollway.kit.errors import BadRequest

CASES = [(task, name) for name, each in options.ARCHITECTURES.items() for task in each.tasks[:1] if task in worlds.TABLES]


@pytest.mark.parametrize(("task", "name"), CASES)
def test_layers_and_units_are_those_of_the_net(task: str, name: str) -> None:
    net, known = worlds.make(task, architecture=name), outline.of(worlds.Part(name), task)
    stack = students.stack_of(net)
    assert known.layers == (len(stack) if stack is not None else 0)
    assert set(known.units or ()) == {one.kind for one in structured.groups(net)}


def test_layers_of_a_base_are_read_from_its_config(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 6}))
    (tmp_path / "model.safetensors").touch()
    known = outline.of(worlds.Part(base=str(tmp_path)), "text-classification")
    assert known == outline.Outline(layers=6, units=None)
    assert outline.of(worlds.Part(base="org/name"), "text-classification") == outline.Outline(), "nothing is fetched to look"


def test_all_that_a_model_has_not_is_told_before_it_is_trained() -> None:
    part = recipe.Compress(steps=["distil:4", "distil:2", "distil:2", "structured:0.2:channels", "distil:bilstn", "distil:cnn"])
    with pytest.raises(BadRequest) as caught:
        plan.check(part, "text-classification", outline.Outline(4, ("heads", "neurons")), members=3)
    said = str(caught.value)
    assert "'distil:4': the model has 4 layers" in said and "'distil:2': the model has 2 layers" in said
    assert "but heads and neurons" in said and "Did you mean bilstm" in said and "cnn does not do" in said
    assert "an ensemble of 3 models" in said
    with pytest.raises(BadRequest, match="translation has not"):
        plan.check(recipe.Compress(steps=["distil:1"]), "translation")
    plan.check(recipe.Compress(steps=["distil:3", "distil:1", "distil:bilstm", "structured:0.2"]), "text-classification")


@pytest.mark.parametrize(
    ("task", "name", "more"),
    [
        ("text-classification", "bilstm", {"layers": 3, "min_count": 1}),
        ("text-classification", "lstm", {"layers": 2, "embedding": 24, "min_count": 1}),
        ("tabular-classification", "tabular", {"layers": 2}),
    ],
)
def test_a_student_with_fewer_layers_is_whole(task: str, name: str, more: dict) -> None:
    """A recurrent layer fits what is below it; the tables of a row's columns are no layers."""
    net = worlds.make(task, architecture=name, options=more)
    student = students.fewer_layers(net, 1)
    assert len(students.stack_of(student)) == 1 and student.spec.options["layers"] == 1
    assert student.loss(worlds.batch_of(student))[0].isfinite()
    tables = [[one for one in each.modules() if isinstance(one, nn.Embedding)] for each in (net, student)]
    assert len(tables[0]) == len(tables[1]) > 0
