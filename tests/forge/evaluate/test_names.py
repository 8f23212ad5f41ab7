"""What `recipe check` knows of figures without a row is what the judges measure of rows."""

from typing import Any

import pytest

from tests.forge.models import worlds
from tollway.forge import recipe
from tollway.forge.evaluate import baselines, names, noise, tasks
from tollway.kit.errors import BadRequest

ROWS: dict[str, list[dict[str, Any]]] = {
    **{task: table.to_pylist() for task, table in worlds.TABLES.items()},
    "sentence-embedding": [
        {"text": text, "text_b": other, "label": float(number % 3)}
        for number, (text, other) in enumerate([("a film", "film"), ("a dog", "cat"), ("a cat", "a cat")] * 3)
    ],
    "text-classification": [{"text": f"word{n} {n % 7}", "label": f"c{n % 7}"} for n in range(28)],
}
ONLY_OF_NETS = {"class_as_asked", "reconstruction_mse", "psnr_db", "elbo_at_mean", "next_token_accuracy"}


@pytest.mark.parametrize("task", [task for task in tasks.JUDGES if task in ROWS])
def test_what_is_measured_may_be_named_and_nothing_else(task: str) -> None:
    rows = ROWS[task]
    simple = baselines.simple(task, rows)
    assert tuple(simple) == tuple(names.BASELINES[task])
    known = tasks.known_of(task, rows)
    if task == "image-generation":
        known.telling = baselines.telling([row | {"label": str(n % 2)} for n, row in enumerate(rows)])
    found = [name for one in simple.values() for name in tasks.judge(task, one, rows, known).measures]
    plain = {name for name in found if "." not in name}
    optional = {"top5_accuracy", "ece"} if task.endswith("-classification") else set()
    assert plain <= set(names.MEASURES[task]) <= plain | ONLY_OF_NETS | optional
    assert {name.split(".")[0] for name in found if "." in name} == set(names.OF_LABELS.get(task, ()))
    names.check(recipe.Evaluate(metrics=found, require=dict.fromkeys(found, ">=0")), task)


def test_every_judge_has_its_names_and_every_noise_its_way() -> None:
    assert set(names.MEASURES) == set(tasks.JUDGES)
    assert {kind for kinds in names.NOISE.values() for kind in kinds} == {*noise.KINDS, "jitter"}


def test_everything_that_no_rows_could_give_is_named_at_once() -> None:
    part = recipe.Evaluate(
        metrics=["acuracy", "f1.fine"], baseline=False,
        require={"f1.fine": ">=0.1", "low.f1.fine": ">=0", "slice.length": ">=0", "gap.shop": "<=1",
                 "gap.shpo": "<=1", "vs.majority": ">=0", "vs.parent": ">=0", "noise.pixels": "<=1"},
    )  # fmt: skip
    with pytest.raises(BadRequest) as caught:
        names.check(part, "text-classification", {"text", "label", "shop"})
    said = str(caught.value)
    assert "Did you mean accuracy" in said and "did you mean gap.shop" in said
    assert all(f"  {name}: " in said for name in ("gap.shpo", "vs.majority", "vs.parent", "noise.pixels"))
    assert not any(f"  {name}: " in said for name in ("f1.fine", "low.f1.fine", "slice.length", "gap.shop"))
    names.check(recipe.Evaluate(require={"gap.new_name": "<=1", "vs.parent": ">=0"}), "text-classification", None, ["parent"])
