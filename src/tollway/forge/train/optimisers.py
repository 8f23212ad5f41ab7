"""Optimisers by name: SGD with momentum, AdaGrad, RMSProp, Adam, AdamW, Adafactor.

For the loop. Weight decay (L2) spares biases, norms and other vectors, as everybody's recipes do; L1 is the loop's.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from tollway.forge.train.plan import Plan
from tollway.forge.train.row_adamw import RowAdamW
from tollway.kit.errors import BadRequest


def make(
    parameters: Iterable[torch.nn.Parameter], plan: Plan, rate: float, tables: Sequence[torch.nn.Embedding] = ()
) -> torch.optim.Optimizer:
    """The plan's optimiser over the parameters that are trained; of `tables` it may move only the rows that were read.
    Raises BadRequest when there are none."""
    trained = list({id(each): each for each in parameters if each.requires_grad}.values())
    if not trained:
        raise BadRequest("No parameter is left to train.", hint="Choose another method than 'none', or a larger N in top:N.")
    matrices = [each for each in trained if each.ndim >= 2]
    vectors = [each for each in trained if each.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": plan.weight_decay, "base": rate},
        {"params": vectors, "weight_decay": 0.0, "base": rate},
    ]
    kinds = {hasattr(each, "full_tensor") for each in trained}
    mine = {id(each) for each in trained}
    tables = [each for each in tables if id(each.weight) in mine]
    if tables and plan.optimizer == "adamw":
        return RowAdamW([group for group in groups if group["params"]], rate, tables)
    return _named(plan, [group for group in groups if group["params"]], rate, one_by_one=len(kinds) > 1)


def _named(plan: Plan, groups: list[dict[str, Any]], rate: float, *, one_by_one: bool) -> torch.optim.Optimizer:
    """`one_by_one`: sharded and plain tensors cannot go through one call."""
    fused: dict[str, Any] = {"fused": False, "foreach": False} if one_by_one else {"fused": True}  # one pass over memory
    each: dict[str, Any] = {"foreach": False} if one_by_one else {}
    match plan.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=plan.momentum, nesterov=plan.momentum > 0, **each)
        case "adagrad":
            return torch.optim.Adagrad(groups, lr=rate, **each)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=rate, alpha=0.99, **each)
        case "adam":
            return torch.optim.Adam(groups, lr=rate, **fused)
        case "adamw":
            return torch.optim.AdamW(groups, lr=rate, **fused)
        case "adafactor":
            return torch.optim.Adafactor(groups, lr=rate, **each)
    raise BadRequest(f"There is no optimizer {plan.optimizer!r}.", hint="See docs/training.md.")


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> float:
    """Every group's rate becomes its base times the factor; returns the first one, for the log."""
    for group in optimiser.param_groups:
        group["lr"] = group["base"] * factor
    return float(optimiser.param_groups[0]["lr"])
