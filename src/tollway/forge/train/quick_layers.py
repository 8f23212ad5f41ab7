"""A layer of BERT's kind as one function with its own gradient, in bf16: a fraction of the passes over memory autograd makes.

For the loop, which puts it in while a net trains and takes it out again. Queries, keys and values are one product; states stay
bf16 from layer to layer (sums, norms and shares are made in float32 inside); dropout only masks, because its scale is in the
weights of the product before it. Layers it does not know (other shapes, adapters inside, somebody watching), other precisions
and passes without a gradient go the library's way. The tests hold one against the other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from tollway.forge.train.quick_dropout import drawn, kept, scale_of

OWN: Final = "matmul"  # the attention this computes; with another one chosen, the library's way
_LINEARS: Final = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
                   "intermediate.dense", "output.dense")  # fmt: skip
_FIRST_WEIGHT: Final = 3  # among what the function is given; all of a layer's weights learn, or none
_NORMS: Final = ("attention.output.LayerNorm", "output.LayerNorm")


@contextmanager
def quick_layers(net: nn.Module) -> Iterator[None]:
    """While inside, the net's layers of that kind are quick ones."""
    changed = [each for stack in net.modules() if isinstance(stack, nn.ModuleList) for each in _known(stack)]
    try:
        yield
    finally:
        for each in changed:
            del each.forward


def _known(stack: nn.ModuleList) -> list[nn.Module]:
    """The layers of a stack that are made quick."""
    fits = [*(_fits(each) for each in stack), False]
    found = [each for each, fit in zip(stack, fits, strict=False) if fit]
    for number, layer in enumerate(stack):
        if fits[number]:
            _quicken(layer, last=not fits[number + 1])
    return found


def _fits(layer: nn.Module) -> bool:
    """Is it made of BERT's parts, and of nothing else?"""
    try:
        linears, norms = _parts(layer)
        attention, activation = (
            layer.get_submodule("attention.self"),
            layer.get_submodule("intermediate.intermediate_act_fn"),
        )
    except AttributeError:
        return False
    config = getattr(attention, "config", None)
    return (
        "forward" not in vars(layer)
        and len(list(layer.parameters())) == 2 * len((*linears, *norms))  # nothing else in it learns
        and all(type(one) is nn.Linear and one.bias is not None for one in linears)
        and all(type(one) is nn.LayerNorm and one.bias is not None for one in norms)
        and type(activation).__name__ == "GELUActivation"
        and len({one.requires_grad for one in layer.parameters()}) == 1
        and getattr(config, "hidden_act", "") == "gelu"
        and not getattr(config, "is_decoder", True)
        and hasattr(attention, "attention_head_size")
    )


def _parts(layer: nn.Module) -> tuple[list[Any], list[Any]]:
    return [layer.get_submodule(name) for name in _LINEARS], [layer.get_submodule(name) for name in _NORMS]


def _quicken(layer: nn.Module, *, last: bool) -> None:
    usual = layer.forward
    linears, norms = _parts(layer)
    attention: Any = layer.get_submodule("attention.self")
    drops: list[Any] = [
        attention.dropout,
        layer.get_submodule("attention.output.dropout"),
        layer.get_submodule("output.dropout"),
    ]
    parameters = [each for one in (*linears, *norms) for each in (one.weight, one.bias)]
    watched = [one for one in layer.modules() if one is not layer]

    def forward(hidden_states: Tensor, attention_mask: Tensor | None = None, *others: Any, **more: Any) -> Any:
        here = hidden_states.device.type
        ready = (
            layer.training and here == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled(here)
            and torch.get_autocast_dtype(here) == torch.bfloat16 and attention.config._attn_implementation == OWN
            and not layer._forward_hooks and not any(one._forward_hooks or one._forward_pre_hooks for one in watched)
            and not torch.compiler.is_compiling() and all(one is None for one in others) and more.get("past_key_values") is None
        )  # fmt: skip
        if not ready:
            return usual(hidden_states, attention_mask, *others, **more)
        shape = _Shape(attention.attention_head_size, norms[0].eps, norms[1].eps, tuple(float(one.p) for one in drops))
        with torch.autocast(here, enabled=False):
            states = hidden_states.to(torch.bfloat16)
            mask = None if attention_mask is None else _short(attention_mask)
            made = cast(Tensor, _Layer.apply(states, mask, shape, *parameters))  # type: ignore[no-untyped-call]
            return made.float() if last else made

    layer.forward = forward


def _short(mask: Tensor) -> Tensor:
    """An added mask in bf16, with no number too large for it."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=torch.bfloat16).masked_fill_(~mask, torch.finfo(torch.bfloat16).min)
    return mask.clamp(min=torch.finfo(torch.bfloat16).min).to(torch.bfloat16)


class _Shape:
    """What a layer is besides its weights."""

    def __init__(self, head: int, eps_first: float, eps_second: float, drops: tuple[float, ...]) -> None:
        self.head, self.eps_first, self.eps_second = head, eps_first, eps_second
        self.drops = drops  # shares of dropout: of attention, its output, the layer's output
        self.value, self.out, self.back = (scale_of(share) for share in drops)
        self.query = head**-0.5


class _Layer(torch.autograd.Function):
    """States [rows, length, width] -> states. Weights come in the order of _LINEARS, then _NORMS, each with its bias."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, mask: Tensor | None, shape: _Shape, *weights: Tensor) -> Tensor:
        rows, length, width = states.shape
        x = states.reshape(-1, width)
        wq, bq, wk, bk, wv, bv, wo, bo, w1, b1, w2, b2, g1, c1, g2, c2 = weights
        joined = torch.cat([wq * shape.query, wk, wv * shape.value]).bfloat16()
        w_out, w_in, w_back = (wo * shape.out).bfloat16(), w1.bfloat16(), (w2 * shape.back).bfloat16()
        qkv = torch.addmm(torch.cat([bq * shape.query, bk, bv * shape.value]).bfloat16(), x, joined.T)
        heads = qkv.shape[1] // (3 * shape.head)
        q, k, v = _apart(qkv, rows, length, heads, shape.head)
        shares = torch.bmm(q, k.transpose(1, 2))
        if mask is not None:
            shares.view(rows, heads, length, length).add_(mask)
        torch.softmax(shares, -1, out=shares)
        stay, stay_1, stay_2 = (drawn(like, share) for like, share in zip((shares, x, x), shape.drops, strict=True))
        thinned = _thin(shares, stay)
        mixed = _together(torch.bmm(thinned, v), rows, length, heads)
        first = _thin(torch.addmm((bo * shape.out).bfloat16(), mixed, w_out.T), stay_1) + x
        y, mean_1, spread_1 = torch.native_layer_norm(first, [width], g1, c1, shape.eps_first)
        inner = torch.addmm(b1.bfloat16(), y, w_in.T)
        bent = torch.nn.functional.gelu(inner)
        second = _thin(torch.addmm((b2 * shape.back).bfloat16(), bent, w_back.T), stay_2) + y
        made, mean_2, spread_2 = torch.native_layer_norm(second, [width], g2, c2, shape.eps_second)
        ctx.save_for_backward(x, q, k, v, shares, thinned, mixed, first, mean_1, spread_1, y, inner, bent, second, mean_2, spread_2,
                              joined, w_out, w_in, w_back, g1, c1, g2, c2, stay, stay_1, stay_2)  # fmt: skip
        ctx.shape, ctx.size = shape, (rows, length, heads)
        return made.view(states.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, q, k, v, shares, thinned, mixed, first, mean_1, spread_1, y, inner, bent, second, mean_2, spread_2,
         joined, w_out, w_in, w_back, g1, c1, g2, c2, stay, stay_1, stay_2) = ctx.saved_tensors  # fmt: skip
        shape, (rows, length, heads) = ctx.shape, ctx.size
        given = gradients[0].reshape(x.shape)
        d_second, d_g2, d_c2 = _of_norm(given, second, mean_2, spread_2, g2, c2)
        d_back = _thin(d_second, stay_2)
        d_inner = torch.ops.aten.gelu_backward(d_back @ w_back, inner)
        d_first, d_g1, d_c1 = _of_norm((d_inner @ w_in).add_(d_second), first, mean_1, spread_1, g1, c1)
        d_out = _thin(d_first, stay_1)
        d_mixed = _apart(d_out @ w_out, rows, length, heads, shape.head)[0]
        d_shares = _thin(torch.bmm(d_mixed, v.transpose(1, 2)), stay)
        d_scores = torch._softmax_backward_data(d_shares, shares, -1, shares.dtype)
        parts = x.new_empty(3, *q.shape)
        torch.bmm(d_scores, k, out=parts[0])
        torch.bmm(d_scores.transpose(1, 2), q, out=parts[1])
        torch.bmm(thinned.transpose(1, 2), d_mixed, out=parts[2])
        d_qkv = parts.view(3, rows, heads, length, shape.head).permute(1, 3, 0, 2, 4).reshape(len(x), -1)
        d_x = (d_qkv @ joined).add_(d_first).view(rows, length, -1) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[_FIRST_WEIGHT]:
            return (d_x, *[None] * (len(ctx.needs_input_grad) - 1))
        return (d_x, None, None, *_of_joined(d_qkv, x, (shape.query, 1.0, shape.value)), *_of_linear(d_out, mixed, shape.out),
                *_of_linear(d_inner, y), *_of_linear(d_back, bent, shape.back), d_g1, d_c1, d_g2, d_c2)  # fmt: skip


def _apart(joined: Tensor, rows: int, length: int, heads: int, head: int) -> tuple[Tensor, ...]:
    """[rows * length, parts * width] -> each part as [rows * heads, length, head]; queries, keys and values, say."""
    parts = joined.view(rows, length, -1, heads, head).permute(2, 0, 3, 1, 4).contiguous()
    return parts.view(-1, rows * heads, length, head).unbind(0)


def _together(mixed: Tensor, rows: int, length: int, heads: int) -> Tensor:
    """The way back."""
    return mixed.view(rows, heads, length, -1).transpose(1, 2).reshape(rows * length, -1)


def _thin(values: Tensor, stay: Tensor | None) -> Tensor:
    return values if stay is None else kept(values, stay)


def _of_norm(
    given: Tensor, states: Tensor, mean: Tensor, spread: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of a norm: of its states, its weight, its bias."""
    made: tuple[Tensor, ...] = torch.ops.aten.native_layer_norm_backward(
        given, states, [states.shape[1]], mean, spread, weight, bias, [True, True, True]
    )
    return made


def _of_linear(gradient: Tensor, given: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """The gradients of a linear layer's weight and bias, in float32. The narrower side is turned round before the product:
    left to the library, both take longer."""
    if gradient.shape[1] <= given.shape[1]:
        weight = (gradient.T.contiguous() @ given).float()
    else:
        weight = (given.T.contiguous() @ gradient).T.to(torch.float32, memory_format=torch.contiguous_format)
    bias = (gradient.new_ones(1, len(gradient)) @ gradient).view(-1).float()  # a product, too, is quicker than a sum
    return (weight, bias) if scale == 1.0 else (weight.mul_(scale), bias.mul_(scale))


def _of_joined(gradient: Tensor, given: Tensor, scales: tuple[float, ...]) -> tuple[Tensor, ...]:
    """The same for queries, keys and values, each with its scale: weight and bias of each."""
    weight, bias = _of_linear(gradient, given)
    size = len(weight) // len(scales)
    found: list[Tensor] = []
    for number, scale in enumerate(scales):
        part = slice(number * size, (number + 1) * size)
        found += [weight[part].mul_(scale), bias[part].mul_(scale)]
    return tuple(found)
