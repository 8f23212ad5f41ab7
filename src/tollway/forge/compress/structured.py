"""Structured pruning: whole heads, neurons and channels are removed. The tensors get smaller, and every engine faster.

What goes together is found by the shape of the model: an attention block (query, key, value, out), a pair of linear
layers with something elementwise between them, a chain of convolutions. Importance is the first-order change of the loss
when a unit goes (Molchanov et al. 2019), summed over batches of training rows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

# (query, key, value, out), seen from the block that owns them
_ATTENTIONS: Final = (
    ("query", "key", "value", "out"),
    ("self.query", "self.key", "self.value", "output.dense"),
    ("attention.query", "attention.key", "attention.value", "output.dense"),
    ("q_lin", "k_lin", "v_lin", "out_lin"),
)
# (into the hidden layer, out of it)
_PAIRS: Final = (("grow", "shrink"), ("intermediate.dense", "output.dense"), ("lin1", "lin2"), ("fc1", "fc2"))
_ELEMENTWISE: Final = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.Dropout, nn.Identity, nn.MaxPool2d,
                       nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.BatchNorm1d, nn.BatchNorm2d)  # fmt: skip


@dataclass
class Group:
    """Units that can go: `makers` have them as rows, `takers` as columns; `width` rows or columns belong to one unit."""

    kind: str
    name: str
    units: int
    makers: list[tuple[str, int]]  # module, rows for a unit
    takers: list[tuple[str, int]]  # module, columns for a unit
    followers: list[str] = field(default_factory=list)  # norms between them


def groups(net: nn.Module) -> list[Group]:
    """Everything in the model of which parts can be removed."""
    found: list[Group] = []
    for name, module in net.named_modules():
        found += _attention(name, module)
        found += _pair(name, module)
    found += _chain(net)
    taken: set[str] = set()
    clear = []
    for one in found:
        makers = {module for module, _ in one.makers}
        if not makers & taken:
            clear.append(one)
            taken |= makers
    return clear


def _attention(name: str, module: nn.Module) -> list[Group]:
    for parts in _ATTENTIONS:
        layers = [_at(module, part) for part in parts]
        if all(isinstance(one, nn.Linear) for one in layers):
            width = _head_width(module, parts[0])
            query, key, value, out = layers
            same = query.out_features == key.out_features == value.out_features == out.in_features  # type: ignore[union-attr]
            if width and same and out.in_features % width == 0:  # type: ignore[union-attr, operator]
                names = [f"{name}.{part}".lstrip(".") for part in parts]
                units = int(out.in_features) // width  # type: ignore[union-attr, arg-type]
                return [Group("heads", name, units, [(one, width) for one in names[:3]], [(names[3], width)])]
    return []


def _head_width(module: nn.Module, query: str) -> int:
    """Only where the number of heads follows from the weights can heads go."""
    owner = _at(module, query.rpartition(".")[0]) if "." in query else module
    for name in ("head_width", "attention_head_size"):
        width = getattr(owner, name, None)
        if isinstance(width, int):
            return width
    return 0


def _pair(name: str, module: nn.Module) -> list[Group]:
    for first, second in _PAIRS:
        grow, shrink = _at(module, first), _at(module, second)
        if isinstance(grow, nn.Linear) and isinstance(shrink, nn.Linear) and grow.out_features == shrink.in_features:
            into, out = f"{name}.{first}".lstrip("."), f"{name}.{second}".lstrip(".")
            return [Group("neurons", name, grow.out_features, [(into, 1)], [(out, 1)])]
    return []


def _chain(net: nn.Module) -> list[Group]:
    """Layers one behind the other: the `trunk` of a picture model and its head."""
    trunk = getattr(net, "trunk", None)
    if not isinstance(trunk, nn.Sequential):
        return []
    leaves = [(f"trunk.{name}", one) for name, one in trunk.named_modules() if not list(one.children())]
    leaves += [("head.out", one)] if isinstance(one := _at(net, "head.out"), nn.Linear) else []
    if any(not isinstance(one, (*_ELEMENTWISE, nn.Linear, nn.Conv2d)) for _, one in leaves):
        return []
    found: list[Group] = []
    waiting: Group | None = None
    for name, one in leaves:
        if isinstance(one, (nn.Linear, nn.Conv2d)):
            units = one.out_features if isinstance(one, nn.Linear) else one.out_channels
            if waiting is not None:
                columns = one.in_features if isinstance(one, nn.Linear) else one.in_channels
                if columns % waiting.units == 0:
                    waiting.takers.append((name, columns // waiting.units))
                    found.append(waiting)
            plain = isinstance(one, nn.Linear) or one.groups == 1
            waiting = Group("neurons" if isinstance(one, nn.Linear) else "channels", name, units, [(name, 1)], []) if plain else None
        elif waiting is not None and isinstance(one, (nn.BatchNorm1d, nn.BatchNorm2d)):
            waiting.followers.append(name)
    return found


def importance(net: nn.Module, found: Sequence[Group], losses: Iterable[Callable[[], Tensor]]) -> list[Tensor]:
    """For each group the importance of its units: how much the loss would change, to first order, without them."""
    scores = [torch.zeros(one.units) for one in found]
    was = net.training
    net.eval()
    for loss in losses:
        net.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        for number, one in enumerate(found):
            change = torch.zeros(one.units)
            for name, columns in one.takers:
                change += _by_unit(net.get_submodule(name).weight, one.units, columns, of_rows=False)  # type: ignore[arg-type]
            name, rows = one.makers[-1]
            change += _by_unit(net.get_submodule(name).weight, one.units, rows, of_rows=True)  # type: ignore[arg-type]
            scores[number] += change.abs()
    net.zero_grad()
    net.train(was)
    return scores


def _by_unit(weight: Tensor, units: int, width: int, *, of_rows: bool) -> Tensor:
    if weight.grad is None:
        return torch.zeros(units)
    change = (weight * weight.grad).detach().float()
    if of_rows:
        return change.reshape(units, width, -1).sum((1, 2))
    return change.reshape(change.shape[0], units, -1).sum((0, 2))


def remove(net: nn.Module, share: float, kinds: Sequence[str], scores: dict[str, Tensor], found: Sequence[Group]) -> dict[str, int]:
    """Remove the least important `share` of each group's units (at least one stays). Returns how many of each kind went."""
    gone: dict[str, int] = {}
    for one in found:
        count = min(round(share * one.units), one.units - 1)
        if one.kind not in kinds or count < 1:
            continue
        stay = scores[f"{one.kind} {one.name}"].argsort(descending=True)[: one.units - count].sort().values
        for name, rows in one.makers:
            _keep_rows(net, name, _places(stay, rows))
        for name in one.followers:
            _keep_norm(net, name, stay)
        for name, columns in one.takers:
            _keep_columns(net, name, _places(stay, columns))
        gone[one.kind] = gone.get(one.kind, 0) + count
    return gone


def prune(net: nn.Module, share: float, kinds: Sequence[str], losses: Iterable[Callable[[], Tensor]]) -> dict[str, int]:
    """Measure and remove. Empty: the model has nothing of these kinds."""
    found = [one for one in groups(net) if one.kind in kinds]
    if not found:
        return {}
    values = importance(net, found, losses)
    return remove(net, share, kinds, {f"{one.kind} {one.name}": value for one, value in zip(found, values, strict=True)}, found)


def _places(units: Tensor, width: int) -> Tensor:
    return (units[:, None] * width + torch.arange(width)).reshape(-1)


def _keep_rows(net: nn.Module, name: str, places: Tensor) -> None:
    module: Any = net.get_submodule(name)
    module.weight = nn.Parameter(module.weight.detach()[places].clone())
    if module.bias is not None:
        module.bias = nn.Parameter(module.bias.detach()[places].clone())
    if isinstance(module, nn.Linear):
        module.out_features = len(places)
    else:
        module.out_channels = len(places)


def _keep_columns(net: nn.Module, name: str, places: Tensor) -> None:
    module: Any = net.get_submodule(name)
    module.weight = nn.Parameter(module.weight.detach()[:, places].clone())
    if isinstance(module, nn.Linear):
        module.in_features = len(places)
    else:
        module.in_channels = len(places)


def _keep_norm(net: nn.Module, name: str, units: Tensor) -> None:
    module: Any = net.get_submodule(name)
    for part in ("weight", "bias"):
        if getattr(module, part) is not None:
            setattr(module, part, nn.Parameter(getattr(module, part).detach()[units].clone()))
    for part in ("running_mean", "running_var"):
        if getattr(module, part) is not None:
            setattr(module, part, getattr(module, part)[units].clone())
    module.num_features = len(units)


def _at(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None
