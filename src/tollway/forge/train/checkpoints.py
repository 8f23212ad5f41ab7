"""Checkpoints: everything a run needs to go on bit for bit, as safetensors and JSON, never pickle.

For the loop. Trained parameters, buffers, optimiser state and random generators go into one safetensors file a process;
the position and figures into course.json. Written aside, flushed to disk, renamed; the newest two are kept.
"""

import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tollway.forge.train import device
from tollway.kit import durable
from tollway.kit.errors import Conflict
from tollway.kit.said import say

KEPT = 2
_PYTHON_STATE, _NUMPY_STATE, _TORCH_STATE = "random/python", "random/numpy", "random/torch"
_DEVICE_STATE = "random/device"


def weights(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that training changes: trained parameters (once each), those that the net moves itself (`moving`: names
    of its modules) and buffers; the local part when sharded."""
    moving = tuple(f"{name}." for name in getattr(net, "moving", ()))
    kept: dict[str, torch.Tensor] = {
        name: each for name, each in net.named_parameters() if each.requires_grad or name.startswith(moving)
    }
    kept |= dict(net.named_buffers())
    return {name: local(each).detach() for name, each in kept.items()}


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a sharded tensor; any other tensor itself."""
    to_local = getattr(tensor, "to_local", None)
    return to_local() if to_local else tensor


def restore(net: torch.nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Copies weights back in place. Raises Conflict when they are of another net."""
    current = weights(net)
    missing = sorted(set(current) ^ set(saved))
    if missing:
        raise Conflict(
            say("train.other_net", "The checkpoint is of another net ({count} tensors differ, first {name}).",
                count=len(missing), name=repr(missing[0])),
            hint=say("train.afresh", "Start the run afresh: delete its work folder."),
        )
    with torch.no_grad():
        for name, tensor in current.items():
            tensor.copy_(saved[name])


class Shelf:
    """The checkpoints of one run in `folder`, numbered by step."""

    def __init__(self, folder: Path, rank: int = 0, barrier: Callable[[], None] = lambda: None) -> None:
        self.folder, self.rank, self.barrier = folder, rank, barrier

    def newest(self) -> Path | None:
        """The last complete checkpoint."""
        found = sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []
        return found[-1] if found else None

    def save(self, step: int, net: torch.nn.Module, optimisers: Mapping[str, torch.optim.Optimizer], course: Mapping[str, Any]) -> Path:
        """Writes a checkpoint; it exists completely or not at all."""
        goal = self.folder / f"step-{step:09d}"
        aside = self.folder / f".new-{step:09d}"
        if self.rank == 0:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            for old in self.folder.glob(".new-*"):
                if old != aside:
                    shutil.rmtree(old, ignore_errors=True)
        self.barrier()
        tensors = {f"net/{name}": tensor for name, tensor in weights(net).items()}
        plain: dict[str, Any] = {}
        for name, optimiser in optimisers.items():
            _take_optimiser(optimiser, f"optimiser/{name}", tensors, plain)
        _take_random(tensors, plain, _place(net))
        _write_tensors(aside / f"rank-{self.rank}.safetensors", tensors)
        durable.write(aside / f"rank-{self.rank}.json", json.dumps(plain))
        self.barrier()
        if self.rank == 0:
            durable.write(aside / "course.json", json.dumps(course, ensure_ascii=False))
            shutil.rmtree(goal, ignore_errors=True)
            aside.replace(goal)
            durable.sync(self.folder)
            for old in sorted(self.folder.glob("step-*"))[:-KEPT]:
                shutil.rmtree(old, ignore_errors=True)
        self.barrier()
        return goal

    def load(self, checkpoint: Path, net: torch.nn.Module, optimisers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Any]:
        """Puts net, optimisers and random generators where they were; returns the course."""
        file = checkpoint / f"rank-{self.rank}.safetensors"
        if not file.is_file():
            raise Conflict(
                say("train.fewer_processes", "The checkpoint was made with fewer processes than this run has."),
                hint=say("train.same_processes", "Continue with the same `processes`, or delete the run's work folder."),
            )
        tensors = load_file(file)
        plain = json.loads((checkpoint / f"rank-{self.rank}.json").read_text())
        restore(net, {name[4:]: tensor for name, tensor in tensors.items() if name.startswith("net/")})
        for name, optimiser in optimisers.items():
            _give_optimiser(optimiser, f"optimiser/{name}", tensors, plain)
        _give_random(tensors, plain, _place(net))
        course: dict[str, Any] = json.loads((checkpoint / "course.json").read_text(encoding="utf-8"))
        return course


def _place(net: torch.nn.Module) -> torch.device:
    return next((one.device for one in net.parameters()), torch.device("cpu"))


def save_weights(file: Path, net: torch.nn.Module) -> None:
    """Only the weights, atomically: the best so far."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.new")
    _write_tensors(aside, weights(net))
    aside.replace(file)


def load_weights(file: Path, net: torch.nn.Module) -> None:
    """What `save_weights` kept."""
    restore(net, load_file(file))


def _take_optimiser(optimiser: torch.optim.Optimizer, prefix: str, tensors: dict[str, torch.Tensor], plain: dict[str, Any]) -> None:
    for number, state in optimiser.state_dict()["state"].items():
        for name, value in state.items():
            key = f"{prefix}/{number}/{name}"
            if isinstance(value, torch.Tensor):
                tensors[key] = local(value).detach()
            else:
                plain[key] = value


def _give_optimiser(optimiser: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
    ordered = [each for group in optimiser.param_groups for each in group["params"]]
    for source in (tensors, plain):
        for key, value in source.items():
            if not key.startswith(prefix + "/"):
                continue
            number, name = key[len(prefix) + 1 :].split("/", 1)
            parameter = ordered[int(number)]
            optimiser.state[parameter][name] = _as_parameter(value, parameter) if isinstance(value, torch.Tensor) else value


def _as_parameter(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """In torch's own aligned memory; wrapped like its parameter when that is sharded."""
    value = value.clone().to(parameter.device if value.ndim else "cpu")  # torch keeps counts of steps on the processor
    if hasattr(parameter, "device_mesh") and value.ndim:
        from torch.distributed.tensor import DTensor

        return DTensor.from_local(value, parameter.device_mesh, parameter.placements, run_check=False)  # type: ignore[attr-defined]
    return value


def _take_random(tensors: dict[str, torch.Tensor], plain: dict[str, Any], place: torch.device) -> None:
    tensors[_TORCH_STATE] = torch.get_rng_state()
    own = device.random_state(place)
    if own is not None:
        tensors[_DEVICE_STATE] = own
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    tensors[_NUMPY_STATE] = torch.from_numpy(np.asarray(keys, dtype=np.int64))
    plain[_NUMPY_STATE] = [name, int(position), int(has_gauss), float(gauss)]
    plain[_PYTHON_STATE] = random.getstate()


def _give_random(tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any], place: torch.device) -> None:
    torch.set_rng_state(tensors[_TORCH_STATE].clone())
    if _DEVICE_STATE in tensors:
        device.restore_random(place, tensors[_DEVICE_STATE])
    name, position, has_gauss, gauss = plain[_NUMPY_STATE]
    np.random.set_state((name, tensors[_NUMPY_STATE].numpy().astype(np.uint32), position, has_gauss, gauss))
    version, numbers, gauss_next = plain[_PYTHON_STATE]
    random.setstate((version, tuple(numbers), gauss_next))


def _write_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in _apart(tensors).items()}, file)
    durable.sync(file)


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that share memory are copied: the format keeps each on its own."""
    seen: set[int] = set()
    result: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return result
