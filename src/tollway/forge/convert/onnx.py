"""Torch to ONNX by torch's own exporter, rows and length left open, the weights inside the one file.

What comes out is cleaned for the engine: dead shape notes go (the quantiser trips over stale ones), names are stable.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from tollway.forge.convert.flat import Source, dimensions
from tollway.kit.errors import Conflict

_ASIDE: Final = "answer::"  # outputs are renamed afterwards: inside, values have the names of layers
OPSET: Final = 20  # the first with Gelu as one operator: 1.3x the whole of an 8-bit MiniLM


def export(source: Source, path: Path, *, longest: int = 0) -> Path:
    """Write `path`. Raises Conflict when the exporter cannot follow the model."""
    largest = {"length": longest} if longest else {}
    with quiet():
        try:
            torch.onnx.export(
                source.module,
                source.example,
                str(path),
                input_names=list(source.inputs),
                output_names=[f"{_ASIDE}{name}" for name in source.outputs],
                dynamic_shapes={"arrays": dimensions(source, largest)},
                opset_version=OPSET,
                external_data=False,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:
            raise Conflict(
                f"The ONNX exporter could not follow the model: {last_line(error)}.",
                code="conversion_failed",
                hint="Leave onnx out of [convert] formats, or choose another architecture.",
            ) from error
    clean(path)
    _require_open(source, path)
    return path


def _require_open(source: Source, path: Path) -> None:
    """The exporter fixes an axis without a word when a layer makes it; such a file answers one length only."""
    import onnx

    for value in onnx.load(str(path), load_external_data=False).graph.input:
        for axis in source.dynamic.get(value.name, {}):
            if value.type.tensor_type.shape.dim[axis].WhichOneof("value") == "dim_value":
                raise Conflict(
                    f"The exporter fixed axis {axis} of {value.name}: the file would take one size only.",
                    code="conversion_failed", hint="Leave onnx out of [convert] formats, or choose another architecture.",
                )  # fmt: skip


def clean(path: Path) -> None:
    """Drop the exporter's notes about inner shapes and sources: they are large, partly wrong, and nobody reads them."""
    import onnx

    model = onnx.load(str(path))
    _name_outputs(model.graph)
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    if not _used_functions(model):
        del model.functions[:]
    model.doc_string = ""
    onnx.save(model, str(path))


def _name_outputs(graph: Any) -> None:
    """Outputs get their names; an inner value that has one of them already gives it up."""
    wanted = {one.name: one.name.removeprefix(_ASIDE) for one in graph.output}
    taken = {name for name in wanted.values() if name not in wanted}
    new = wanted | {name: f"{name}.inner" for name in taken}
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name in new:
                    names[place] = new[name]
    for one in (*graph.initializer, *graph.output):
        one.name = new.get(one.name, one.name)


def _used_functions(model: Any) -> bool:
    names = {(one.domain, one.name) for one in model.functions}
    return any((node.domain, node.op_type) in names for node in model.graph.node)


def last_line(error: BaseException) -> str:
    """The exporter's errors are pages long; the reason stands at their end."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return (lines[0] if lines else type(root).__name__).rstrip(".")[:300]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters talk a lot, on every channel. What matters comes as an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
