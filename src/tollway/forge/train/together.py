"""The group of several processes (`torch.distributed`; gloo on processors, nccl between graphics cards): DDP and FSDP.

For the workers of distributed training.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any


class Together:
    """The group of several processes (`torch.distributed`, gloo on CPUs)."""

    def __init__(self, strategy: str) -> None:
        import torch.distributed as dist

        self.dist, self.sharded = dist, strategy.endswith("fsdp")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.number = self.rank

    def wrap(self, module: Any, *, many_turns: bool = False) -> Any:
        """DDP averages gradients; FSDP keeps a part of every tensor in each process."""
        if self.sharded:
            from torch.distributed.fsdp import fully_shard

            from tollway.forge.train.freezing import layers_of

            for layer in layers_of(module.net):
                fully_shard(layer)
            return fully_shard(module)
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(module, find_unused_parameters=many_turns)

    def unsynced(self, module: Any) -> AbstractContextManager[object]:
        if hasattr(module, "no_sync"):
            made: AbstractContextManager[object] = module.no_sync()
            return made
        return nullcontext()

    def settle(self, module: Any) -> None:
        """A forward pass without a backward one leaves tensors whole, and what is saved then would not be what learns."""
        for each in module.modules() if self.sharded else ():
            if hasattr(each, "reshard"):
                each.reshard()

    def barrier(self) -> None:
        self.dist.barrier()

    def agree(self, value: bool) -> bool:
        import torch

        said = torch.tensor([int(value)], device=self._where())
        self.dist.broadcast(said, 0)
        return bool(said.item())

    def _where(self) -> str:
        """nccl speaks between graphics cards only."""
        return "cuda" if self.dist.get_backend() == "nccl" else "cpu"

    def total(self, values: list[float]) -> list[float]:
        import torch

        sums = torch.tensor(values, dtype=torch.float64, device=self._where())
        self.dist.all_reduce(sums)
        return [float(each) for each in sums]
