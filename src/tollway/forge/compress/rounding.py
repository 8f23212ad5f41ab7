"""8 and 4 bits in torch: which weights are rounded, training that feels the rounding, and the 8-bit net that runs.

The rounded model is a float model whose weights lie on the grid: every exporter takes it, and a quantiser that uses the
same grid (one scale for each output) loses nothing more. `running8` is the same model on torch's own 8-bit kernels.
"""

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tollway.forge.compress.prune import answering
from tollway.forge.models import encoded


def forms(net: nn.Module, bits: int) -> dict[str, str]:
    """Parameter -> how it is stored. 8 bits: products and embeddings. 4 bits: products but the answer's, embeddings in 8."""
    last = answering(net) if bits == 4 else ""
    found: dict[str, str] = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Embedding):
            found[f"{name}.weight"] = "int8"
        elif isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            found[f"{name}.weight"] = "int4" if bits == 4 and name != last and isinstance(module, nn.Linear) else "int8"
        elif isinstance(module, nn.RNNBase):
            weights = [part for part, one in module.named_parameters(recurse=False) if one.dim() == 2]
            found |= {f"{name}.{part}": "int8" for part in weights}
    return found


def snap(net: nn.Module, stored: dict[str, str]) -> None:
    """Move every weight to the value that its stored form gives back."""
    parameters = dict(net.named_parameters())
    with torch.no_grad():
        for name, form in stored.items():
            one = parameters[name]
            if form == "int8":
                codes, scales = encoded.rounded8(one)
                flat = codes.reshape(len(codes), -1).float() * scales[:, None]
            else:
                codes, scales = encoded.rounded4(one)
                flat = (codes.float() * scales.float()[..., None]).reshape(len(codes), -1)[:, : one[0].numel()]
            one.copy_(flat.reshape(one.shape))


class _Rounded(nn.Module):
    """Weights as 8 bits for each output, with the gradient passed straight through."""

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            flat = weight.reshape(len(weight), -1)
            scale = flat.abs().amax(1).clamp(min=1e-12) / 127
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


def _round_inputs(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """What goes in, as 8 bits between its least and its largest value: what the engine does at run time."""
    one = inputs[0].float()
    with torch.no_grad():
        low, high = one.amin().clamp(max=0.0), one.amax().clamp(min=0.0)
        scale = ((high - low) / 255).clamp(min=1e-12)
        zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
    rounded = torch.fake_quantize_per_tensor_affine(one, scale, zero, 0, 255)
    return (rounded.to(inputs[0].dtype), *inputs[1:])


@contextlib.contextmanager
def felt(net: nn.Module) -> Iterator[None]:
    """Inside, products see rounded weights and inputs, and learn to live with it (quantisation-aware training)."""
    modules = [one for one in net.modules() if isinstance(one, (nn.Linear, nn.Conv2d))]
    hooks = [one.register_forward_pre_hook(_round_inputs) for one in modules]
    for one in modules:
        parametrize.register_parametrization(one, "weight", _Rounded())
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for one in modules:
            parametrize.remove_parametrizations(one, "weight", leave_parametrized=True)


def running8(net: nn.Module) -> nn.Module | None:
    """A copy on torch's dynamic 8-bit kernels; None where torch has none for this net or CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made: nn.Module = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
                copy.deepcopy(net), {nn.Linear, nn.LSTM, nn.GRU}, dtype=torch.qint8
            )
            return made
        except (RuntimeError, ValueError, AttributeError, NotImplementedError):
            return None
