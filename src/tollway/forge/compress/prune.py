"""Magnitude pruning: the smallest weights become zero and stay zero while the rest recovers (Han et al. 2015)."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

Masks = dict[str, Tensor]


def prunable(net: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of products: linear, convolution, recurrent. Biases, norms, embeddings and the answer's layer stay."""
    found: dict[str, nn.Parameter] = {}
    last = answering(net)
    for name, module in net.named_modules():
        if name == last or not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.RNNBase)):
            continue
        for part, parameter in module.named_parameters(recurse=False):
            if part.startswith("weight") and parameter.dim() > 1:
                found[f"{name}.{part}"] = parameter
    return found


def answering(net: nn.Module) -> str:
    """The layer that is called last: it gives the answer."""
    called: list[str] = []
    hooks = [
        one.register_forward_hook(lambda _module, _inputs, _output, name=name: called.append(name))
        for name, one in net.named_modules()
        if isinstance(one, (nn.Linear, nn.Conv1d, nn.Conv2d))
    ]
    was = net.training
    try:
        with torch.no_grad():
            net.eval()(**net.example(1))  # type: ignore[operator]
    finally:
        net.train(was)
        for hook in hooks:
            hook.remove()
    return called[-1] if called else ""


def masks(net: nn.Module, share: float, each_layer: bool = False) -> Masks:
    """Which weights stay: all but the smallest `share`, of all layers together or of each. Zeros count as smallest."""
    weights = prunable(net)
    if not weights:
        return {}
    limit = None if each_layer else _quantile(torch.cat([one.detach().abs().reshape(-1) for one in weights.values()]), share)
    found: Masks = {}
    for name, one in weights.items():
        size = one.detach().abs()
        found[name] = size > (limit if limit is not None else _quantile(size.reshape(-1), share))
    return found


def apply(net: nn.Module, kept: Masks) -> None:
    """Put the zeros in."""
    parameters = dict(net.named_parameters())
    with torch.no_grad():
        for name, mask in kept.items():
            parameters[name].mul_(mask)


@contextlib.contextmanager
def held(net: nn.Module, kept: Masks) -> Iterator[None]:
    """Inside, training cannot move the zeros: they get no gradient, and a weight of zero does not decay."""
    parameters = dict(net.named_parameters())
    hooks = [
        parameters[name].register_hook(lambda gradient, mask=mask: gradient * mask)  # type: ignore[no-untyped-call]
        for name, mask in kept.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    apply(net, kept)


def zeros(net: nn.Module) -> float:
    """The share of zeros among the weights that can be pruned."""
    weights = prunable(net).values()
    total = sum(one.numel() for one in weights)
    return sum(int((one == 0).sum()) for one in weights) / max(1, total)


def _quantile(values: Tensor, share: float) -> Tensor:
    place = max(1, min(values.numel(), round(share * values.numel())))
    return values.kthvalue(place).values
