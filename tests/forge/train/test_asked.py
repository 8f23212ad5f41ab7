"""What a recipe's [train] asks is held against what there is, before anything is trained."""

import importlib
import inspect

import pytest

from tollway.forge import recipe
from tollway.forge.train import asked, objectives
from tollway.kit.errors import BadRequest

MODEL = recipe.Model(base="smollm2")


def refused(task: str, **train) -> str:
    with pytest.raises(BadRequest) as caught:
        asked.check(recipe.Train(**train), MODEL, task)
    return str(caught.value)


def test_an_option_that_nobody_takes_is_refused_with_the_one_that_was_meant():
    said = refused("preference", method="lora", options={"rnk": 8, "betta": 0.1})
    assert "no rnk; did you mean rank?" in said and "no betta; did you mean beta?" in said


def test_options_of_a_method_that_is_not_used_are_refused():
    assert "there is no rank" in refused("chat", options={"rank": 8})


def test_a_value_that_an_adapter_cannot_have_is_refused():
    assert "[train] options.rank" in refused("chat", method="lora", options={"rank": 0})


@pytest.mark.parametrize(
    ("task", "train"),
    [
        ("chat", {"method": "lora", "options": {"rank": 4, "alpha": 8, "targets": ["all"]}}),
        ("preference", {"method": "lora", "options": {"beta": 0.3, "rank": 4}}),
        ("language-modeling", {"objective": "masked", "options": {"share": 0.2}}),
        ("language-modeling", {"options": {"length": 128}}),
        (
            "chat",
            {
                "method": "lora",
                "search": {"trials": 2, "space": {"options.rank": [4, 8], "learning_rate": [1e-4, 1e-3]}},
            },
        ),
    ],
)
def test_what_there_is_may_be_asked(task, train):
    asked.check(recipe.Train(**train), MODEL, task)


def test_everything_is_named_at_once():
    said = refused(
        "text-classification",
        objective="caussal",
        early_stopping={"metric": "acuracy"},
        search={"space": {"foo": [1, 2]}},
    )
    assert "did you mean 'causal'" in said and "did you mean 'accuracy'" in said and "foo is no setting" in said


def test_an_objective_of_pictures_wants_pictures():
    assert "learns from pictures" in refused("text-classification", objective="rotation")


@pytest.mark.parametrize(
    ("model", "objective", "fits"),
    [("bert", "", False), ("bert", "causal", False), ("bert", "masked", True), ("llama", "next-sentence", False), ("llama", "", True)],
)
def test_who_finds_hidden_words_does_not_write_on(model, objective, fits):
    part = recipe.Train(objective=objective)
    if fits:
        asked.check(part, recipe.Model(architecture=model), "language-modeling")
        return
    with pytest.raises(BadRequest, match="hidden words"):
        asked.check(part, recipe.Model(architecture=model), "language-modeling")


def test_the_table_of_options_is_what_the_objectives_take():
    for name, where in objectives._WHERE.items():
        module, cls = where.split(":")
        made = getattr(importlib.import_module(f"tollway.forge.train.objectives.{module}"), cls)
        named = {
            one.name
            for one in inspect.signature(made).parameters.values()
            if one.kind is not one.VAR_KEYWORD and one.name != "label_smoothing"  # a setting of [train] itself
        }
        assert named == set(objectives.OPTIONS.get(name, ())), name


def test_answers_that_are_written_or_drawn_make_no_ensemble():
    for task in ("translation", "image-generation", "chat"):
        assert "have no mean" in refused(task, members=2)
    asked.check(recipe.Train(members=2, soup=True), recipe.Model(), "translation")
    asked.check(recipe.Train(members=2), recipe.Model(), "text-classification")
