"""Attention as plain batched products of matrices, registered with transformers: on CPUs the fused kernel is the slow path.

For the loop's choice of the fastest: `kinds(net)` names what can be tried, `use(net, kind)` switches.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from tollway.forge.train.quick_dropout import quick_dropout

OWN = "matmul"


def kinds(net: nn.Module) -> list[str]:
    """The implementations worth trying for this net; none when it has no transformers model inside."""
    model = _model_of(net)
    if model is None:
        return []
    _register()
    return [OWN, "sdpa"]


def use(net: nn.Module, kind: str) -> None:
    """Switches the transformers model inside the net."""
    model = _model_of(net)
    if model is not None and kind:
        _register()
        model.set_attn_implementation(kind)


def used(net: nn.Module) -> str:
    """What the net uses now."""
    return str(getattr(getattr(_model_of(net), "config", None), "_attn_implementation", "") or "")


def _model_of(net: nn.Module) -> Any:
    """The outermost transformers model in the net."""
    for module in net.modules():
        if hasattr(module, "set_attn_implementation"):
            return module
    return None


@functools.cache
def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(OWN, matmul_attention)
    AttentionMaskInterface.register(OWN, eager_mask)


def matmul_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, **_: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """softmax(q k' / sqrt(d) + mask) v over (rows x heads) matrices."""
    rows, heads, length, width = query.shape
    groups = heads // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = scaling if scaling is not None else width**-0.5
    flat = (rows * heads, -1, width)
    scores = torch.bmm(query.reshape(flat) * scale, key.reshape(flat).transpose(1, 2)).view(rows, heads, length, -1)
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, :, : key.shape[2]]
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    if dropout and module.training:
        weights = quick_dropout(weights, dropout)
    mixed = torch.bmm(weights.view(rows * heads, length, -1), value.reshape(flat)).view(rows, heads, length, width)
    return mixed.transpose(1, 2).contiguous(), weights
