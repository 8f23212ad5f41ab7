"""The parts of a decoder that a CPU spends its time on besides matrix products, each as one function with its own gradient.

What autograd would build from small steps passes over the same memory many times; here every part passes over it as few
times as it can. Each has an obvious twin (`plain_*`), used when no gradient is wanted, and the tests hold one against the
other. Nothing is lost in accuracy: sums are made in float32.
"""

from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK_ROWS: Final = 1024  # rows of logits held at once by the loss
_SURE: Final = 1e-30
_SLICE_ELEMENTS: Final = 1 << 18  # of them, what is made a probability at once: a megabyte, to stay in the cache


def _plain() -> bool:
    """No gradient is wanted, or somebody is recording the graph."""
    return not torch.is_grad_enabled() or torch.compiler.is_compiling()


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x divided by its root mean square, times weight."""
    if _plain() or x.dtype == torch.float32:
        return plain_norm(x, weight, eps)
    return cast(Tensor, _Norm.apply(x, weight, eps))  # type: ignore[no-untyped-call]


def plain_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x.float(), list(weight.shape), weight.float(), eps).to(x.dtype)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        width = x.shape[-1]
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = length.square_().div_(width).add_(eps).rsqrt_()
        shrunk = x * scale.to(x.dtype)
        ctx.save_for_backward(shrunk, scale, weight)
        made: Tensor = shrunk * weight.to(x.dtype)
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        shrunk, scale, weight = ctx.saved_tensors
        inner = grads[0] * shrunk
        d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = inner.flatten(0, -2).sum(0, dtype=torch.float32).to(weight.dtype)
        # the mean of grad * weight * shrunk along a row is a product with the weight vector
        mean = (inner @ weight.to(inner.dtype)).unsqueeze(-1).div_(shrunk.shape[-1])
        d_x = (grads[0] * weight.to(shrunk.dtype)).addcmul_(shrunk, mean, value=-1.0)
        return d_x.mul_(scale.to(d_x.dtype)), d_weight, None


def gated(both: Tensor) -> Tensor:
    """silu(left half) * right half."""
    if _plain():
        return plain_gated(both)
    return cast(Tensor, _Gated.apply(both))  # type: ignore[no-untyped-call]


def plain_gated(both: Tensor) -> Tensor:
    gate, up = both.chunk(2, -1)
    return F.silu(gate) * up


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, -1)
        opened = F.silu(gate)
        ctx.save_for_backward(both, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        both, opened = ctx.saved_tensors
        gate, up = both.chunk(2, -1)
        made = torch.empty_like(both)
        d_gate, d_up = made.chunk(2, -1)
        torch.mul(grads[0], opened, out=d_up)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=d_gate)
        return made


def plain_turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: [batch, length, heads, width] -> [batch, heads, length, width].

    `cos` and `sin` are [batch or 1, 1, length, width / 2].
    """
    left, right = x.transpose(1, 2).chunk(2, -1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)


def _turn_into(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """The same, written where it is wanted; with -sin it is its own gradient."""
    (left, right), (out_left, out_right) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(left, cos, out=out_left).addcmul_(right, sin, value=-1)
    torch.mul(right, cos, out=out_right).addcmul_(left, sin)


def attention(qkv: Tensor, heads: int, kv_heads: int, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
    """From the three projections side by side to the mixed values, [batch, length, heads * width].

    Turned by position, softmax(q k' / sqrt(width) + mask) v as two batched products: on a CPU that is faster than the
    fused kernel, whose gradient is slow. mask is [batch or 1, 1, length, length].
    """
    if _plain():
        return plain_attention(qkv, heads, kv_heads, cos, sin, mask)
    return cast(Tensor, _Attention.apply(qkv, heads, kv_heads, cos, sin, mask))  # type: ignore[no-untyped-call]


def plain_attention(qkv: Tensor, heads: int, kv_heads: int, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
    q, k, v = heads_of(qkv, heads, kv_heads)
    return plain_attend(plain_turn(q, cos, sin), plain_turn(k, cos, sin), v.transpose(1, 2), mask)


def plain_attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of turned heads, [batch, heads, length, width]; fewer key heads are shared."""
    batch, heads, length, width = q.shape
    if k.shape[1] != heads:
        k, v = (t.repeat_interleave(heads // t.shape[1], 1) for t in (k, v))
    scores = torch.matmul(q * width**-0.5, k.transpose(2, 3)) + mask
    mixed = torch.matmul(scores.softmax(-1).to(v.dtype), v)
    return mixed.transpose(1, 2).reshape(batch, length, heads * width)


def heads_of(qkv: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, ...]:
    """Views of the queries, keys and values, [batch, length, heads, width] each."""
    batch, length, joined = qkv.shape
    width = joined // (heads + 2 * kv_heads)
    return torch.split(qkv.view(batch, length, heads + 2 * kv_heads, width), [heads, kv_heads, kv_heads], 2)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, kv_heads: int, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        batch, length, _ = qkv.shape
        q_in, k_in, v_in = heads_of(qkv, heads, kv_heads)
        width = q_in.shape[-1]
        scale = width**-0.5
        q, k = qkv.new_empty(batch, heads, length, width), qkv.new_empty(batch, kv_heads, length, width)
        _turn_into(q, q_in.transpose(1, 2), cos * scale, sin * scale)
        _turn_into(k, k_in.transpose(1, 2), cos, sin)
        v = v_in.transpose(1, 2).contiguous()
        # query heads that share a key head stand below one another: one product a key head
        rows = heads // kv_heads * length
        scores = torch.matmul(q.view(batch, kv_heads, rows, width), k.transpose(2, 3))
        shares = scores.view(batch, heads, length, length).add_(mask)
        shares = torch.softmax(shares, -1, out=shares).view(scores.shape)
        mixed = torch.matmul(shares, v).view(batch, heads, length, width)
        ctx.save_for_backward(q, k, v, shares, cos, sin)
        return mixed.transpose(1, 2).reshape(batch, length, heads * width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        q, k, v, shares, cos, sin = ctx.saved_tensors
        batch, heads, length, width = q.shape
        kv_heads, scale = k.shape[1], width**-0.5
        grad = grads[0].view(batch, length, heads, width).transpose(1, 2).reshape(batch, kv_heads, -1, width)
        d_shares = torch.matmul(grad, v.transpose(2, 3))
        d_scores = torch._softmax_backward_data(d_shares, shares, -1, shares.dtype)
        made = grads[0].new_empty(batch, length, (heads + 2 * kv_heads) * width)
        d_q, d_k, d_v = (part.transpose(1, 2) for part in heads_of(made, heads, kv_heads))
        _turn_into(d_q, torch.matmul(d_scores, k).view(q.shape), cos * scale, sin * -scale)
        _turn_into(d_k, torch.matmul(d_scores.transpose(2, 3), q.view(grad.shape)), cos, -sin)
        d_v.copy_(torch.matmul(shares.transpose(2, 3), grad))
        return made, None, None, None, None, None


def head_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy of `hidden @ weight.T` against labels; never holds more than a part of the logits."""
    return cast(Tensor, _HeadLoss.apply(hidden, weight, labels))  # type: ignore[no-untyped-call]


def plain_head_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy((hidden @ weight.T).float(), labels, reduction="sum")


class _HeadLoss(torch.autograd.Function):
    """The gradient is made on the way forward, while the logits are at hand."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        kind, wanted = hidden.device.type, ctx.needs_input_grad
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        with torch.autocast(kind, enabled=False):
            loss, d_hidden, d_weight = _head_parts(hidden.to(dtype), weight.to(dtype), labels, wanted[0], wanted[1])
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        made = [
            None if gradient is None else (gradient * grads[0].to(gradient.dtype)).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return made[0], made[1], None


def _head_parts(
    hidden: Tensor, weight: Tensor, labels: Tensor, for_hidden: bool, for_weight: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
    d_hidden = torch.empty_like(hidden) if for_hidden else None
    d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=hidden.device) if for_weight else None
    for start in range(0, len(hidden), _CHUNK_ROWS):
        part, right = hidden[start : start + _CHUNK_ROWS], labels[start : start + _CHUNK_ROWS, None]
        logits = part @ weight.T
        loss += _gradient_in_place(logits, right)
        if d_hidden is not None:
            torch.mm(logits, weight, out=d_hidden[start : start + _CHUNK_ROWS])
        if d_weight is not None:
            d_weight += logits.T @ part
    return loss, d_hidden, d_weight


def _gradient_in_place(logits: Tensor, right: Tensor) -> Tensor:
    """The summed loss of a part; its logits become their own gradient, softmax less one at the right token."""
    loss = torch.zeros((), dtype=torch.float32, device=logits.device)
    rows = max(1, _SLICE_ELEMENTS // logits.shape[1])
    for start in range(0, len(logits), rows):
        part, here = logits[start : start + rows], right[start : start + rows]
        shares = part.float().softmax(-1)
        asked = shares.gather(1, here)
        if asked.min() > _SURE:
            loss -= asked.log().sum()
        else:  # a share too small for its logarithm: by way of the largest, whose share is never near 0
            most = part.amax(-1, keepdim=True).float() - shares.amax(-1, keepdim=True).log()
            loss += (most - part.gather(1, here).float()).sum()
        shares.scatter_(1, here, asked - 1.0)
        part.copy_(shares)
    return loss
