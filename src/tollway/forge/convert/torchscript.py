"""Torch to TorchScript, for who still needs it. Export only: the product never loads such a file, because its archive
holds pickles; the parity check runs the traced module in memory.
"""

from pathlib import Path
from typing import Any

import torch

from tollway.forge.convert.flat import Source
from tollway.forge.convert.onnx import last_line, quiet
from tollway.inference import Arrays
from tollway.kit.errors import Conflict


def export(source: Source, path: Path) -> Any:
    """Write `path`; returns the traced module as a function from arrays to arrays."""
    with quiet(), torch.inference_mode():
        try:
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                source.module, source.example, check_trace=False, strict=False
            )
            torch.jit.save(traced, str(path))
        except Exception as error:
            raise Conflict(
                f"TorchScript could not trace the model: {last_line(error)}.", code="conversion_failed",
                hint="Leave torchscript out of [convert] formats.",
            ) from error  # fmt: skip

    def call(arrays: Arrays) -> Arrays:
        with torch.inference_mode():
            made = traced(*(torch.from_numpy(arrays[name]) for name in source.inputs))
        return {name: one.numpy() for name, one in zip(source.outputs, made, strict=True)}

    return call
