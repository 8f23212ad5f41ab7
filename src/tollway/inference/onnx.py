"""ONNX Runtime as an engine: one session per model, a fixed number of threads, none of them spinning unless asked to."""

from pathlib import Path

import numpy as np
import onnxruntime

from tollway.inference.encoding import Arrays
from tollway.kit.errors import BadRequest

_TYPES = {
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32, "tensor(bool)": np.bool_,
    "tensor(float16)": np.float16, "tensor(double)": np.float64,
}  # fmt: skip

# on CPUs the fused kernel takes six times as long as the two it replaces (1.2x the whole of an 8-bit MiniLM)
_SLOWER = ["SkipLayerNormFusion"]


class OnnxRunner:
    """A session. Its `run` may be called from several threads at once."""

    shared = True

    def __init__(self, path: Path, threads: int, spinning: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, threads)
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # a spinning thread takes the core that the next request needs
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")  # at the end of each run
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOWER
            )
        except Exception as error:  # onnxruntime's own classes share no base but Exception
            raise BadRequest(f"{path.name} is no ONNX model that can be loaded: {str(error)[:300]}") from error
        self._inputs = {one.name: _TYPES.get(one.type, np.float32) for one in self.session.get_inputs()}
        self.inputs = tuple(self._inputs)
        self._outputs = [one.name for one in self.session.get_outputs()]

    def run(self, arrays: Arrays) -> Arrays:
        missing = [name for name in self.inputs if name not in arrays]
        if missing:
            raise BadRequest(f"The model wants {', '.join(missing)}, which these features do not give.")
        feed: Arrays = {name: arrays[name].astype(kind, copy=False) for name, kind in self._inputs.items()}
        return dict(zip(self._outputs, self.session.run(self._outputs, feed), strict=True))


def open_model(path: Path, threads: int, spinning: bool = False) -> OnnxRunner:
    """Load `path`."""
    return OnnxRunner(path, threads, spinning)
