"""Versions of the tiny mood classifier that differ as real ones do: equal, failing on a word, slow, of another opinion,
unable to load, caught in a loop."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.serve import tiny_models
from tollway import inference
from tollway.artifacts.store import ModelPackage, Store

WIDTH = 384
_PRODUCTS = 96  # 50 ms of one core that is quick with matrices; on slower ones more


def shelve(store: Store, folder: Path, kind: str, name: str = "mood") -> ModelPackage:
    """Make the next version of `name`: equal | failing | slow | contrary | unloadable | endless | snare."""
    about = tiny_models.text_classifier(folder)
    (folder / "note.txt").write_text(f"{kind} {folder.name}")
    if kind != "equal":
        model = onnx.load(folder / "model.onnx")
        _CHANGES[kind](model.graph)
        onnx.save(model, str(folder / "model.onnx"))
    return store.add_package(name, folder, about)


def last_word(package: ModelPackage) -> str:
    """The word that `failing` fails on."""
    features = inference.load_features(package.folder)
    words = features.words()  # type: ignore[attr-defined]
    return next(word for word in reversed(words) if _id(features, word) == features.vocabulary_size - 1)  # type: ignore[attr-defined]


def _id(features: inference.Features, word: str) -> int:
    ids = features.encode([{"text": word}])[0]["input_ids"]
    return int(ids[0]) if len(ids) == 1 else -1


def _weights(graph: onnx.GraphProto) -> tuple[onnx.TensorProto, np.ndarray]:
    held = next(one for one in graph.initializer if one.name == "weights")
    return held, numpy_helper.to_array(held)


def _failing(graph: onnx.GraphProto) -> None:
    """The last word of the vocabulary is not in the table: its row cannot be gathered."""
    held, weights = _weights(graph)
    held.CopyFrom(numpy_helper.from_array(weights[:-1], "weights"))


def _contrary(graph: onnx.GraphProto) -> None:
    held, weights = _weights(graph)
    held.CopyFrom(numpy_helper.from_array(-weights, "weights"))


def _unloadable(graph: onnx.GraphProto) -> None:
    """Every row it is asked for is missing, from the first on."""
    held, weights = _weights(graph)
    held.CopyFrom(numpy_helper.from_array(weights[:1], "weights"))


def _slow(graph: onnx.GraphProto) -> None:
    """Large products that hang on the input, added to the answer times nothing."""
    last = graph.node[-1]
    last.output[0] = "quick"
    graph.initializer.append(numpy_helper.from_array(np.full((WIDTH, WIDTH), 1 / WIDTH, np.float32), "heavy"))
    graph.initializer.append(numpy_helper.from_array(np.asarray(0.0, np.float32), "nothing"))
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["numbers"], ["largest"], keepdims=0),
        helper.make_node("Add", ["heavy", "largest"], ["m0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"m{step}", "heavy"], [f"m{step + 1}"]) for step in range(_PRODUCTS)]
    nodes += [
        helper.make_node("ReduceMean", [f"m{_PRODUCTS}"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["none"]),
        helper.make_node("Add", ["quick", "none"], ["logits"]),
    ]
    graph.node.extend(nodes)


def _endless(graph: onnx.GraphProto) -> None:
    """A loop that takes as good as for ever, whatever it is asked."""
    _loops(graph, [helper.make_node("Identity", ["for_ever"], ["rounds"])])


def _snare(graph: onnx.GraphProto) -> None:
    """The same for texts with the last word of the vocabulary alone."""
    count = _weights(graph)[1].shape[0]
    graph.initializer.append(numpy_helper.from_array(np.asarray(count - 1), "last_id"))
    graph.initializer.append(numpy_helper.from_array(np.asarray(1), "once"))
    nodes = [
        helper.make_node("ReduceMax", ["input_ids"], ["highest"], keepdims=0),
        helper.make_node("Equal", ["highest", "last_id"], ["caught"]),
        helper.make_node("Where", ["caught", "for_ever", "once"], ["rounds"]),
    ]
    _loops(graph, nodes)


def _loops(graph: onnx.GraphProto, rounds: list[onnx.NodeProto]) -> None:
    """So many rounds of adding nothing, and the answer times one."""
    graph.node[-1].output[0] = "quick"
    graph.initializer.append(numpy_helper.from_array(np.asarray(2**62), "for_ever"))
    graph.initializer.append(numpy_helper.from_array(np.asarray(True), "go_on"))
    graph.initializer.append(numpy_helper.from_array(np.asarray(0.0, np.float32), "nothing"))
    typed = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still_on"]), helper.make_node("Add", ["held", "held"], ["held_next"])],
        "round",
        [typed("round", TensorProto.INT64, []), typed("on", TensorProto.BOOL, []), typed("held", TensorProto.FLOAT, [])],
        [typed("still_on", TensorProto.BOOL, []), typed("held_next", TensorProto.FLOAT, [])],
    )
    loop = helper.make_node("Loop", ["rounds", "go_on", "nothing"], ["spun"], body=body)
    graph.node.extend([*rounds, loop, helper.make_node("Add", ["quick", "spun"], ["logits"])])


_CHANGES = {
    "failing": _failing, "contrary": _contrary, "unloadable": _unloadable, "slow": _slow, "endless": _endless,
    "snare": _snare,
}  # fmt: skip
