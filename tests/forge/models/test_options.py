"""Options: every default works, every mistake is told with the nearest right word, no torch is needed to check."""

import subprocess
import sys

import pytest

from tests.forge.models.worlds import Part
from tollway.forge import models, recipe
from tollway.forge.models import options
from tollway.kit.errors import BadRequest


def test_every_task_of_recipes_has_a_default_or_asks_for_a_base():
    for task in recipe.TASKS:
        try:
            name = models.default_architecture(task)
        except BadRequest as refused:
            assert "base" in refused.hint
            assert options.read(Part(base="minilm"), task)[0] == options.BASE
            continue
        assert task in options.of(name).tasks
        assert models.check(Part(), task)


def test_every_option_has_a_meaning_and_a_default():
    for name, one in options.ARCHITECTURES.items():
        for row in options.describe(one.options):
            assert row["help"], (name, row)
            assert row["default"] != "PydanticUndefined"


def test_every_builder_is_there():
    import importlib

    for one in options.ARCHITECTURES.values():
        module, _, function = one.builder.partition(":")
        assert callable(getattr(importlib.import_module(f"tollway.forge.models.{module}"), function))


def test_all_mistakes_are_told_at_once_with_the_nearest_name():
    with pytest.raises(BadRequest) as caught:
        models.check(Part("bilstm", options={"widht": 3, "layers": 0, "dropout": "much"}), "text-classification")
    assert "did you mean width?" in caught.value.message
    assert "options.layers" in caught.value.message
    assert "options.dropout" in caught.value.message


@pytest.mark.parametrize(
    ("part", "task", "what"),
    [
        (Part("bilstmm"), "text-classification", "Did you mean bilstm"),
        (Part("cnn"), "text-classification", "cnn does not do text-classification"),
        (Part(base="minilm"), "recommendation", "cannot be trained for recommendation"),
        (Part(base="mobilenet-v2"), "text-classification", "does image-classification"),
        (Part(), "question-answering", "already knows something"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(part, task, what):
    with pytest.raises(BadRequest, match=what):
        models.check(part, task)


def test_checking_a_recipe_loads_no_torch():
    code = (
        "import sys; from types import SimpleNamespace as S; from tollway.forge import models;"
        "models.check(S(architecture='bilstm', base='', options={}), 'text-classification');"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_the_docs_name_every_architecture_and_base():
    from pathlib import Path

    from tollway.forge.models import bases

    page = (Path(__file__).resolve().parents[3] / "docs" / "models-from-scratch.md").read_text()
    assert not [one for one in (*options.ARCHITECTURES, *bases.PACKAGED, *bases.MADE) if f"`{one}`" not in page]
