"""ONNX to OpenVINO: float32, bf16 arithmetic, or 8 bits by NNCF with SmoothQuant, calibrated on real rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tollway.forge.convert.onnx import last_line, quiet
from tollway.inference import Arrays
from tollway.kit.errors import Conflict
from tollway.kit.quiet import no_telemetry

PRECISION: Final = "tollway_precision"  # read by inference.openvino

_FLOAT: Final = ("Add", "Subtract", "Multiply", "Divide", "ReduceMax", "ReduceMean", "ReduceSum", "Concat", "Softmax", "MVN")


def export(onnx_file: Path, path: Path, *, precision: str = "f32", calibration: Sequence[Arrays] = ()) -> Path:
    """Write `path` (.xml) and its .bin. `precision`: f32, bf16, or int8 (then `calibration` rows are needed)."""
    no_telemetry()
    import openvino

    with quiet():
        try:
            model = openvino.convert_model(str(onnx_file))
            if precision == "int8":
                model = _int8(model, calibration)
            model.set_rt_info("bf16" if precision == "bf16" else "f32", PRECISION)
            openvino.save_model(model, str(path), compress_to_fp16=False)
        except Exception as error:
            raise Conflict(
                f"OpenVINO could not take the model: {last_line(error)}.", code="conversion_failed",
                hint="Leave openvino out of [convert] formats.",
            ) from error  # fmt: skip
    return path


def _int8(model: Any, calibration: Sequence[Arrays]) -> Any:
    import nncf

    nncf.set_log_level(40)
    inputs = [port.any_name for port in model.inputs]
    data = nncf.Dataset([{name: batch[name] for name in inputs} for batch in calibration])
    kind = nncf.ModelType.TRANSFORMER if _has_softmax(model) else None
    # only products: a mask adds -10,000 to what is hidden, and an 8-bit scale that reaches there keeps nothing else
    rest = nncf.IgnoredScope(types=list(_FLOAT), validate=False)
    return nncf.quantize(model, data, subset_size=len(calibration), model_type=kind, ignored_scope=rest)


def _has_softmax(model: Any) -> bool:
    return len([one for one in model.get_ops() if one.get_type_name() == "Softmax"]) > 1
