"""A `.pt2` file that is looked into: the graph that `torch.py` reads, with its embeddings and its attention watched.

    opened = graph.opened(folder / "model.pt2", threads=2)
    inside.by_gradients(opened, features, pieces, "positive")

torch's operators keep their gradients when they are called one by one, so a graph that was made to be computed can be
explained as the net could that it was made from.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from tollway.inference.torch import TorchRunner
from tollway.kit.errors import BadRequest

_EMBEDDING: Final = "aten.embedding.default"
_SOFTMAX: Final = ("aten.softmax.int", "aten._softmax.default")
_FUSED: Final = "aten.scaled_dot_product_attention.default"


class Graph:
    """The `Opened` of `inside.py`. For one thread."""

    def __init__(self, path: Path, threads: int) -> None:
        self._given: list[Tensor] | None = None  # what embeddings gave
        self._instead: list[Tensor] | None = None  # what they are to give
        self._looks: list[Tensor] | None = None
        around: dict[str, Callable[..., Any]] = {_EMBEDDING: self._embedding, _FUSED: self._fused}
        self._runner = TorchRunner(path, threads, around | dict.fromkeys(_SOFTMAX, self._softmax))

    @property
    def first(self) -> bool:
        """Whether the answer is read from the first place of a text."""
        if not self._runner.reads:
            raise BadRequest(
                "This version does not say where its answer is read from.", param="method",
                hint="Convert the model again, or choose another method.",
            )  # fmt: skip
        return self._runner.reads == "first"

    def recorded(self, arrays: Mapping[str, Tensor]) -> list[Tensor]:
        """What each embedding gives."""
        self._given = []
        return self._watched(arrays, self._given)

    def answers(self, arrays: Mapping[str, Tensor], moved: Sequence[Tensor]) -> dict[str, Tensor]:
        """The outputs, with `moved` in the place of what embeddings give."""
        self._instead = list(moved)
        try:
            return self._compute(arrays)
        finally:
            self._instead = None

    def looks(self, arrays: Mapping[str, Tensor]) -> list[Tensor]:
        """What each layer of attention weighs."""
        self._looks = []
        length = arrays["input_ids"].shape[1]
        found = self._watched(arrays, self._looks)
        return [one for one in found if one.dim() == 4 and one.shape[2:] == (length, length)]

    def _watched(self, arrays: Mapping[str, Tensor], into: list[Tensor]) -> list[Tensor]:
        """What one pass puts into the list that was opened for it; none stays open."""
        try:
            with torch.no_grad():
                self._compute(arrays)
        finally:
            self._given = self._looks = None
        return into

    def _compute(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        missing = [name for name in self._runner.inputs if name not in arrays]
        if missing:
            raise BadRequest(f"The model wants {', '.join(missing)}, which these features do not give.")
        return self._runner.compute({name: arrays[name].contiguous() for name in self._runner.inputs})

    def _embedding(self, what: Callable[..., Any], *args: Any, **more: Any) -> Any:
        if self._instead is not None:
            return self._instead.pop(0).clone()  # a graph may write into it, and a leaf must not be written into
        made = what(*args, **more)
        if self._given is not None:
            self._given.append(made.clone())
        return made

    def _softmax(self, what: Callable[..., Any], *args: Any, **more: Any) -> Any:
        made = what(*args, **more)
        if self._looks is not None:
            self._looks.append(made)
        return made

    def _fused(self, what: Callable[..., Any], *args: Any, **more: Any) -> Any:
        if self._looks is not None:
            self._looks.append(_weighed(*args, **more))
        return what(*args, **more)


def _weighed(
    query: Tensor, key: Tensor, _value: Tensor, mask: Tensor | None = None, _dropout: float = 0.0, causal: bool = False,
    *, scale: float | None = None, **_more: Any,
) -> Tensor:  # fmt: skip
    """The weights that fused attention keeps to itself."""
    scores = query @ key.transpose(-1, -2) * (scale or 1 / math.sqrt(query.shape[-1]))
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
    return scores.softmax(-1)


def opened(path: Path, threads: int) -> Graph:
    """Read `path`. Raises BadRequest for what is no such file, or asks for more than arithmetic."""
    return Graph(path, threads)
