"""Where a net is trained: this machine's accelerator where there is one, else its processor. Moving it there and back.

    place = device.choose("auto")            # cuda (this process's own), mps, or cpu
    with device.on(net, place): ...          # trained there; afterwards back where the rest of the factory expects it
    batch = device.move(batch, place)        # from page-locked memory, without waiting, where that helps

For the loop and its workers. No accelerator is needed to import or to test this.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from tollway.kit.errors import BadRequest

KINDS: Final = ("auto", "cpu", "cuda", "mps")


def choose(asked: str = "auto") -> torch.device:
    """The device to train on. Raises BadRequest for one that this machine does not have."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked not in KINDS or (asked != "auto" and not there[asked]):
        have = ", ".join(name for name, present in there.items() if present)
        raise BadRequest(
            f"There is no device {asked!r} here.", param="train.device", hint=f'Here are: {have}; or "auto".'
        )
    kind = asked if asked != "auto" else next(name for name, present in there.items() if present)
    if kind == "cuda":  # of several processes on one machine each has its own
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % max(1, torch.cuda.device_count()))
    return torch.device(kind)


def backend(place: torch.device) -> str:
    """What processes that train together talk through."""
    return "nccl" if place.type == "cuda" else "gloo"


@contextmanager
def on(net: nn.Module, place: torch.device) -> Iterator[None]:
    """The net on a device, and back on the processor afterwards: what comes after training works there."""
    if place.type == "cpu":
        yield
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    net.to(place)
    try:
        yield
    finally:
        net.to("cpu")


def move(batch: Mapping[str, Tensor], place: torch.device) -> dict[str, Tensor]:
    """A batch on a device. To a graphics card it goes from page-locked memory while the card still computes."""
    if place.type == "cpu":
        return dict(batch)
    if place.type == "cuda":
        return {name: one.pin_memory().to(place, non_blocking=True) for name, one in batch.items()}
    return {name: one.to(place) for name, one in batch.items()}


def wait(place: torch.device) -> None:
    """Until the device has done what it was given: for clocks."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    elif place.type == "mps":
        torch.mps.synchronize()


def random_state(place: torch.device) -> Tensor | None:
    """The device's own random numbers, for checkpoints; the processor's are kept apart."""
    if place.type == "cuda":
        return torch.cuda.get_rng_state(place)
    return torch.mps.get_rng_state() if place.type == "mps" else None


def restore_random(place: torch.device, state: Tensor) -> None:
    """The counterpart of `random_state`."""
    if place.type == "cuda":
        torch.cuda.set_rng_state(state.cpu(), place)
    elif place.type == "mps":
        torch.mps.set_rng_state(state.cpu())
