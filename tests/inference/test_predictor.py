"""The predictor on a real ONNX model: a row's answer does not depend on its neighbours, order is kept, nothing is wasted."""

import subprocess
import sys

import numpy as np
import onnx
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tollway import inference
from tollway.kit.errors import BadRequest, NotFound

WORDS = ["good", "bad", "film", "电影", "dull", "fine"]
ROWS = pa.table({"text": [" ".join(WORDS)] * 4, "label": ["a", "b"] * 2})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Mean of word vectors, one linear layer: small enough to be written by hand, masked like a real one."""
    folder = tmp_path_factory.mktemp("model")
    features = inference.fit("text-classification", ROWS, {"min_count": 1})
    features.save(folder)
    rng = np.random.default_rng(0)
    weights = {
        "table": rng.standard_normal((features.vocabulary_size, 4)),
        "out": rng.standard_normal((4, 2)),
    }
    consts = [numpy_helper.from_array(one.astype(np.float32), name) for name, one in weights.items()]
    consts += [numpy_helper.from_array(np.array([1]), "one"), numpy_helper.from_array(np.array([2]), "two")]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "two"], ["mask3"]),
        helper.make_node("Mul", ["vectors", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "one"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "one"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "out"], ["logits"]),
    ]
    shape = ["rows", "length"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 2])]
    graph = helper.make_graph(nodes, "mean", inputs, outputs, consts)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
    )
    return folder


@pytest.fixture(scope="module")
def predictor(folder):
    return inference.load(folder)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.lists(st.sampled_from([*WORDS, "stranger"]), max_size=40).map(" ".join), max_size=20))
def test_answers_are_those_of_each_row_alone_in_order(predictor, texts):
    together = predictor.predict([{"text": one} for one in texts])
    assert len(together) == len(texts)
    for text, answer in zip(texts, together, strict=True):
        (alone,) = predictor.predict([{"text": text}])
        assert alone["scores"] == pytest.approx(answer["scores"], abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 600), max_size=200), tokens=st.integers(16, 5000), rows=st.integers(1, 64)
)  # fmt: skip
def test_batches_hold_every_row_once_within_the_budget(lengths, tokens, rows):
    made = list(inference.batches(lengths, tokens, rows))
    assert sorted(place for batch in made for place in batch) == list(range(len(lengths)))
    for batch in made:
        padded = len(batch) * max(lengths[place] for place in batch)
        assert len(batch) <= rows
        assert len(batch) == 1 or padded <= tokens


def test_padding_is_a_small_share_of_mixed_lengths():
    lengths = np.random.default_rng(0).lognormal(4, 0.8, 2000).astype(int).clip(1, 512).tolist()
    made = list(inference.batches(lengths))
    padded = sum(len(batch) * max(lengths[place] for place in batch) for batch in made)
    assert padded / sum(lengths) < 1.1
    assert len(made) < 200


def test_nothing_asked_nothing_answered(predictor):
    assert predictor.predict([]) == []
    assert predictor.tokens([]) == []


def test_tokens_are_counted_as_they_are_run(predictor):
    assert predictor.tokens([{"text": "good film"}, {"text": ""}, {"text": "电影"}]) == [2, 1, 2]


def test_raw_outputs_are_given_row_by_row(predictor):
    rows = [{"text": "good " * number} for number in range(1, 6)]
    for row, found in zip(rows, predictor.outputs(rows), strict=True):
        assert found["logits"].shape == (2,)
        assert found["logits"] == pytest.approx(predictor.outputs([row])[0]["logits"], abs=1e-6)


def test_a_format_that_is_not_there_or_not_known_says_which(folder):
    with pytest.raises(NotFound, match=r"model\.xml"):
        inference.load(folder, "openvino")
    with pytest.raises(BadRequest, match="no format"):
        inference.load(folder, "caffe")


def test_a_damaged_model_is_refused(folder, tmp_path):
    (tmp_path / "features.json").write_bytes((folder / "features.json").read_bytes())
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:200])
    with pytest.raises(BadRequest, match="no ONNX model"):
        inference.load(tmp_path)


def test_features_that_do_not_fit_the_model_are_told(folder, tmp_path):
    inference.fit("tabular-regression", pa.table({"age": [1.0, 2.0], "target": [1.0, 2.0]})).save(tmp_path)
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with pytest.raises(BadRequest, match="The model wants input_ids"):
        inference.load(tmp_path).predict([{"age": 3}])


def test_serving_needs_neither_torch_nor_transformers_nor_pyarrow(folder):
    code = (
        "import sys, pathlib; from tollway import inference;"
        f"p = inference.load(pathlib.Path({str(folder)!r})); print(p.predict([{{'text': 'good'}}])[0]['label']);"
        "sys.exit(bool({'torch', 'transformers', 'pyarrow', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr + run.stdout
