"""The net itself, as `tollway.inference.inside` looks into it: hooks on its embeddings and its attention."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class LiveNet:
    """The `Opened` of a Net."""

    def __init__(self, net: Any) -> None:
        self.net = net.eval()
        self.first: bool = net.reads_first
        self._tables = [one for one in net.modules() if isinstance(one, nn.Embedding)]

    def recorded(self, arrays: Mapping[str, Tensor]) -> list[Tensor]:
        """What each embedding gives for these arrays, in the order of the calls."""
        found: list[Tensor] = []
        with _hooked(self._tables, lambda given: found.append(given.detach())), torch.no_grad():
            self.net(**arrays)
        return found

    def answers(self, arrays: Mapping[str, Tensor], moved: Sequence[Tensor]) -> dict[str, Tensor]:
        """The net's outputs with the embeddings' outputs replaced."""
        queue = list(moved)
        with _hooked(self._tables, lambda given: queue.pop(0)):
            outputs: dict[str, Tensor] = self.net(**arrays)
        return outputs

    def looks(self, arrays: Mapping[str, Tensor]) -> list[Tensor]:
        """What each layer of attention weighs."""
        with torch.no_grad():
            hf = getattr(self.net, "hf", None)
            if hf is None:
                return self._own(arrays)
            found = getattr(hf(**arrays, output_attentions=True), "attentions", None) or ()
            return [one for one in found if one is not None]

    def _own(self, arrays: Mapping[str, Tensor]) -> list[Tensor]:
        """Of our own encoder: its attention drops out a matrix of weights, which in evaluation passes unchanged."""
        found: list[Tensor] = []
        drops = (getattr(one, "drop", None) for one in self.net.modules() if hasattr(one, "head_width"))
        layers = [one for one in drops if isinstance(one, nn.Module)]
        with _hooked(layers, lambda given: found.append(given)):
            self.net(**arrays)
        return [one for one in found if one.shape[2] == one.shape[3]]


@contextmanager
def _hooked(modules: Sequence[nn.Module], change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    handles = [one.register_forward_hook(lambda _module, _inputs, given: change(given)) for one in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
