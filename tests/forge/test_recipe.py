"""Recipes: what is refused is refused all at once, with the line and the nearest thing that exists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.forge import recipe as recipes
from tollway.kit.errors import BadRequest, NotFound

GOOD = """
[recipe]
name = "movies"
task = "text-classification"

[data]
dataset = "movies@1"

[model]
architecture = "bilstm"

[train]
epochs = 3
"""


def test_a_small_recipe_is_enough():
    found = recipes.parse(GOOD)
    assert found.recipe.seed == 7
    assert found.compress is None
    assert found.train.optimizer == "adamw"
    assert found.data.split.by == "stratified"


def test_all_problems_are_named_at_once_with_lines_and_suggestions():
    bad = GOOD.replace("epochs = 3", 'epoch = 3\noptimizer = "adamW"\nepochs = 0').replace("dataset", "datset")
    with pytest.raises(BadRequest) as caught:
        recipes.parse(bad)
    said = caught.value.message
    assert "4 problems" in said or "5 problems" in said
    assert "line 13: [train] epoch: there is no such setting; did you mean epochs?" in said
    assert "did you mean dataset?" in said
    assert "'adamW' is none of" in said
    assert "[data] dataset: is missing" in said
    assert "epochs: input should be greater than 0 (it is 0)" in said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("epochs = 3\nsteps = 10", "epochs or steps, not both"),
        ("epochs = 3\nbatch_rows = 2\nbatch_tokens = 512", "batch_rows or batch_tokens, not both"),
        ("soup = true", "a soup needs members"),
        ('method = "top:0"', "does not look like"),
        ("clip = nan", "clip"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change, reason):
    with pytest.raises(BadRequest, match=reason):
        recipes.parse(GOOD.replace("epochs = 3", change))


def test_base_and_architecture_exclude_each_other():
    with pytest.raises(BadRequest, match="not both"):
        recipes.parse(GOOD.replace('architecture = "bilstm"', 'architecture = "bilstm"\nbase = "minilm"'))


def test_a_gate_must_be_readable():
    with pytest.raises(BadRequest, match=r'is not like ">=0\.8"'):
        recipes.parse(GOOD + '\n[evaluate]\nrequire = {accuracy = "good"}\n')


def test_broken_toml_and_missing_files_are_told_apart(tmp_path):
    with pytest.raises(NotFound):
        recipes.load(tmp_path / "none.toml")
    path = tmp_path / "broken.toml"
    path.write_text("[recipe\n")
    with pytest.raises(BadRequest, match="not valid TOML"):
        recipes.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadRequest, match="cannot be read"):
        recipes.load(path)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8), st.sampled_from(["recipe", "data", "model", "train", "compress", "convert", "evaluate", "explain", "package"]))  # fmt: skip
def test_any_value_in_any_part_is_either_read_or_refused_in_words(value, part):
    """Whatever TOML can hold: a recipe or a BadRequest, never another error."""
    plain = {"recipe": {"name": "m", "task": "chat"}, "data": {"dataset": "d"}, part: value}
    try:
        recipes.Recipe.model_validate(plain)
    except ValueError as error:
        for one in error.errors():  # type: ignore[attr-defined]
            assert recipes._problem(one, "")


def test_every_setting_is_listed_with_its_default():
    rows = recipes.settings()
    assert {row["part"] for row in rows} == set(recipes.Recipe.model_fields)
    assert next(row for row in rows if row["name"] == "optimizer")["default"] == '"adamw"'
    assert not [row for row in rows if not row["help"]]


def test_a_part_that_cannot_be_without_a_wrong_setting_does_not_hide_what_else_is_wrong():
    """What is left is looked at by every other part."""
    with pytest.raises(recipes.Faulty) as caught:
        recipes.parse(GOOD + '\n[convert]\nformats = ["onnxx"]\n[evaluate]\nmetrics = ["rmse"]\n')
    assert "did you mean onnx?" in caught.value.message and caught.value.gone == {"convert"}
    assert caught.value.rest is not None and caught.value.rest.evaluate.metrics == ["rmse"]
