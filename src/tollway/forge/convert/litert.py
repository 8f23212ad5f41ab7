"""Torch to LiteRT (TFLite) by litert-torch, for phones and small devices: fixed shapes, 32-bit ids, float or 8-bit weights."""

import json
import os
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from tollway.forge.convert.flat import Source
from tollway.forge.convert.onnx import last_line, quiet
from tollway.kit.errors import Conflict

LENGTH: Final = 128
ROWS: Final = 1


class _Narrow(nn.Module):
    """Takes 32-bit ids, which is what LiteRT has."""

    def __init__(self, module: nn.Module, wide: tuple[bool, ...]) -> None:
        super().__init__()
        self.module, self.wide = module, wide

    def forward(self, *arrays: Tensor) -> Any:
        return self.module(*(one.long() if wide else one for one, wide in zip(arrays, self.wide, strict=True)))


def export(source: Source, path: Path, *, rows: int = ROWS, length: int = LENGTH, int8: bool = False) -> Path:
    """Write `path` and the note about its axes beside it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what its C++ says comes past every channel of ours
    with quiet():
        import litert_torch

    example = tuple(
        _shaped(one, source.dynamic.get(name, {}), rows, length)
        for name, one in zip(source.inputs, source.example, strict=True)
    )
    wide = tuple(one.dtype == torch.int64 for one in example)
    example = tuple(one.to(torch.int32) if is_wide else one for one, is_wide in zip(example, wide, strict=True))
    with quiet():
        try:
            made = litert_torch.convert(_Narrow(source.module, wide).eval(), example)
            made.export(str(path))
        except Exception as error:
            raise Conflict(
                f"LiteRT could not take the model: {last_line(error)}.", code="conversion_failed",
                hint="Leave litert out of [convert] formats.",
            ) from error  # fmt: skip
    if int8:
        _quantise(path)
    path.with_name(path.name + ".json").write_text(json.dumps(_about(source, example, rows, length), indent=1), encoding="utf-8")
    return path


def _quantise(path: Path) -> None:
    """Weights in 8 bits, activations at run time (ai-edge-quantizer's dynamic recipe)."""
    from ai_edge_quantizer import quantizer, recipe

    with quiet():
        work = quantizer.Quantizer(str(path), recipe.dynamic_wi8_afp32())
        result = work.quantize()
        path.unlink()
        result.export_model(str(path), overwrite=True)


def _shaped(one: Tensor, axes: dict[int, str], rows: int, length: int) -> Tensor:
    shape = list(one.shape)
    for axis, name in axes.items():
        shape[axis] = length if name == "length" else rows
    out = one.new_zeros(shape)
    places = tuple(slice(0, min(own, wanted)) for own, wanted in zip(one.shape, shape, strict=True))
    out[places] = one[places]
    return out


def _about(source: Source, example: tuple[Tensor, ...], rows: int, length: int) -> dict[str, Any]:
    with torch.no_grad():
        wide = tuple(one.long() if one.dtype == torch.int32 else one for one in example)
        outputs = source.module(*wide)
    axes = {name: {kind: axis for axis, kind in source.dynamic.get(name, {}).items()} for name in source.inputs}
    for name, one in zip(source.outputs, outputs, strict=True):
        places = [axis for axis, count in enumerate(one.shape) if axis and count == length]
        axes[name] = {"rows": 0, **({"length": places[0]} if places and one.dim() > 1 else {})}
    return {"inputs": list(source.inputs), "outputs": list(source.outputs), "axes": axes, "rows": rows, "length": length}
