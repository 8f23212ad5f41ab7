"""The group of processes that train together, as the loop sees it; alone by default.

For the loop. `distributed.py` has the groups of several processes; everything here is the group of one.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import nn


class Group(Protocol):
    """What the loop asks of its processes."""

    rank: int  # which share of the rows is ours ...
    size: int  # ... of how many
    number: int  # which process this is: the first one writes

    def wrap(self, module: nn.Module, *, many_turns: bool = False) -> nn.Module:
        """The module with gradients shared among the group."""
        ...

    def unsynced(self, module: nn.Module) -> AbstractContextManager[object]:
        """Where gradients are added up locally only."""
        ...

    def settle(self, module: nn.Module) -> None:
        """After a look: every process keeps only its part again."""
        ...

    def barrier(self) -> None: ...

    def agree(self, value: bool) -> bool:
        """What the first process says."""
        ...

    def total(self, values: list[float]) -> list[float]:
        """Sums over the group."""
        ...


class Alone:
    """One process."""

    rank, size, number = 0, 1, 0

    def wrap(self, module: nn.Module, *, many_turns: bool = False) -> nn.Module:
        return module

    def unsynced(self, module: nn.Module) -> AbstractContextManager[object]:
        return nullcontext()

    def settle(self, module: nn.Module) -> None:
        return None

    def barrier(self) -> None:
        return None

    def agree(self, value: bool) -> bool:
        return value

    def total(self, values: list[float]) -> list[float]:
        return values
