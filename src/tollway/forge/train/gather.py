"""From a net in parts (one part in each process) to a whole one in the first process, ready to be saved.

For the workers of distributed training.
"""

from typing import Any

import torch

from tollway.forge.train import tensor_parallel
from tollway.forge.train.case import Case
from tollway.forge.train.group import Group
from tollway.forge.train.plan import Plan


def whole(net: Any, case: Case, plan: Plan, group: Group) -> Any:
    """The trained net with plain tensors, in the first process; None in the others."""
    if isinstance(group, tensor_parallel.Side):
        return tensor_parallel.join(net, case.net(plan, plan.seed), group)
    if plan.distributed in ("ddp", "ray"):
        return net if group.rank == 0 else None
    plain: dict[str, torch.Tensor] = {}
    for name, each in net.state_dict().items():
        gathered = each.full_tensor() if hasattr(each, "full_tensor") else each  # every process takes part
        if group.rank == 0:
            plain[name] = gathered.detach().cpu()
    if group.rank:
        return None
    fresh = case.net(plan, plan.seed)
    fresh.load_state_dict(plain, strict=True)
    return fresh.eval()
