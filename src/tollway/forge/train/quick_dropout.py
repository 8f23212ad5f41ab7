"""Dropout whose random bits are drawn sixteen to a number: on a CPU the usual one spends a fifth of a training step drawing.

For the loop, which puts it in while a net trains and takes it out again. The share is exact to 1/65536.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16
_A_DRAW = 4  # masks of sixteen bits in one 64-bit number


class _Masked(torch.autograd.Function):
    """x * mask * scale; the mask is kept as zeros and ones of x's own kind, which multiply five times as fast as truths."""

    @staticmethod
    def forward(context: Any, values: Tensor, mask: Tensor, scale: float) -> Tensor:
        context.save_for_backward(mask)
        context.scale = scale
        return values.mul(mask).mul_(scale)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = context.saved_tensors
        return gradients[0].mul(mask).mul_(context.scale), None, None


def quick_dropout(values: Tensor, share: float) -> Tensor:
    """Each value is 0 with the probability `share`; the others grow so that the mean stays."""
    least = round(share * _LEVELS)
    if least <= 0 or values.device.type != "cpu":
        return nn.functional.dropout(values, share)
    count = values.numel()
    drawn = torch.empty(-(-count // _A_DRAW), dtype=torch.int64).random_(-(1 << 63), None)
    mask = (drawn.view(torch.int16)[:count].view(values.shape) >= least - _LEVELS // 2).to(values.dtype)
    made: Tensor = _Masked.apply(values, mask, _LEVELS / (_LEVELS - least))  # type: ignore[no-untyped-call]
    return made


class QuickDropout(nn.Dropout):
    """nn.Dropout, drawn quickly."""

    def forward(self, input: Tensor) -> Tensor:
        return quick_dropout(input, self.p) if self.training and self.p else input


@contextmanager
def quick(net: nn.Module) -> Iterator[None]:
    """While inside, the net's dropouts are quick ones."""
    changed = [each for each in net.modules() if type(each) is nn.Dropout]
    for each in changed:
        each.__class__ = QuickDropout
    try:
        yield
    finally:
        for each in changed:
            each.__class__ = nn.Dropout
