"""ONNX to 8-bit ONNX: weights per output channel, activations measured at run time (dynamic) or beforehand (static).

Only products with constant weights are quantised; scores of attention, norms and everything small stay float. Which
layers hurt most is measured (outliers in what goes in), so that they can be left out when accuracy asks for it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from tollway.forge.convert.onnx import quiet
from tollway.inference import Arrays

_FLOAT: Final = 1  # onnx.TensorProto.FLOAT
_DYNAMIC_OPS: Final = ("MatMul", "Gemm", "LSTM", "Gather")
_STATIC_OPS: Final = ("MatMul", "Gemm", "Conv")


@quiet()  # it recommends a clean-up that has been done
def dynamic(source: Path, path: Path, *, leave: Sequence[str] = ()) -> Path:
    """Weights in 8 bits; the scale of what goes in is found for every call. `leave`: nodes that stay float."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source), str(path), weight_type=QuantType.QInt8, per_channel=True, reduce_range=narrow_accumulators(),
        op_types_to_quantize=list(_DYNAMIC_OPS), nodes_to_exclude=list(leave),
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": _FLOAT},
    )  # fmt: skip
    return path


@quiet()
def static(source: Path, path: Path, batches: Sequence[Arrays], *, leave: Sequence[str] = ()) -> Path:
    """Weights and activations in 8 bits with scales calibrated on real rows; quantise and dequantise nodes (QDQ)."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    wanted = [name for name in constant_products(source) if name not in set(leave)]
    quantize_static(
        str(source), str(path), _Reader(source, batches), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=narrow_accumulators(),
        op_types_to_quantize=list(_STATIC_OPS), nodes_to_quantize=wanted,
        extra_options={
            "DefaultTensorType": _FLOAT, "MatMulConstBOnly": True,
            "OpTypesToExcludeOutputQuantization": list(_STATIC_OPS),
        },
    )  # fmt: skip
    return path


@quiet()
def four_bits(source: Path, path: Path, *, leave: Sequence[str] = ()) -> Path:
    """Products in 4 bits with a scale for each block of 32, the grid of `[compress] 4bit`, embeddings in 8; what goes into
    a product is rounded to 8 bits."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        MatMulNBitsQuantizer,
    )

    quantize_dynamic(
        str(source), str(path), weight_type=QuantType.QInt8, op_types_to_quantize=["Gather"],
        extra_options={"DefaultTensorType": _FLOAT},
    )  # fmt: skip
    work = MatMulNBitsQuantizer(
        onnx.load(str(path)), block_size=32, is_symmetric=True, accuracy_level=4, nodes_to_exclude=list(leave)
    )
    work.process()
    onnx.save(work.model.model, str(path))
    return path


def constant_products(source: Path) -> list[str]:
    """Names of the nodes that multiply by constant weights, in order."""
    import onnx

    graph = onnx.load(str(source)).graph
    constants = {one.name for one in graph.initializer} | {node.output[0] for node in graph.node if node.op_type == "Constant"}
    return [node.name for node in graph.node if node.op_type in _STATIC_OPS and node.input[1] in constants]


def sensitive(source: Path, batches: Sequence[Arrays]) -> list[str]:
    """The products by the outliers in what goes into them, worst first: the largest value over the root mean square.
    A few large values stretch the 8-bit scale, and everything else falls between its steps."""
    import onnx
    import onnxruntime

    model = onnx.load(str(source))
    wanted = set(constant_products(source))
    inputs = {node.name: node.input[0] for node in model.graph.node if node.name in wanted}
    known = {one.name for one in (*model.graph.output, *model.graph.input)}
    for name in sorted(set(inputs.values()) - known):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, _FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    asked = [one.name for one in session.get_outputs()]
    worst: dict[str, float] = {}
    for batch in batches:
        for name, value in zip(asked, session.run(asked, _fed(session, batch)), strict=True):
            if value.dtype == np.float32 and value.size:
                ratio = float(np.abs(value).max() / (np.sqrt(np.mean(np.square(value))) + 1e-9))
                worst[name] = max(worst.get(name, 0.0), ratio)
    return sorted(inputs, key=lambda node: -worst.get(inputs[node], 0.0))


def narrow_accumulators() -> bool:
    """Whether this CPU adds pairs of 8-bit products in 16 bits, where they can overflow: x86 without VNNI. Then weights
    keep 7 bits."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return bool(flags) and "avx2" in flags and not any(one in flags for one in ("avx512_vnni", "avx_vnni", "amx_int8"))


class _Reader:
    """What onnxruntime's calibration reads: one batch after the other."""

    def __init__(self, source: Path, batches: Sequence[Arrays]) -> None:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
        self._feeds: Iterator[dict[str, Any]] = iter([_fed(session, batch) for batch in batches])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def _fed(session: Any, batch: Arrays) -> dict[str, Any]:
    kinds = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}
    return {one.name: batch[one.name].astype(kinds.get(one.type, np.float32)) for one in session.get_inputs()}
