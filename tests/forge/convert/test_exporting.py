"""A trained model becomes files that answer like it; a file that does not is refused."""

import json
import zipfile

import numpy as np
import onnx
import pytest

from tests.forge.made import desk, digits, movies, told
from tollway import inference
from tollway.forge import convert, models
from tollway.forge.convert import flat, onnx_int8, torch_export
from tollway.forge.convert import onnx as to_onnx
from tollway.forge.recipe import Convert
from tollway.inference import runners
from tollway.kit.errors import BadRequest, Conflict

ROWS = [{"text": "a lovely, warm film"}, {"text": ""}, {"text": "很差 的 电影 " * 40}]


def exported(root, made, *formats, **part):
    place = desk(root)
    figures = convert.export(Convert(formats=list(formats), **part), made.folder, made.prepared, place)
    return place, figures


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Every light format of a text classifier, from one export."""
    return exported(tmp_path_factory.mktemp("text"), movies(), "onnx", "pt2", "torchscript", "safetensors")


def test_a_text_classifier_is_served_in_8_bits_when_those_hold(text):
    place, figures = text
    assert figures["serve"] == "onnx-int8"
    assert not (place.out / "model.onnx").exists()
    row = figures["formats"][0]
    assert row["holds"]
    assert row["drop"] <= row["allowed_drop"]
    assert row["bytes"] < 0.5 * (movies().folder / "model.safetensors").stat().st_size


def test_what_was_found_lies_beside_the_files(text):
    place, figures = text
    document = json.loads((place.out / "parity.json").read_text(encoding="utf-8"))
    assert document["serve"] == "onnx-int8"
    assert [row["format"] for row in document["formats"]] == ["onnx-int8", "pt2", "torchscript", "safetensors"]
    assert all(row["rows"] == 800 for row in document["formats"][:3])
    assert figures["pt2.max_difference"] < 1e-4


def test_the_folder_answers_like_the_net_for_any_text(text):
    place, _ = text
    served = inference.load(place.out, format="onnx-int8").predict(ROWS)
    source = models.TorchPredictor(models.load(movies().folder)).predict(ROWS)
    assert [one["label"] for one in served] == [one["label"] for one in source]
    for one, other in zip(served, source, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=0.1)


def test_a_row_answers_the_same_alone_and_in_a_batch(text):
    place, _ = text
    predictor = inference.load(place.out, format="onnx-int8")
    together = predictor.predict(ROWS)
    alone = [predictor.predict([row])[0] for row in ROWS]
    # one 8-bit scale is shared by a batch, so the last digits differ
    assert [one["score"] for one in together] == pytest.approx([one["score"] for one in alone], abs=0.05)


def test_a_pt2_file_holds_nothing_that_would_be_unpickled(text):
    place, _ = text
    with zipfile.ZipFile(place.out / "model.pt2") as archive:
        assert not [one.filename for one in archive.infolist() if one.filename.endswith((".pt", ".pkl")) and one.file_size]
        assert not [name for name in archive.namelist() if archive.read(name)[:2] == b"\x80\x02"]


def test_a_pickle_in_a_pt2_file_is_refused(text, tmp_path):
    place, _ = text
    path = tmp_path / "model.pt2"
    path.write_bytes((place.out / "model.pt2").read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/data/sample_inputs/other.pt", b"\x80\x02]q\x00.")
    with pytest.raises(Conflict, match="pickle"):
        torch_export.refuse_pickles(path)


def test_safetensors_are_the_source_bit_for_bit(text):
    place, _ = text
    assert (place.out / "model.safetensors").read_bytes() == (movies().folder / "model.safetensors").read_bytes()
    assert models.load(place.out).count() == models.load(movies().folder).count()


def test_torchscript_is_said_to_be_export_only(text):
    place, _ = text
    assert "nothing here ever loads it" in told(place)
    with pytest.raises(BadRequest):
        runners.open_model(place.out, "torchscript", 1)


def test_a_float_model_is_kept_when_nothing_is_to_be_quantised(tmp_path):
    place, figures = exported(tmp_path, movies(), "onnx", quantise="none")
    assert figures["serve"] == "onnx"
    assert figures["onnx.max_difference"] < 1e-3
    assert figures["onnx.agreement"] == 1.0
    assert (place.out / "model.onnx").is_file()


def test_convolutions_go_to_8_bits_by_calibrated_scales(tmp_path):
    _, figures = exported(tmp_path, digits(), "onnx", quantise="int8")
    row = figures["formats"][0]
    assert row["format"] == "onnx-int8"
    assert row["way"] == "static"
    assert row["value"] >= row["source"] - row["allowed_drop"] > 0.85


def test_a_difference_beyond_the_tolerance_stops_the_run(tmp_path):
    with pytest.raises(Conflict, match="not the same model: outputs differ by up to") as refused:
        exported(tmp_path, movies(), "onnx", quantise="int8", tolerance=1e-7)
    assert refused.value.code == "parity_failed"
    assert "quantise" in refused.value.hint


def test_layers_that_hurt_are_left_float(tmp_path):
    """One input of a layer is blown up: its outliers put it first, and leaving it out restores the answers."""
    net = models.load(movies().folder)
    grow = net.stack.blocks[1].last
    grow.weight.data[0] *= 400.0
    net.stack.blocks[1].grow.weight.data[:, 0] /= 400.0
    source = flat.source_of(net)
    path = to_onnx.export(source, tmp_path / "model.onnx")
    rows = movies().prepared.read("test").to_pylist()[:64]
    batch = net.features.collate(net.features.encode(rows))
    ranked = onnx_int8.sensitive(path, [batch])
    graph = onnx.load(str(path)).graph
    spoiled = next(node for node in graph.node if node.name == ranked[0])
    weights = {one.name: tuple(one.dims) for one in graph.initializer}
    assert weights[spoiled.input[1]] == (48, 192)  # the layer that was blown up is a `grow`: 48 in, 192 out
    wanted = runners.open_model(tmp_path, "onnx", 1).run(batch)["logits"]
    apart = {}
    for name, leave in (("all", []), ("but one", ranked[:1])):
        onnx_int8.dynamic(path, tmp_path / "model.int8.onnx", leave=leave)
        apart[name] = np.abs(runners.open_model(tmp_path, "onnx-int8", 1).run(batch)["logits"] - wanted).mean()
    assert apart["but one"] < 0.5 * apart["all"]


def test_an_axis_that_was_fixed_is_noticed(tmp_path):
    net = models.load(movies().folder)
    source = flat.source_of(net)
    still = flat.Source(source.module, source.example, source.inputs, source.outputs, {name: {0: "rows"} for name in source.inputs})
    path = to_onnx.export(still, tmp_path / "model.onnx")
    with pytest.raises(Conflict, match="one size only"):
        to_onnx._require_open(source, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "format", "quantise", "serve"),
    [(movies, "openvino", "none", "openvino"), (digits, "openvino", "int8", "openvino-int8"),
     (movies, "openvino", "bf16", "openvino-bf16"), (movies, "litert", "none", "litert"), (digits, "litert", "int8", "litert-int8")],
)  # fmt: skip
def test_other_engines_answer_the_same(tmp_path, made, format, quantise, serve):
    pytest.importorskip({"openvino": "openvino", "litert": "litert_torch"}[format], reason=f"the extra for {format} is not installed")
    trained = made()
    place, figures = exported(tmp_path, trained, format, quantise=quantise, options={"litert_length": 48, "rows": 200})
    assert figures["serve"] == serve
    net = models.load(trained.folder)
    rows = trained.prepared.read("test", list(net.features.fields())).slice(0, 40).to_pylist()
    source = models.TorchPredictor(net).predict(rows)
    served = inference.load(place.out, format=serve).predict(rows)
    assert np.mean([one["label"] == other["label"] for one, other in zip(served, source, strict=True)]) > 0.95
