"""A model folder on disk: model.toml (what it is) and model.safetensors (its weights). Never a pickle."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tollway.forge.models import encoded
from tollway.forge.models.net import ModelSpec
from tollway.kit.errors import BadRequest, NotFound

SPEC: Final = "model.toml"
WEIGHTS: Final = "model.safetensors"


def write_weights(net: nn.Module, path: Path) -> None:
    """All parameters and buffers. Tensors that share memory are written once under each name (safetensors wants that)."""
    write_state(net.state_dict(), path)


def write_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Tensors by name, each with memory of its own."""
    owned = {name: one.detach().contiguous().clone() for name, one in state.items()}
    save_file(owned, path, metadata={"format": "pt"})


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name. Raises NotFound, or BadRequest when the file is damaged."""
    if not path.is_file():
        raise NotFound(f"{path.parent.name} has no {path.name}.")
    try:
        return encoded.read(path) if encoded.is_encoded(path) else load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadRequest(f"{path.name} is damaged or no safetensors file: {error}") from error


@contextmanager
def whole_weights(base: Path) -> Iterator[None]:
    """While another library reads the weights of a base: BadRequest when they are damaged, or nothing of the kind."""
    try:
        yield
    except SafetensorError as error:
        raise BadRequest(
            f"The weights of {base.name} are damaged or no safetensors: {error}.",
            hint="Get them again; a pickle is not made safe by its name.",
        ) from error


def write_spec(spec: ModelSpec, folder: Path) -> None:
    """model.toml, readable by a person."""
    head = {name: one for name, one in asdict(spec).items() if name != "options"}
    lines = [f"{name} = {_toml(one)}" for name, one in head.items()]
    lines += [
        "",
        "[options]",
        *(f"{_key(name)} = {_toml(one)}" for name, one in spec.options.items() if one is not None),
    ]
    (folder / SPEC).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_spec(folder: Path) -> ModelSpec:
    """What `write_spec` wrote. Raises NotFound or BadRequest."""
    path = folder / SPEC
    if not path.is_file():
        raise NotFound(f"{folder.name} has no {SPEC}: it is no model folder of this factory.")
    try:
        return ModelSpec(**tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as error:
        raise BadRequest(f"{SPEC} of {folder.name} cannot be read: {error}") from error


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(str(name))} = {_toml(one)}" for name, one in value.items()) + " }"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def fit_shapes(net: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Make the layers of `net` as large as the weights in `state`: structured pruning leaves smaller ones.
    Returns the names of the layers that were replaced."""
    changed = []
    for name, module in list(net.named_modules()):
        saved = state.get(f"{name}.weight")
        own = getattr(module, "weight", None)
        if saved is None or not isinstance(own, Tensor) or own.shape == saved.shape or own.dim() != saved.dim():
            continue
        new = _resized(module, saved)
        if new is not None:
            parent, _, last = name.rpartition(".")
            setattr(net.get_submodule(parent), last, new)
            changed.append(name)
    return changed


def _resized(module: nn.Module, weight: Tensor) -> nn.Module | None:
    if isinstance(module, nn.Linear):
        return nn.Linear(weight.shape[1], weight.shape[0], bias=module.bias is not None)
    if isinstance(module, nn.Embedding):
        return nn.Embedding(weight.shape[0], weight.shape[1], padding_idx=module.padding_idx)
    if isinstance(module, nn.Conv2d):
        before, groups = weight.shape[1], 1
        if module.groups > 1:  # depthwise: one filter for each channel
            before, groups = weight.shape[0], weight.shape[0]
        return nn.Conv2d(
            before, weight.shape[0], module.kernel_size, module.stride, module.padding, module.dilation,  # type: ignore[arg-type]
            groups=groups, bias=module.bias is not None,
        )  # fmt: skip
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return type(module)(weight.shape[0], eps=module.eps, momentum=module.momentum)
    if isinstance(module, nn.LayerNorm):
        return nn.LayerNorm(weight.shape[0], eps=module.eps)
    return None


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Bit for bit."""
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
