"""Small real models for tests of serving: made in milliseconds with numpy, stored as the factory stores them.

A naive Bayes sentiment classifier, a bag-of-words encoder, a nearest-mean reader of handwritten digits, a ridge scorer of a
table: each learns from data and answers better than chance, so that a mix-up of rows or labels shows.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tollway import inference
from tollway.artifacts.manifest import Lineage
from tollway.artifacts.store import About, ModelPackage, Store

GOOD = [
    "a lovely film with a warm heart", "wonderful acting and a great story", "i loved every minute of it",
    "great fun for the whole family", "a beautiful and moving picture", "the best film of the year",
    "funny clever and full of life", "superb music and lovely pictures", "好看 的 电影 非常 喜欢", "a joy from start to end",
]  # fmt: skip
BAD = [
    "a dull film without a heart", "terrible acting and a boring story", "i hated every minute of it",
    "no fun for anybody at all", "an ugly and empty picture", "the worst film of the year",
    "stupid slow and full of holes", "awful music and cheap pictures", "难看 的 电影 非常 失望", "a pain from start to end",
]  # fmt: skip
LINEAGE = Lineage(
    run="run_test", recipe="reviews", recipe_digest="sha256:" + "1" * 64, code_version="0.1.0", training_ms=1500,
    training_cost_micros=42, cost_currency="USD", datasets={"movies@1": "sha256:" + "2" * 64},
)  # fmt: skip


def text_classifier(folder: Path) -> About:
    """Naive Bayes over words: bad | good."""
    texts = pa.table({"text": GOOD + BAD, "label": ["good"] * len(GOOD) + ["bad"] * len(BAD)})
    features = inference.fit("text-classification", texts, {"min_count": 1, "max_length": 64})
    counts = np.full((features.vocabulary_size, 2), 0.5)  # type: ignore[attr-defined]
    for encoded, label in zip(
        features.encode(texts.to_pylist()), features.targets(texts.to_pylist())["label"], strict=True
    ):
        np.add.at(counts[:, label], encoded["input_ids"], 1.0)
    weights = np.log(counts / counts.sum(axis=0)).astype(np.float32)
    weights -= weights.mean(axis=1, keepdims=True)
    graph = _words_in(weights, "logits", 2)
    _save(folder, graph, features)
    return About(
        kind="classification", task="text-classification", input="text", labels=tuple(features.labels),
        architecture="naive-bayes", parameters=weights.size, context_tokens=64, metrics={"accuracy": 0.95}, lineage=LINEAGE,
    )  # fmt: skip


def text_encoder(folder: Path, dimensions: int = 16) -> About:
    """Words to fixed random directions, averaged."""
    texts = pa.table({"text": GOOD + BAD})
    features = inference.fit("sentence-embedding", texts, {"min_count": 1, "max_length": 64})
    size = features.vocabulary_size  # type: ignore[attr-defined]
    weights = np.random.default_rng(7).standard_normal((size, dimensions)).astype(np.float32)
    _save(folder, _words_in(weights, "embedding", dimensions, unit=True), features)
    return About(
        kind="embedding", task="sentence-embedding", input="text", architecture="bag-of-words", parameters=weights.size,
        context_tokens=64, embedding_dimensions=dimensions, lineage=LINEAGE,
    )  # fmt: skip


def digit_reader(folder: Path) -> About:
    """Ridge regression on the 8 x 8 digits of scikit-learn."""
    pictures, labels = digits(600)
    table = pa.table({"image": pictures, "label": labels})
    features = inference.fit("image-classification", table, {})
    rows = table.to_pylist()
    pixels = features.collate(features.encode(rows))["pixel_values"].reshape(len(rows), -1)
    wanted = np.eye(10)[features.targets(rows)["label"]] * 8 - 4
    weights = np.linalg.solve(pixels.T @ pixels + 10 * np.eye(pixels.shape[1]), pixels.T @ wanted).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["pixel_values"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    size = int(pixels.shape[1] ** 0.5)
    inputs = [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["rows", 1, size, size])]
    _save(folder, _graph(nodes, inputs, "logits", 10, {"weights": weights}), features)
    return About(
        kind="image-classification", task="image-classification", input="image", labels=tuple(features.labels),
        architecture="linear", parameters=weights.size, lineage=LINEAGE,
    )  # fmt: skip


def price_guesser(folder: Path) -> About:
    """A tabular regression: rent from size and rooms."""
    random = np.random.default_rng(3)
    size, rooms = random.uniform(20, 150, 200), random.integers(1, 6, 200)
    target = 12.0 * size + 90.0 * rooms
    table = pa.table({"size": size, "rooms": rooms.astype(float), "target": target})
    features = inference.fit("tabular-regression", table, {})
    numbers = features.collate(features.encode(table.to_pylist()))["numbers"]
    weights = np.linalg.lstsq(numbers, target - target.mean(), rcond=None)[0].astype(np.float32)[:, None]
    nodes = [
        helper.make_node("MatMul", ["numbers", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["value"]),
    ]
    inputs = [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["rows", len(weights)])]
    bias = np.asarray([target.mean()], dtype=np.float32)
    _save(folder, _graph(nodes, inputs, "value", 1, {"weights": weights, "bias": bias}), features)
    return About(
        kind="regression", task="tabular-regression", input="row", architecture="linear", parameters=3, lineage=LINEAGE
    )


MAKERS = {"mood": text_classifier, "words": text_encoder, "digits": digit_reader, "rent": price_guesser}


def shelve(store: Store, name: str, folder: Path, maker: Any = None) -> ModelPackage:
    """Make one of them and put it on a shelf."""
    return store.add_package(name, folder, (maker or MAKERS[name])(folder))


def in_torch(folder: Path) -> Path:
    """The `.pt2` of the text classifier that lies in `folder` as ONNX."""
    import torch

    from tollway.forge.convert import torch_export
    from tollway.forge.convert.flat import Flat, Source

    class Mood(torch.nn.Module):
        def __init__(self, weights: torch.Tensor) -> None:
            super().__init__()
            self.words = torch.nn.Embedding.from_pretrained(weights)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": (self.words(input_ids) * attention_mask.unsqueeze(2).float()).sum(1)}

    (held,) = [one for one in onnx.load(str(folder / "model.onnx")).graph.initializer if one.name == "weights"]
    names, axes = ("input_ids", "attention_mask"), {0: "rows", 1: "length"}
    example = (torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64))
    net = Flat(Mood(torch.from_numpy(numpy_helper.to_array(held).copy())), names, ("logits",)).eval()
    source = Source(net, example, names, ("logits",), dict.fromkeys(names, axes))
    return torch_export.export(source, folder / "model.pt2")


def digits(count: int) -> tuple[list[bytes], list[str]]:
    """PNG pictures of handwritten digits and what they show."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pictures = []
    for picture in found.images[:count]:
        out = io.BytesIO()
        Image.fromarray((picture * 15.9).astype(np.uint8)).save(out, format="PNG")
        pictures.append(out.getvalue())
    return pictures, [str(one) for one in found.target[:count]]


def _words_in(weights: np.ndarray, output: str, width: int, *, unit: bool = False) -> onnx.GraphProto:
    """Sum of the words' rows; `unit`: scaled to length one."""
    nodes = [
        helper.make_node("Gather", ["weights", "input_ids"], ["rows_of"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide_mask"]),
        helper.make_node("Mul", ["rows_of", "wide_mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["sum" if unit else output], keepdims=0),
    ]
    if unit:
        nodes.append(helper.make_node("LpNormalization", ["sum"], [output], axis=1, p=2))
    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "length"]) for name in names]
    constants = {"weights": weights, "last": np.asarray([2]), "middle": np.asarray([1])}
    return _graph(nodes, inputs, output, width, constants)


def _graph(nodes: Any, inputs: Any, output: str, width: int, constants: dict[str, np.ndarray]) -> onnx.GraphProto:
    out = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows", width])
    return helper.make_graph(nodes, "m", inputs, [out], [numpy_helper.from_array(v, k) for k, v in constants.items()])


def _save(folder: Path, graph: onnx.GraphProto, features: inference.Features) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "model.onnx"))
    features.save(folder)
