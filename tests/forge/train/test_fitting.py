"""`train.fit` on real data: from a recipe's parts and prepared rows to a model folder that loads and answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.forge.train import nets
from tollway.forge import data, models, recipe, train
from tollway.forge.data import samples
from tollway.forge.evaluate import opening
from tollway.forge.train import freezing, judge
from tollway.forge.train.case import Case
from tollway.forge.train.plan import Plan
from tollway.kit.clock import SystemClock
from tollway.kit.errors import BadRequest, Conflict

TASKS = {"digits": "image-classification", "movies": "text-classification", "breast-cancer": "tabular-classification"}


def prepared(folder: Path, sample: str, rows: int) -> data.Prepared:
    """A packaged dataset's canonical rows."""
    shelf = data.Shelf(folder / "datasets", SystemClock())
    version = samples.load(sample, shelf)
    desk = nets.desk(folder / "prepare")
    desk.shelf = shelf
    data.prepare(recipe.Data(dataset=version.name, rows_max=rows), TASKS[sample], shelf, desk)
    return data.Prepared(desk.out)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("digits"), "digits", 600)


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("movies"), "movies", 64)


MLP = recipe.Model(architecture="mlp", options={"hidden": [64]})
MINILM = recipe.Model(base="minilm", options={"max_length": 32})


def accuracy(folder: Path, rows: data.Prepared, task: str) -> float:
    table = rows.read("test").to_pylist()
    asked = [{name: value for name, value in row.items() if name in ("image", "text")} for row in table]
    answers = models.TorchPredictor(models.load(folder)).predict(asked)
    return float(np.mean([answer["label"] == row["label"] for answer, row in zip(answers, table, strict=True)]))


def test_a_recipe_becomes_a_model_that_answers(tmp_path, digits):
    desk = nets.desk(tmp_path)
    made = train.fit(recipe.Train(epochs=6, learning_rate=5e-3), MLP, "image-classification", digits, desk)
    assert made.folder == desk.out and (made.folder / "model.safetensors").is_file()
    assert accuracy(made.folder, digits, "image-classification") > 0.85
    figures = json.loads((made.folder / "training.json").read_text())
    assert figures["best"] > 0.85 and figures["metric"] == "accuracy" and figures["rows"] == digits.rows("train")
    assert figures["tokens"] > 0 and {"rows_per_s", "learning_rate", "precision"} <= figures.keys()
    assert any(event.get("name") == "train.loss" for event in desk.seen)


def test_the_same_recipe_makes_the_same_bytes(tmp_path, digits):
    bytes_of = []
    for number in range(2):
        made = train.fit(recipe.Train(epochs=1, precision="fp32"), MLP, "image-classification", digits, nets.desk(tmp_path / str(number)))
        bytes_of.append((made.folder / "model.safetensors").read_bytes())
    assert bytes_of[0] == bytes_of[1]


def test_an_ensemble_is_a_model_like_any_other(tmp_path, digits):
    part = recipe.Train(epochs=3, members=3, learning_rate=5e-3)
    made = train.fit(part, MLP, "image-classification", digits, nets.desk(tmp_path))
    assert [row["seed"] for row in made.figures["members"]] == [7, 8, 9]
    net = models.load(made.folder)
    arrays = net.example(2)
    shares = torch.stack([member(**arrays)["logits"].softmax(-1) for member in net.members]).mean(0)
    assert torch.allclose(net(**arrays)["logits"].softmax(-1), shares, atol=1e-6)
    assert accuracy(made.folder, digits, "image-classification") > 0.85
    assert opening.served(made.folder)[1] == "torch", "and is evaluated as it is, where nothing was converted"


def test_a_soup_is_one_model_and_no_worse_than_its_best_member(tmp_path, digits):
    part = recipe.Train(epochs=3, members=3, soup=True, learning_rate=5e-3)
    made = train.fit(part, MLP, "image-classification", digits, nets.desk(tmp_path))
    assert made.figures["best"] >= max(row["best"] for row in made.figures["members"])
    assert models.load(made.folder).spec.architecture == "mlp"


def test_method_none_keeps_the_model_as_it_is(tmp_path, movies):
    made = train.fit(recipe.Train(method="none"), MINILM, "text-classification", movies, nets.desk(tmp_path))
    assert made.figures["steps"] == 0 and (made.folder / "model.safetensors").is_file()


def test_top_trains_the_top_and_nothing_below(tmp_path, movies):
    part = recipe.Train(method="top:1", epochs=1, precision="fp32")
    desk = nets.desk(tmp_path)
    made = train.fit(part, MINILM, "text-classification", movies, desk)
    assert any("computed once" in event.get("text", "") for event in desk.seen)
    before = Case.of(part, MINILM, "text-classification", movies).net(Plan.of(part), 7).state_dict()
    after = models.load(made.folder).state_dict()
    moved = {name for name, each in after.items() if not torch.equal(each, before[name])}
    assert any("layer.5." in name for name in moved) and any("classifier" in name for name in moved)
    assert not any("layer.4." in name or "embeddings" in name for name in moved)
    assert not list((tmp_path / "work").glob("recall*"))


def test_recalled_layers_give_what_the_layers_give(tmp_path, movies):
    part = recipe.Train(method="top:2", precision="fp32")
    case = Case.of(part, MINILM, "text-classification", movies)
    net = case.net(Plan.of(part), 7)
    batches = case.material.batches(Plan.of(part))
    plain = judge.measure(net, case.objective, batches)
    names = [name for name, _ in net.named_parameters()]
    with freezing.recalled(net, case.objective, [batches], tmp_path, "fp32") as objective:
        recalled = judge.measure(net, objective, batches)
    assert recalled["loss"] == pytest.approx(plain["loss"], abs=1e-5) and recalled["accuracy"] == plain["accuracy"]
    assert [name for name, _ in net.named_parameters()] == names


@pytest.mark.parametrize(("method", "said"), [("top:9", "leaves nothing frozen"), ("top:1", "no stack of layers")])
def test_a_top_that_is_not_there_is_refused(tmp_path, movies, digits, method, said):
    model, task, rows = (MINILM, "text-classification", movies) if method == "top:9" else (
        recipe.Model(architecture="linear"), "image-classification", digits)
    with pytest.raises(BadRequest, match=said):
        train.fit(recipe.Train(method=method), model, task, rows, nets.desk(tmp_path))


def test_lora_trains_a_small_share(tmp_path, movies):
    made = train.fit(recipe.Train(method="lora", steps=2), MINILM, "text-classification", movies, nets.desk(tmp_path))
    assert made.figures["trained_parameters"] < 0.02 * made.figures["parameters"]
    assert (made.folder / "adapter_model.safetensors").is_file()
    models.load(made.folder)


def test_a_search_keeps_the_best_trial_and_its_recipe(tmp_path, digits):
    space = {"learning_rate": [1e-4, 1e-1, "log"], "optimizer": ["adamw", "sgd"], "model.hidden": [[16], [64, 32], [32]]}
    part = recipe.Train(epochs=1, precision="fp32", search={"trials": 6, "minutes": 60, "space": space})
    desk = nets.desk(tmp_path / "one")
    made = train.fit(part, MLP, "image-classification", digits, desk)
    trials = made.figures["search"]["trials"]
    assert len(trials) == 6 and made.figures["best"] == max(trial["value"] for trial in trials)
    chosen = (made.folder / "best.toml").read_text()
    again = recipe.parse(f'[recipe]\nname = "x"\ntask = "image-classification"\n[data]\ndataset = "digits"\n{chosen}')
    assert again.train.learning_rate == made.figures["search"]["settings"]["learning_rate"] and again.train.search is None
    assert sum("Trial " in event.get("text", "") for event in desk.seen) == 6
    models.load(made.folder)

    # killed after three trials it proposes what it would have proposed
    other = nets.desk(tmp_path / "two")
    lines = (tmp_path / "one" / "work" / "trials.jsonl").read_text().splitlines()
    best = max(range(3), key=lambda number: trials[number]["value"])
    (other.work / "trials.jsonl").write_text("\n".join(lines[:3]) + '\n{"cut')
    (other.work / f"trial-{best}-model").mkdir()
    resumed = train.fit(part, MLP, "image-classification", digits, other)
    assert [trial["settings"] for trial in resumed.figures["search"]["trials"]] == [trial["settings"] for trial in trials]


def test_a_search_ends_when_its_minutes_are_spent(tmp_path, digits):
    space = {"learning_rate": [1e-3, 1e-2, "log"]}
    part = recipe.Train(steps=2, precision="fp32", search={"trials": 50, "minutes": 1e-6, "space": space})
    made = train.fit(part, MLP, "image-classification", digits, nets.desk(tmp_path))
    assert len(made.figures["search"]["trials"]) == 1  # the one that was begun is finished and kept
    models.load(made.folder)


def test_every_problem_of_a_search_space_is_named(tmp_path, digits):
    space = {"learning_rat": [1, 2], "learning_rate": [0.1, 0.01], "momentum": [0.9], "optimizer": ["adamw", "adamv"], "l1": [0, 1, "log"]}
    with pytest.raises(BadRequest) as caught:
        train.fit(recipe.Train(search={"trials": 2, "space": space}), MLP, "image-classification", digits, nets.desk(tmp_path))
    for said in ("learning_rat is no setting", "must be the smaller", "momentum = [0.9]", "'adamv'", "begins above 0"):
        assert said in str(caught.value)


def test_a_search_whose_trials_all_diverge_says_so(tmp_path, digits):
    part = recipe.Train(epochs=1, optimizer="sgd", clip=0, precision="fp32", search={"trials": 2, "space": {"learning_rate": [1e6, 1e8]}})
    part = part.model_copy(update={"search": part.search.model_copy(update={"space": {"learning_rate": [90.0, 99.0]}})})
    wide = recipe.Model(architecture="mlp", options={"hidden": [512, 512, 512]})
    with pytest.raises(Conflict) as caught:
        train.fit(part, wide, "image-classification", digits, nets.desk(tmp_path))
    assert "diverged" in str(caught.value)
