"""OpenVINO as an engine: one compiled model per process, a fixed number of threads, float32 unless the model says bf16.

The precision comes from the file's own runtime info (`tollway_precision`), so that a model answers everywhere as it was
measured: left alone, OpenVINO would take bf16 wherever the CPU has it.
"""

import threading
from pathlib import Path
from typing import Any

import numpy as np

from tollway.inference.encoding import Arrays
from tollway.kit import quiet
from tollway.kit.errors import BadRequest

quiet.no_telemetry()
import openvino  # noqa: E402 - it reports its own import

PRECISION = "tollway_precision"


class OpenVinoRunner:
    """A compiled model; every thread that calls `run` has its own request, but they take turns on its one stream."""

    shared = False

    def __init__(self, path: Path, threads: int) -> None:
        core = openvino.Core()
        try:
            model = core.read_model(str(path))
            precision = model.get_rt_info(PRECISION).astype(str) if model.has_rt_info(PRECISION) else "f32"
            self._model = core.compile_model(
                model, "CPU",
                {"INFERENCE_NUM_THREADS": max(1, threads), "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision},
            )  # fmt: skip
        except RuntimeError as error:
            raise BadRequest(f"{path.name} is no OpenVINO model that can be loaded: {str(error)[:300]}") from error
        self._inputs = {port.any_name: np.dtype(port.element_type.to_dtype()) for port in self._model.inputs}
        self.inputs = tuple(self._inputs)
        self._outputs = [port.any_name for port in self._model.outputs]
        self._own = threading.local()

    def run(self, arrays: Arrays) -> Arrays:
        missing = [name for name in self.inputs if name not in arrays]
        if missing:
            raise BadRequest(f"The model wants {', '.join(missing)}, which these features do not give.")
        request: Any = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self._model.create_infer_request()
        feed = {
            name: np.ascontiguousarray(arrays[name].astype(kind, copy=False)) for name, kind in self._inputs.items()
        }
        found = request.infer(feed)
        return {name: np.array(found[number]) for number, name in enumerate(self._outputs)}


def open_model(path: Path, threads: int, _spinning: bool = False) -> OpenVinoRunner:
    """Load `path` (model.xml, with model.bin beside it)."""
    return OpenVinoRunner(path, threads)
