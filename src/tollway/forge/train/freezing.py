"""Training only the top of a net (`top:N`): the layers below are frozen, and their outputs computed once and kept.

For `train.fit`. What a frozen layer gives for a row never changes, so it is kept on disk (bf16 or fp32) and every epoch
starts at the first layer that learns; research measured 16.7x a padded Trainer that way.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tollway.forge.train import attention
from tollway.forge.train.batches import Batches
from tollway.forge.train.learner import autocast, turns_of
from tollway.forge.train.objectives import Objective
from tollway.kit.errors import BadRequest

ROW = "_row"  # the target that carries a row's number to the recall


def layers_of(net: nn.Module) -> list[nn.Module]:
    """The stack from input to output: what the net says, else its largest list of like modules."""
    own = getattr(net, "layers", None)
    if callable(own):
        return list(own())
    best: list[nn.Module] = []
    for module in net.modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1 and len({type(each) for each in module}) == 1 and len(module) > len(best):
            best = list(module)
    return best


def freeze_below(net: nn.Module, top: int) -> None:
    """Leaves trainable: the top N layers of the stack, and what comes after it (the head)."""
    layers = layers_of(net)
    if len(layers) < 2:
        raise BadRequest("This model has no stack of layers of which the top could be trained.", param="train.method",
                         hint="Use method = 'full' or 'lora'.")
    if top >= len(layers):
        raise BadRequest(f"top:{top} leaves nothing frozen: the model has {len(layers)} layers.", param="train.method",
                         hint=f"Use top:{len(layers) - 1} or less, or method = 'full'.")
    inside = {id(each) for layer in layers for each in layer.parameters()}
    after = _parameters_after(net, layers[-1], inside)
    net.requires_grad_(False)
    for layer in layers[-top:]:
        layer.requires_grad_(True)
    for each in after:
        each.requires_grad_(True)
    rest(net, layers[: len(layers) - top])


def rest(net: nn.Module, layers: Sequence[nn.Module]) -> None:
    """These layers stay in evaluation mode while the net trains: no dropout, no moving averages."""
    net.resting = tuple(layers)  # type: ignore[assignment]
    train_mode(net)


def train_mode(net: nn.Module) -> None:
    """Training mode, but for the layers that rest."""
    net.train()
    for layer in getattr(net, "resting", ()):
        layer.eval()


def can_recall(net: nn.Module) -> bool:
    """Are the layers such that their outputs can be kept? So for transformers models: one tensor in, one out."""
    return bool(attention.kinds(net)) and bool(getattr(net, "resting", ()))


def _parameters_after(net: nn.Module, last: nn.Module, inside: set[int]) -> list[nn.Parameter]:
    """Parameters registered after the last layer and outside the stack: pooler, head, final norm."""
    seen_last, found = False, []
    last_ids = {id(each) for each in last.parameters()}
    for each in net.parameters():
        if id(each) in last_ids:
            seen_last = True
        elif seen_last and id(each) not in inside:
            found.append(each)
    return found


class Recall(nn.Module):
    """Stands in for the first frozen module: gives what the last one gave, for the rows of the current batch."""

    def __init__(self, in_tuple: bool) -> None:
        super().__init__()
        self.hidden: Tensor | None = None
        self.in_tuple = in_tuple

    def forward(self, *_: Any, **__: Any) -> Any:
        return (self.hidden,) if self.in_tuple else self.hidden


class Pass(nn.Module):
    """A layer that does nothing."""

    def __init__(self, in_tuple: bool) -> None:
        super().__init__()
        self.in_tuple = in_tuple

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden,) if self.in_tuple else hidden


class Recalled:
    """The objective, with the frozen layers' outputs put in place before each loss."""

    def __init__(self, inner: Objective, recall: Recall, store: "Store") -> None:
        self.inner, self.recall, self.store, self.name = inner, recall, store, inner.name

    def prepare(self, prepared: Any, features: Any, split: str) -> Any:
        return self.inner.prepare(prepared, features, split)

    def loss(self, net: Any, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        rest = {name: each for name, each in batch.items() if name != ROW}
        width = rest["input_ids"].shape[1] if "input_ids" in rest else None
        self.recall.hidden = self.store.rows(batch[ROW].tolist(), width)
        return self.inner.loss(net, rest, turn)


class Store:
    """Hidden states of many rows of different length, end to end in one file that is mapped into memory."""

    def __init__(self, file: Path, lengths: Sequence[int], width: int, dtype: torch.dtype) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.ends = np.cumsum(self.lengths)
        self.width = width
        count = int(self.ends[-1]) * width
        free = shutil.disk_usage(file.parent).free
        if count * dtype.itemsize > free // 2:
            raise NoRoom(count * dtype.itemsize, free)
        self.flat = torch.from_file(str(file), shared=True, size=count, dtype=dtype).view(-1, width)

    def put(self, row: int, hidden: Tensor) -> None:
        self.flat[self.ends[row] - self.lengths[row] : self.ends[row]] = hidden[: self.lengths[row]].to(self.flat.dtype)

    def rows(self, numbers: Sequence[int], width: int | None) -> Tensor:
        """These rows, padded with zeros."""
        longest = max(int(width or 0), int(self.lengths[list(numbers)].max()))
        result = torch.zeros(len(numbers), longest, self.width)
        for at, row in enumerate(numbers):
            length = int(self.lengths[row])
            result[at, :length] = self.flat[self.ends[row] - length : self.ends[row]]
        return result


class NoRoom(Exception):
    """The frozen layers' outputs would fill the disk: the run goes on without keeping them."""


@contextmanager
def recalled(
    net: nn.Module, objective: Objective, parts: Sequence[Batches | None], work: Path, precision: str
) -> Iterator[Objective]:
    """While inside, the frozen layers' outputs come from disk. `parts` are the batches that will be used."""
    frozen: Sequence[nn.Module] = net.resting  # type: ignore[assignment]
    wanted = [batches for batches in parts if batches is not None]
    start = 0
    for batches in wanted:
        batches.targets[ROW] = np.arange(start, start + len(batches))
        start += len(batches)
    file = work / "recall.bin"
    try:
        store, in_tuple = _filled(net, frozen, objective, wanted, file, precision)
        stand_ins = [Recall(in_tuple[0]), *(Pass(each) for each in in_tuple[1:])]
        recall = stand_ins[0]
        assert isinstance(recall, Recall)
        places = {id(layer): stand_in for layer, stand_in in zip(frozen, stand_ins, strict=True)}
        kept = _swap(net, places)
        try:
            yield Recalled(objective, recall, store)
        finally:
            for parent, name, layer in kept:
                setattr(parent, name, layer)
    finally:
        for batches in wanted:
            batches.targets.pop(ROW, None)
        file.unlink(missing_ok=True)


def _swap(net: nn.Module, places: Mapping[int, nn.Module]) -> list[tuple[nn.Module, str, nn.Module]]:
    kept = []
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in places:
                kept.append((parent, name, child))
                setattr(parent, name, places[id(child)])
    return kept


def _all(parts: Sequence[Batches]) -> Iterator[tuple[Batches, list[int]]]:
    for part in parts:
        for indices in part.in_order():
            yield part, indices


class _Enough(Exception):
    """The frozen part has spoken; the rest of the net is not needed."""


def _filled(
    net: nn.Module, frozen: Sequence[nn.Module], objective: Objective, parts: Sequence[Batches], file: Path, precision: str
) -> tuple[Store, list[bool]]:
    """Every row through the frozen layers once, without dropout; and which of them give tuples."""
    in_tuple = [False] * len(frozen)
    caught: dict[str, Tensor] = {}

    def catch(number: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            in_tuple[number] = isinstance(output, tuple)
            if number == len(frozen) - 1:
                caught["hidden"] = output[0] if isinstance(output, tuple) else output
                raise _Enough

        return hook

    store: Store | None = None
    lengths = [int(each) for part in parts for each in part.lengths]
    hooks = [layer.register_forward_hook(catch(number)) for number, layer in enumerate(frozen)]
    net.eval()
    try:
        with torch.no_grad():
            for part, indices in _all(parts):
                batch = part.batch(indices)
                rows = batch.pop(ROW).tolist()
                with suppress(_Enough), autocast(precision):
                    objective.loss(net, batch, turns_of(net)[-1])
                hidden = caught["hidden"]
                if store is None:
                    sequence = "input_ids" in batch and hidden.shape[1] == batch["input_ids"].shape[1]
                    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
                    sizes = lengths if sequence else [hidden.shape[1]] * len(lengths)
                    store = Store(file, sizes, hidden.shape[-1], dtype)
                for at, row in enumerate(rows):
                    store.put(row, hidden[at])
    finally:
        for each in hooks:
            each.remove()
        train_mode(net)
    assert store is not None
    return store, in_tuple
