"""The decoder's fast parts give the values and the gradients of their obvious twins."""

import pytest
import torch
from torch import Tensor

from tollway.forge.models import lm_kernels


def both_ways(fast, plain, *inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Value and gradients of the two, side by side."""
    found = []
    for function in (fast, plain):
        given = [one.detach().clone().requires_grad_() for one in inputs]
        out = function(*given)
        weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype)
        (out * weights).sum().backward()
        found.append([out.detach(), *(one.grad for one in given)])
    return list(zip(*found, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_is_the_plain_one(dtype: torch.dtype, kv_heads: int) -> None:
    torch.manual_seed(0)
    heads, width, length = 4, 8, 12
    qkv = torch.randn(2, length, (heads + 2 * kv_heads) * width).to(dtype)
    angles = torch.rand(1, 1, length, width // 2) * 6
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    mask = torch.zeros(1, 1, length, length, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
    pairs = both_ways(
        lambda x: lm_kernels._Attention.apply(x, heads, kv_heads, cos, sin, mask),
        lambda x: lm_kernels.plain_attention(x, heads, kv_heads, cos, sin, mask),
        qkv,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-5 if dtype == torch.float32 else 0.12, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_and_gate_are_the_plain_ones(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    close = {"atol": 1e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.15, "rtol": 0.05}
    x, weight = torch.randn(3, 5, 16).to(dtype), torch.randn(16)
    pairs = both_ways(
        lambda x, w: lm_kernels._Norm.apply(x, w, 1e-5), lambda x, w: lm_kernels.plain_norm(x, w, 1e-5), x, weight
    )
    pairs += both_ways(lm_kernels._Gated.apply, lm_kernels.plain_gated, torch.randn(3, 5, 16).to(dtype))
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, **close)


@pytest.mark.parametrize("sharp", [1.0, 300.0])  # 300: shares so small that their logarithm is lost in float32
def test_the_head_loss_is_cross_entropy(sharp: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_kernels, "_CHUNK_ROWS", 7)  # several parts, the last one short
    monkeypatch.setattr(lm_kernels, "_SLICE_ELEMENTS", 100)
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(20, 8) * sharp, torch.randn(33, 8), torch.randint(33, (20,))
    pairs = both_ways(
        lambda h, w: lm_kernels.head_loss(h, w, labels),
        lambda h, w: lm_kernels.plain_head_loss(h, w, labels),
        hidden,
        weight,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_frozen_weights_get_no_gradient() -> None:
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(9, 8)
    lm_kernels.head_loss(hidden, weight, torch.tensor([0, 1, 2, 3])).backward()
    assert hidden.grad is not None and weight.grad is None
