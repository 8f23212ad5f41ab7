"""The chain of steps: each is measured, the folder that comes out is a model that loads and answers."""

import json

import pytest
import torch

from tests.forge.made import desk, digits, movies, told
from tollway.forge import compress, convert, models
from tollway.forge.compress import rounding, structured
from tollway.forge.models import folders
from tollway.forge.recipe import Compress, Convert
from tollway.kit.errors import BadRequest, Conflict


def shrunk(root, made, *steps, **part):
    place = desk(root)
    figures = compress.shrink(Compress(steps=list(steps), **part), made.folder, made.prepared, place)
    return place, figures


def same_answers(place, made, rows=40):
    """The share of equal labels of the smaller folder and the source."""
    fields = list(models.load(made.folder).features.fields())
    asked = made.prepared.read("test", fields).slice(0, rows).to_pylist()
    mine, source = (models.TorchPredictor(models.load(one)).predict(asked) for one in (place.out, made.folder))
    return sum(one["label"] == other["label"] for one, other in zip(mine, source, strict=True)) / rows


def test_pruned_and_stored_without_zeros_it_is_smaller_and_the_same(tmp_path):
    place, figures = shrunk(tmp_path, digits(), "prune:0.6", "sparse")
    source, pruned, sparse = figures["steps"]
    assert pruned["bytes"] == pytest.approx(source["bytes"], rel=0.01)
    assert sparse["bytes"] < 0.6 * source["bytes"]
    assert sparse["nonzero"] == pruned["nonzero"] < 0.5 * source["nonzero"]
    assert sparse["quality"] == pruned["quality"]  # bit for bit the same weights
    assert all(row["speedup"] > 0 and row["metric"] == "accuracy" for row in figures["steps"])
    table = json.loads((place.out / "compression.json").read_text(encoding="utf-8"))
    assert [row["step"] for row in table["steps"]] == ["source", "prune:0.6", "sparse"]
    assert "MB" in told(place)


def test_training_after_pruning_brings_quality_back_and_keeps_the_zeros(tmp_path):
    _, bare = shrunk(tmp_path / "bare", digits(), "prune:0.9")
    place, recovered = shrunk(tmp_path / "recovered", digits(), "prune:0.9", recovery_epochs=2, options={"learning_rate": 1e-3})
    assert recovered["quality_after"] > bare["quality_after"] + 0.05
    assert recovered["steps"][1]["nonzero"] <= bare["steps"][1]["nonzero"] * 1.02
    assert models.load(place.out).spec.made_by.endswith("compress prune:0.9")


def test_channels_that_are_removed_make_smaller_tensors(tmp_path):
    place, figures = shrunk(tmp_path, digits(), "structured:0.25:channels", recovery_epochs=1, options={"learning_rate": 1e-3})
    assert "channels" in figures["steps"][1]["what"]
    assert figures["steps"][1]["parameters"] < 0.75 * figures["steps"][0]["parameters"]
    shapes = {name: tuple(one.shape) for name, one in folders.read_weights(place.out / "model.safetensors").items()}
    assert shapes["trunk.0.0.weight"] == (12, 1, 3, 3)
    assert same_answers(place, digits()) > 0.9


@pytest.mark.parametrize("step", ["int8-dynamic", "int8-static"])
def test_8_bits_are_stored_as_bytes_and_carried_on_to_the_engine(tmp_path, step):
    place, figures = shrunk(tmp_path, digits(), step)
    assert figures["times_smaller"] > 3
    assert figures["quality_after"] > figures["quality_before"] - 0.03
    assert figures["quantise"] == step
    assert same_answers(place, digits()) > 0.95


def test_what_compression_decided_is_what_conversion_does(tmp_path):
    place, _ = shrunk(tmp_path / "shrunk", digits(), "int8-static")
    after = desk(tmp_path / "converted")
    figures = convert.export(Convert(formats=["onnx"]), place.out, digits().prepared, after)
    assert figures["serve"] == "onnx-int8"
    assert figures["formats"][0]["way"] == "static"


def test_4_bits_are_smaller_still_and_answer_alike(tmp_path):
    place, figures = shrunk(tmp_path, movies(), "4bit")
    assert figures["times_smaller"] > 3.5  # embeddings, which are most of a small model, take 8
    assert same_answers(place, movies()) > 0.85


def test_4_bits_are_carried_on_to_the_engine(tmp_path):
    place, _ = shrunk(tmp_path / "shrunk", movies(), "4bit")
    figures = convert.export(Convert(formats=["onnx"]), place.out, movies().prepared, desk(tmp_path / "converted"))
    assert figures["serve"] == "onnx-int4"
    assert figures["formats"][0]["bytes"] < 0.4 * (movies().folder / "model.safetensors").stat().st_size


@pytest.mark.slow
def test_a_student_with_fewer_layers_learns_from_its_teacher(tmp_path):
    place, figures = shrunk(tmp_path, movies(), "distil:1", options={"epochs": 2, "learning_rate": 1e-3})
    student = models.load(place.out)
    assert len(student.stack.blocks) == 1
    assert figures["steps"][1]["parameters"] < figures["steps"][0]["parameters"]
    assert figures["steps"][1]["speedup"] > 1.3
    assert same_answers(place, movies(), 200) > 0.65


@pytest.mark.slow
def test_a_student_of_another_architecture_reads_the_same_text(tmp_path):
    place, _ = shrunk(tmp_path, movies(), "distil:linear", options={"epochs": 2, "learning_rate": 1e-2})
    assert models.load(place.out).spec.architecture == "linear"
    assert same_answers(place, movies(), 200) > 0.6


@pytest.mark.slow
def test_training_that_feels_rounding_ends_on_the_grid_of_8_bits(tmp_path):
    place, figures = shrunk(tmp_path, digits(), "qat:1", options={"learning_rate": 1e-4})
    net = models.load(place.out)
    before = {name: one.clone() for name, one in net.named_parameters()}
    layers = {name: form for name, form in rounding.forms(net, 8).items() if "weight" in name}
    rounding.snap(net, layers)
    for name, one in net.named_parameters():
        torch.testing.assert_close(one, before[name], atol=1e-6, rtol=1e-5)
    assert figures["quality_after"] > figures["quality_before"] - 0.03


def test_everything_wrong_with_the_steps_is_listed(tmp_path):
    part = Compress(steps=["prun:0.5", "prune", "structured:1.5", "int8-static", "distil", "qat:x"], options={"epoch": 1})
    with pytest.raises(BadRequest) as refused:
        compress.check(part, "text-classification")
    text = str(refused.value)
    for wanted in ("did you mean prune", "say how much", "1.5 is not between", "how many layers", "'x' is no number", "epoch"):
        assert wanted in text


def test_nothing_trains_after_weights_are_stored():
    with pytest.raises(BadRequest, match="that is the last step"):
        compress.check(Compress(steps=["int8-static", "prune:0.5"]), "text-classification")


def test_a_model_without_such_units_says_so(tmp_path):
    with pytest.raises(Conflict, match="no heads that can be removed"):
        shrunk(tmp_path, digits(), "structured:0.5:heads")
    assert structured.groups(torch.nn.Linear(2, 2)) == []
