"""Dropout with bits: sixteen random ones a number from a quick generator, and what goes is masked out, not multiplied.

For the loop, which puts it in while a net trains and takes it out again: on a CPU the usual dropout spends a fifth of a training
step drawing and multiplying. The share is exact to 1/65536. The draws follow from torch's generator, whose state is in the
checkpoints, so that a resumed run drops what the first one would have.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

_LEVELS: Final = 1 << 16
_A_DRAW: Final = 4  # masks of sixteen bits in one 64-bit number
_SEEDS: Final = 1 << 62
_BITS: Final = {
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float64: torch.int64,
}


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, mask: Tensor, scale: float) -> Tensor:
        context.save_for_backward(mask)
        context.scale = scale
        return kept(values, mask).mul_(scale)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = context.saved_tensors
        return kept(gradients[0], mask).mul_(context.scale), None, None


def quick_dropout(values: Tensor, share: float) -> Tensor:
    """Each value is 0 with the probability `share`; the others grow so that the mean stays."""
    if values.device.type != "cpu" or values.dtype not in _BITS:
        return nn.functional.dropout(values, share)
    mask = drawn(values, share)
    if mask is None:
        return values
    made: Tensor = _Masked.apply(values, mask, scale_of(share))  # type: ignore[no-untyped-call]
    return made


def scale_of(share: float) -> float:
    """How much those that stay grow."""
    return _LEVELS / (_LEVELS - round(share * _LEVELS))


def drawn(like: Tensor, share: float) -> Tensor | None:
    """A mask of a tensor's shape: no bit set with the probability `share`, else all sixteen; None when nothing is dropped."""
    least = round(share * _LEVELS) - _LEVELS // 2  # a number below it drops
    if least <= -_LEVELS // 2:
        return None
    count = like.numel()
    draws = np.random.SFC64(int(torch.randint(_SEEDS, ()))).random_raw(-(-count // _A_DRAW))
    numbers = torch.from_numpy(draws.view(np.int16))[:count].view(like.shape)
    return numbers.clamp_(least - 1, least).neg_().add_(least - 1)


def kept(values: Tensor, mask: Tensor) -> Tensor:
    """The values where the mask has bits, else 0."""
    return torch.bitwise_and(values.view(_BITS[values.dtype]), mask).view(values.dtype)


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
