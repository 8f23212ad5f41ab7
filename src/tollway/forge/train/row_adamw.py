"""AdamW that leaves the rows of a large table alone until somebody reads them: a step reads few of a vocabulary's words.

For the learner. Under AdamW every row moves at every step, also those that no batch mentions: their momentum fades and their
weights decay. What such a row will have done when it is read next is known without touching it: its momentum and its mean
square are what they were times a power, so that its way is one number that depends on the steps alone, times the direction it
had. That number is kept for each row; the row catches up when a batch reads it. The result is AdamW's: exactly where eps does not
matter and where nothing else does, interpolated between. Half of a small encoder's weights are such a table.

    optimiser = RowAdamW(groups, lr=1e-4, tables=[net.embedding])
    ...; optimiser.settle(); optimiser.close()       # every row up to date; the tables as they were
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

LEAST: Final = 1 << 20  # elements of a table below which moving all of it costs less than looking after its rows
# What is kept of a row that waits: idle steps; what is left of its direction (momentum / root of mean square), its momentum, its
# weight; the way to go along the direction, and along the momentum (which counts where the mean square is nothing beside eps).
_IDLE, _DIRECTION, _MOMENTUM, _WEIGHT, _WAY, _WAY_SMALL = range(6)


class RowAdamW(torch.optim.AdamW):
    """The fused AdamW for all parameters but the weights of `tables`, which must be read through their forward pass alone."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, tables: Sequence[nn.Embedding]) -> None:
        super().__init__(groups, lr=lr, fused=True)
        self.tables = list(tables)
        self._rows = {id(table.weight) for table in tables}
        self._handles = [table.register_forward_pre_hook(self._before_reading) for table in tables]
        for table in tables:
            table.sparse = True  # gradients come as rows

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step. Gradients are divided by `grad_scale` where that is set, as torch's own fused optimisers do."""
        for group in self.param_groups:
            for weight in group["params"]:
                if id(weight) in self._rows and weight.grad is not None:
                    self._move(weight, group)
                    weight.grad = None  # done: the fused pass skips it
        return super().step(closure)

    @torch.no_grad()
    def settle(self) -> None:
        """Every row up to date."""
        for table in self.tables:
            if table.weight in self.state:
                self._catch_up(table.weight, torch.arange(len(table.weight)))

    def close(self) -> None:
        """The tables are ordinary ones again."""
        for handle in self._handles:
            handle.remove()
        for table in self.tables:
            table.sparse = False

    def _before_reading(self, table: nn.Module, inputs: tuple[Any, ...]) -> None:
        weight: Any = table.weight
        if weight in self.state:
            with torch.no_grad():
                self._catch_up(weight, torch.unique(inputs[0]) if inputs else torch.arange(len(weight)))

    def _catch_up(self, weight: Tensor, rows: Tensor) -> None:
        """What these rows would have done since they were moved last."""
        state, group = self.state[weight], self._group_of(weight)
        beta2, eps = group["betas"][1], group["eps"]
        rows = rows[state["waiting"][_IDLE].index_select(0, rows) > 0]
        if not len(rows):
            return
        idle, _, momentum, kept, way, way_small = state["waiting"].index_select(1, rows)
        small = torch.where(way_small > 0, eps * way / way_small, eps)  # no way at all where the rate was 0
        fades = torch.stack([momentum, torch.pow(beta2, idle), kept, way, small])
        momentum, square_left, kept, way, small = fades.to(weight.dtype).unsqueeze(2)
        mean, square = state["exp_avg"].index_select(0, rows), state["exp_avg_sq"].index_select(0, rows)
        moved = weight.index_select(0, rows).mul_(kept).sub_(mean.mul(way).div_(square.sqrt().add_(small)))
        weight.index_copy_(0, rows, moved)
        state["exp_avg"].index_copy_(0, rows, mean.mul_(momentum))
        state["exp_avg_sq"].index_copy_(0, rows, square.mul_(square_left))
        _rest(state["waiting"], rows)

    def _move(self, weight: Tensor, group: dict[str, Any]) -> None:
        """AdamW for the rows that have a gradient; the others wait a step more."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
            state["waiting"] = torch.zeros(6, len(weight), dtype=torch.float64)
            _rest(state["waiting"], torch.arange(len(weight)))
        rows, values = _rows_of(weight)
        scale: Tensor | None = getattr(self, "grad_scale", None)
        if scale is not None:
            values = values / scale
        self._catch_up(weight, rows)
        state["step"] += 1
        step, rate = float(state["step"]), float(group["lr"])
        (beta1, beta2), eps, decay = group["betas"], group["eps"], 1 - rate * group["weight_decay"]
        first, second = 1 - beta1**step, math.sqrt(1 - beta2**step)
        _wait(state["waiting"], beta1, beta1 / math.sqrt(beta2), decay, rate / first, second)
        _rest(state["waiting"], rows)
        mean = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - beta1)
        square = state["exp_avg_sq"].index_select(0, rows).mul_(beta2).addcmul_(values, values, value=1 - beta2)
        state["exp_avg"].index_copy_(0, rows, mean)
        state["exp_avg_sq"].index_copy_(0, rows, square)
        moved = weight.index_select(0, rows).mul_(decay)
        weight.index_copy_(0, rows, moved.addcdiv_(mean, square.sqrt_().div_(second).add_(eps), value=-rate / first))

    def _group_of(self, weight: Tensor) -> dict[str, Any]:
        return next(group for group in self.param_groups if any(one is weight for one in group["params"]))


def _wait(waiting: Tensor, momentum: float, direction: float, decay: float, rate: float, second: float) -> None:
    """Every row idles one step more."""
    waiting[_IDLE] += 1
    waiting[_DIRECTION] *= direction
    waiting[_MOMENTUM] *= momentum
    waiting[_WEIGHT:] *= decay
    waiting[_WAY].add_(waiting[_DIRECTION], alpha=rate * second)
    waiting[_WAY_SMALL].add_(waiting[_MOMENTUM], alpha=rate)


def _rest(waiting: Tensor, rows: Tensor) -> None:
    """These rows are up to date."""
    waiting.index_fill_(1, rows, 0.0)
    waiting[_DIRECTION : _WEIGHT + 1].index_fill_(1, rows, 1.0)


def _rows_of(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that have a gradient, each once, and their gradients."""
    gradient: Any = weight.grad
    if not gradient.is_sparse:  # something read the whole table
        return torch.arange(len(weight)), gradient
    gradient = gradient.coalesce()
    return gradient.indices()[0], gradient.values()
