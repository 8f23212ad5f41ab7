"""A net as exporters want it: arrays in a fixed order, outputs as a tuple, nothing random, attention written out."""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class Flat(nn.Module):
    """The same net with positional inputs and outputs."""

    def __init__(self, net: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.net = net
        self.inputs, self.outputs = inputs, outputs

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        made = self.net(**dict(zip(self.inputs, arrays, strict=True)))
        return tuple(made[name] for name in self.outputs)


@dataclass(frozen=True)
class Source:
    """What is exported: the module, example arrays, and which axes vary. `reads`: from which place of a text the answer is
    read, "first" or "all"."""

    module: Flat
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]]
    reads: str = ""

    def named(self) -> dict[str, Tensor]:
        return dict(zip(self.inputs, self.example, strict=True))


def source_of(net: Any, rows: int = 2) -> Source:
    """Ready a Net for export: evaluation mode, no gradients, eager attention, dropout out of the graph."""
    forget()
    net.eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    write_out_attention(net)
    open_gru(net)
    dynamic = {name: dict(axes) for name, axes in net.dynamic.items()}
    example = {name: one for name, one in net.example(rows).items() if name in dynamic}
    with torch.no_grad():
        outputs = tuple(name for name, one in net(**example).items() if isinstance(one, Tensor))
    inputs = tuple(example)
    reads = "first" if net.reads_first else "all"
    return Source(Flat(net, inputs, outputs).eval(), tuple(example.values()), inputs, outputs, dynamic, reads)


def forget() -> None:
    """Drop what torch remembers of composite operators from the last export: it would take a second recurrent network or
    translator of the same process apart in another way, and fix its length."""
    for name in torch.ops.aten.__dict__.values():
        if not hasattr(name, "overloads"):
            continue
        for overload in name.overloads():
            with contextlib.suppress(AttributeError):  # a detail of torch 2.x
                getattr(name, overload)._dispatch_cache.clear()


def write_out_attention(net: nn.Module) -> None:
    """Plain matmul and softmax: every exporter knows those, and they are the fast way on CPUs besides. Dropout goes,
    since LiteRT fails on the random numbers it leaves in a traced graph."""
    for module in net.modules():
        config = getattr(module, "config", None)
        if config is not None and getattr(config, "_attn_implementation", "eager") != "eager":
            config._attn_implementation = "eager"
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)):
                setattr(module, name, nn.Identity())


def open_gru(net: nn.Module) -> None:
    """A GRU as a call with its first state given: torch.export then keeps its length open."""
    for module in net.modules():
        if type(module) is nn.GRU and module.num_layers == 1 and module.batch_first and not module.bidirectional:
            module.forward = _gru_of(module)  # type: ignore[method-assign]


def _gru_of(module: nn.GRU) -> Any:
    def forward(states: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        weights: Any = [module.weight_ih_l0, module.weight_hh_l0, module.bias_ih_l0, module.bias_hh_l0]
        begin = torch.zeros(1, states.shape[0], module.hidden_size, dtype=states.dtype, device=states.device)
        made: tuple[Tensor, Tensor] = torch.gru(
            states, begin if start is None else start, weights, True, 1, 0.0, False, False, True
        )
        return made

    return forward


def dimensions(source: Source, largest: dict[str, int] | None = None) -> tuple[dict[int, Any] | None, ...]:
    """torch.export's description of the axes that vary; one Dim for each name."""
    most = {"rows": 65_536, "batch": 65_536, **(largest or {})}
    made: dict[str, Any] = {}
    for axes in source.dynamic.values():
        for name in axes.values():
            if name not in made:
                made[name] = torch.export.Dim(name, min=1, max=most.get(name, 8192))
    return tuple({axis: made[name] for axis, name in source.dynamic[one].items()} for one in source.inputs)
