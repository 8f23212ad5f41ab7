"""Weights that are stored smaller than they are: sparse ones without their zeros, 8-bit and 4-bit ones with their scales.

A model.safetensors of this kind is still a safetensors file; its metadata says how each tensor is stored. Reading gives
back plain float tensors: sparse ones bit for bit, quantised ones exactly the values that were rounded to.

    encoded.write(state, path, {"layer.weight": "sparse", "embedding.weight": "int8", "out.weight": "int4"})
    state = encoded.read(path)
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tollway.kit.errors import BadRequest

KEY: Final = "tollway_encoding"
BLOCK: Final = 32  # weights of a row that share a 4-bit scale
_MOST: Final = 2**33  # elements a stored shape may claim; more is a damaged or hostile file
_BITS: Final = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)


def write(state: Mapping[str, Tensor], path: Path, forms: Mapping[str, str]) -> None:
    """Write `state`; tensors named in `forms` as "sparse", "int8" or "int4", the others as they are."""
    stored: dict[str, Tensor] = {}
    about: dict[str, dict[str, Any]] = {}
    for name, one in state.items():
        form = forms.get(name, "")
        one = one.detach().contiguous()
        if form == "sparse" and one.numel():
            about[name] = _put_sparse(name, one, stored)
        elif form == "int8":
            codes, scales = rounded8(one)
            stored[f"{name}::codes"], stored[f"{name}::scales"] = codes, scales
            about[name] = {"form": "int8", "shape": list(one.shape)}
        elif form == "int4":
            codes, scales = rounded4(one)
            stored[f"{name}::codes"], stored[f"{name}::scales"] = _nibbles(codes), scales
            about[name] = {"form": "int4", "shape": list(one.shape)}
        else:
            stored[name] = one.clone()
    metadata = {"format": "pt", **({KEY: json.dumps(about)} if about else {})}
    save_file(stored, path, metadata=metadata)


def is_encoded(path: Path) -> bool:
    """Whether the file needs `read` here; any safetensors reader can take the others."""
    with safe_open(path, framework="pt") as file:
        return KEY in (file.metadata() or {})


def read(path: Path) -> dict[str, Tensor]:
    """Plain tensors by name. Raises BadRequest for a file whose parts do not fit together."""
    with safe_open(path, framework="pt") as file:
        about = json.loads((file.metadata() or {}).get(KEY, "{}"))
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    state: dict[str, Tensor] = {}
    for name, how in about.items():
        try:
            state[name] = _GET[how["form"]](name, how, parts)
        except (KeyError, RuntimeError, TypeError, ValueError, IndexError) as error:
            raise BadRequest(f"{path.name}: the stored form of {name} is damaged ({error}).") from error
    used = {f"{name}::{part}" for name in about for part in ("codes", "scales", "bits", "places", "values")}
    return state | {name: one for name, one in parts.items() if name not in used}


def form_of(one: Tensor) -> str:
    """ "sparse" where leaving the zeros out makes the tensor smaller, else ""."""
    count = int((one != 0).sum())
    size = one.numel() * one.element_size()
    return "sparse" if one.is_floating_point() and _sparse_size(one, count) < 0.95 * size else ""


# -- sparse: the values that are not zero, and where they are: a bit for each place, or the place of each value


def _sparse_size(one: Tensor, count: int) -> int:
    return count * one.element_size() + min(-(-one.numel() // 8), 4 * count)


def _put_sparse(name: str, one: Tensor, stored: dict[str, Tensor]) -> dict[str, Any]:
    flat = one.reshape(-1)
    there = flat != 0
    stored[f"{name}::values"] = flat[there].clone()
    count = len(stored[f"{name}::values"])
    if 4 * count < -(-one.numel() // 8) and one.numel() < 2**31:
        stored[f"{name}::places"] = there.nonzero().reshape(-1).to(torch.int32)
    else:
        padded = torch.zeros(-(-one.numel() // 8) * 8, dtype=torch.uint8)
        padded[: one.numel()] = there
        stored[f"{name}::bits"] = (padded.reshape(-1, 8) * _BITS).sum(1, dtype=torch.uint8)
    return {"form": "sparse", "shape": list(one.shape)}


def _get_sparse(name: str, how: Mapping[str, Any], parts: Mapping[str, Tensor]) -> Tensor:
    shape = _shape(how)
    values = parts[f"{name}::values"]
    whole = torch.zeros(_count(shape), dtype=values.dtype)
    if f"{name}::places" in parts:
        whole[parts[f"{name}::places"].long()] = values
    else:
        bits = (parts[f"{name}::bits"].reshape(-1, 1) & _BITS).ne(0).reshape(-1)[: len(whole)]
        whole[bits] = values
    return whole.reshape(shape)


# -- 8 bits for a row, 4 bits for a block of a row


def rounded8(one: Tensor) -> tuple[Tensor, Tensor]:
    """Codes from -127 to 127 and a scale for each first index."""
    flat = one.float().reshape(one.shape[0], -1)
    scales = flat.abs().amax(1).clamp(min=1e-12) / 127
    codes = (flat / scales[:, None]).round().clamp(-127, 127).to(torch.int8)
    return codes.reshape(one.shape), scales


def rounded4(one: Tensor) -> tuple[Tensor, Tensor]:
    """Codes from -8 to 7 and a 16-bit scale for each block of 32 along a row; of several scales the one that errs least."""
    flat = one.float().reshape(one.shape[0], -1)
    blocks = torch.nn.functional.pad(flat, (0, -flat.shape[1] % BLOCK)).reshape(flat.shape[0], -1, BLOCK)
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))  # with its sign: it becomes -8 exactly
    best_error = torch.full(blocks.shape[:2], float("inf"))
    best_scale = torch.zeros(blocks.shape[:2], dtype=torch.float16)
    for stretch in (1.0, 0.95, 0.9, 0.85, 0.8):
        scale = (largest.squeeze(-1) * stretch / -8).half()
        error = (_coded4(blocks, scale).float() * scale.float()[..., None] - blocks).square().sum(-1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
    return _coded4(blocks, best_scale), best_scale


def _coded4(blocks: Tensor, scale: Tensor) -> Tensor:
    safe = torch.where(scale == 0, torch.ones_like(scale), scale).float()[..., None]
    return (blocks / safe).round().clamp(-8, 7).to(torch.int8)


def _nibbles(codes: Tensor) -> Tensor:
    wide = (codes + 8).to(torch.uint8).reshape(codes.shape[0], -1)
    return wide[:, 0::2] | (wide[:, 1::2] << 4)


def _get8(name: str, how: Mapping[str, Any], parts: Mapping[str, Tensor]) -> Tensor:
    codes, scales = parts[f"{name}::codes"], parts[f"{name}::scales"]
    return (codes.reshape(codes.shape[0], -1).float() * scales[:, None]).reshape(_shape(how))


def _get4(name: str, how: Mapping[str, Any], parts: Mapping[str, Tensor]) -> Tensor:
    shape = _shape(how)
    packed, scales = parts[f"{name}::codes"], parts[f"{name}::scales"]
    codes = torch.stack([packed & 15, packed >> 4], dim=-1).reshape(packed.shape[0], -1, BLOCK).to(torch.int8) - 8
    whole = (codes.float() * scales.float()[..., None]).reshape(shape[0], -1)
    return whole[:, : _count(shape) // shape[0]].reshape(shape).contiguous()


def _shape(how: Mapping[str, Any]) -> list[int]:
    shape = [int(one) for one in how["shape"]]
    if any(one < 0 for one in shape) or _count(shape) > _MOST:
        raise ValueError(f"the shape {shape} is not possible")
    return shape


def _count(shape: list[int]) -> int:
    total = 1
    for one in shape:
        total *= one
    return total


_GET: Final = {"sparse": _get_sparse, "int8": _get8, "int4": _get4}
