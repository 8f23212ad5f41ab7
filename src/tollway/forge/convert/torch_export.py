"""Torch to .pt2 (torch.export): the graph as JSON, the weights as raw bytes, and nothing in it that needs unpickling.

The example inputs, which torch would pickle into the archive, are left out. torch's own reader is never used: even without
a pickle it evaluates shape formulas of the file as Python. `inference/torch.py` reads the file as data, for the parity check
as for serving; the names of inputs and outputs lie in the archive beside the graph.
"""

import json
import zipfile
from pathlib import Path

import torch

from tollway.forge.convert.flat import Source, dimensions
from tollway.forge.convert.onnx import last_line, quiet
from tollway.inference.torch import ABOUT
from tollway.kit.errors import Conflict


def export(source: Source, path: Path, *, longest: int = 0) -> Path:
    """Write `path`. An axis that the model fixes while it is traced (an LSTM's length) makes this fail: Conflict."""
    with quiet():
        try:
            program = torch.export.export(
                source.module,
                source.example,
                dynamic_shapes={"arrays": dimensions(source, {"length": longest} if longest else {})},
            )
        except Exception as error:
            raise Conflict(
                f"torch.export could not follow the model with open lengths: {last_line(error)}.",
                code="conversion_failed",
                hint="Recurrent models do this. Leave pt2 out of [convert] formats; onnx can do it.",
            ) from error
        program._example_inputs = None
        about = {"inputs": source.inputs, "outputs": source.outputs, "reads": source.reads}
        torch.export.save(program, str(path), extra_files={ABOUT: json.dumps(about)})
    refuse_pickles(path)
    return path


def refuse_pickles(path: Path) -> None:
    """Raises Conflict when reading the archive would unpickle anything."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename
            if name.endswith((".pt", ".pkl")) and entry.file_size:
                raise Conflict(f"{path.name} holds a pickle ({name}); it is not kept.", code="pickle_refused")
            if name.endswith("_config.json") and b'"use_pickle": true' in archive.read(name).replace(b'":true', b'": true'):
                raise Conflict(f"{path.name} holds pickled tensors ({name}); it is not kept.", code="pickle_refused")
