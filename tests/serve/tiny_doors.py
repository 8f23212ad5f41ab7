"""Small real models for the doors beside classify: a judge of pairs of texts, a painter, a recommender, a spam filter."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from onnx import TensorProto, helper

from tests.serve.tiny_models import BAD, GOOD, LINEAGE, _graph, _save, digits, text_classifier
from tollway import inference
from tollway.artifacts.store import About

USERS, ITEMS = 6, 20


def pair_judge(folder: Path) -> About:
    """How many words two texts share: it cannot be told from either of them alone."""
    texts = [*GOOD, *BAD]
    table = pa.table({"text": texts, "text_b": texts[::-1], "target": [float(number) for number in range(len(texts))]})
    features = inference.fit("text-regression", table, {"min_count": 1, "max_length": 128})
    ints, floats = TensorProto.INT64, TensorProto.FLOAT
    nodes = [
        helper.make_node("Unsqueeze", ["input_ids", "two"], ["down"]),
        helper.make_node("Unsqueeze", ["input_ids", "one"], ["across"]),
        helper.make_node("Equal", ["down", "across"], ["same"]),
        helper.make_node("Cast", ["same"], ["same_f"], to=floats),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=floats),
        helper.make_node("Unsqueeze", ["mask", "two"], ["mask_down"]),
        helper.make_node("Unsqueeze", ["mask", "one"], ["mask_across"]),
        helper.make_node("Mul", ["same_f", "mask_down"], ["some"]),
        helper.make_node("Mul", ["some", "mask_across"], ["all"]),
        helper.make_node("ReduceSum", ["all", "both"], ["pairs"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "one"], ["length"], keepdims=0),
        helper.make_node("Sub", ["pairs", "length"], ["repeated"]),
        helper.make_node("Unsqueeze", ["repeated", "one"], ["value"]),
    ]
    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, ints, ["rows", "length"]) for name in names]
    constants = {"one": np.asarray([1]), "two": np.asarray([2]), "both": np.asarray([1, 2])}
    _save(folder, _graph(nodes, inputs, "value", 1, constants), features)
    return About(
        kind="regression", task="text-regression", input="text", architecture="overlap", parameters=1,
        context_tokens=128, lineage=LINEAGE,
    )  # fmt: skip


def painter(folder: Path) -> About:
    """Noise to 8 x 8 pixels."""
    features = inference.fit("image-generation", pa.table({"image": digits(20)[0]}), {"noise": 16})
    weights = np.random.default_rng(5).standard_normal((16, 64)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["noise", "weights"], ["drawn"]),
        helper.make_node("Sigmoid", ["drawn"], ["grey"]),
        helper.make_node("Reshape", ["grey", "shape"], ["image"]),
    ]
    inputs = [helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["rows", 16])]
    out = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["rows", 1, 8, 8])
    graph = _graph(nodes, inputs, "image", 1, {"weights": weights, "shape": np.asarray([-1, 1, 8, 8])})
    graph.output[0].CopyFrom(out)
    _save(folder, graph, features)
    return About(
        kind="image-generation", task="image-generation", input="image", architecture="linear", parameters=1024,
        lineage=LINEAGE,
    )  # fmt: skip


def taste(user: int, item: int) -> float:
    """What user `user` thinks of item `item`: best of all of the item with the number of three times their own."""
    return -float(abs(item - 3 * user))


def recommender(folder: Path) -> About:
    """Knows `taste` by heart."""
    pairs = [(f"u{user}", f"i{item:02}", taste(user, item)) for user in range(USERS) for item in range(ITEMS)]
    users, items, ratings = zip(*pairs, strict=True)
    table = pa.table({"user": users, "item": items, "rating": ratings})
    features: Any = inference.fit("recommendation", table, {})
    known = np.full(features.sizes, -10.0, dtype=np.float32)
    for user in range(USERS):
        for item in range(ITEMS):
            known[user + 1, item + 1] = taste(user, item)
    nodes = [
        helper.make_node("Mul", ["user", "width"], ["row"]),
        helper.make_node("Add", ["row", "item"], ["place"]),
        helper.make_node("Gather", ["known", "place"], ["found"]),
        helper.make_node("Unsqueeze", ["found", "one"], ["score"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows"]) for name in ("user", "item")]
    constants = {"width": np.asarray(features.sizes[1]), "known": known.reshape(-1), "one": np.asarray([1])}
    _save(folder, _graph(nodes, inputs, "score", 1, constants), features)
    return About(
        kind="recommendation", task="recommendation", input="row", architecture="table", parameters=known.size,
        lineage=LINEAGE,
    )  # fmt: skip


MAKERS = {"judge": text_classifier, "pairs": pair_judge, "painter": painter, "taste": recommender}
