"""The learner: one optimiser step, with everything that may be in it (turns, accumulation, FGM, L1, clipping, bf16).

For the loop. It knows a net only by its contract: `loss(batch, turn)`, `turns`, `parameters_of(turn)`, `embeddings()`.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tollway.forge.train import optimisers, row_adamw, schedules
from tollway.forge.train.group import Alone, Group
from tollway.forge.train.objectives import Objective
from tollway.forge.train.plan import Plan
from tollway.forge.train.row_adamw import RowAdamW
from tollway.kit.errors import Conflict
from tollway.kit.said import Said, say

Batch = dict[str, Tensor]


class Lossy(nn.Module):
    """The net as a module whose forward is the loss: what DDP and FSDP hook into."""

    def __init__(self, net: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.net, self.objective = net, objective

    def forward(self, batch: Batch, turn: str) -> tuple[Tensor, dict[str, float]]:
        return self.objective.loss(self.net, batch, turn)


@dataclass
class Learner:
    """A net being trained: `step(batches, number)` moves it once."""

    net: nn.Module
    objective: Objective
    plan: Plan
    total: int  # steps of the whole run: the schedule's end
    rate: float
    precision: str = "fp32"  # decided: fp32 or bf16
    group: Group = field(default_factory=Alone)

    def __post_init__(self) -> None:
        self.module = self.group.wrap(Lossy(self.net, self.objective), many_turns=len(turns_of(self.net)) > 1)
        self.optimisers = {
            turn: optimisers.make(parameters_of(self.net, turn), self.plan, self.rate, self._tables()) for turn in turns_of(self.net)
        }
        self.device = next(self.net.parameters()).device
        self._warmup = self.plan.warmup_steps(self.total)

    def _tables(self) -> list[nn.Embedding]:
        """Tables whose rows can be moved when they are read: alone, on a processor, with nothing that looks at all of them."""
        if not isinstance(self.group, Alone) or self.plan.l1 or self.plan.adversarial_epsilon:
            return []
        return [each for each in tables_of(self.net) if each.weight.numel() >= row_adamw.LEAST and each.weight.device.type == "cpu"]

    def settle(self) -> None:
        """The weights are what they should be, also those that nobody has read for a while."""
        for each in self.optimisers.values():
            if isinstance(each, RowAdamW):
                each.settle()

    def close(self) -> None:
        """The net is an ordinary one again."""
        for each in self.optimisers.values():
            if isinstance(each, RowAdamW):
                each.close()

    def autocast(self) -> Any:
        """Where the forward pass runs: bf16 for products of matrices, or plain."""
        return autocast(self.precision, self.device.type)

    def step(self, batches: Sequence[Batch], number: int, weights: Sequence[float]) -> dict[str, float]:
        """One optimiser step a turn over these batches, whose losses are weighted. Raises Conflict when it diverges."""
        figures: dict[str, float] = {}
        factor = schedules.factor(self.plan.schedule, number, self.total, self._warmup)
        for turn, optimiser in self.optimisers.items():
            self.net.zero_grad(set_to_none=True)
            loss = 0.0
            for at, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
                last = at == len(batches) - 1
                with nullcontext() if last else self.group.unsynced(self.module):
                    part, seen = self._backward(batch, turn, weight, number)
                loss += part * weight
                for name, value in seen.items():
                    figures[name] = figures.get(name, 0.0) + value * weight
            parameters = [each for group in optimiser.param_groups for each in group["params"]]
            if self.plan.l1:
                _add_l1(parameters, self.plan.l1)
            norm = self._clip(optimiser, parameters, number, loss)
            figures["rate"] = optimisers.set_rate(optimiser, factor)
            optimiser.step()
            figures["loss" if turn == "all" else f"loss_{turn}"] = loss
            figures["gradient_norm"] = norm
        if "loss" not in figures:
            figures["loss"] = sum(value for name, value in figures.items() if name.startswith("loss_"))
        return figures

    def _backward(self, batch: Batch, turn: str, weight: float, number: int) -> tuple[float, dict[str, float]]:
        with self.autocast():
            loss, figures = self.module(batch, turn)
        value = float(loss.detach())
        if not math.isfinite(value):
            became = say("train.loss_became", "The loss became {value} at step {step}", value=str(value), step=number + 1)
            raise self._diverged(became, batch)
        (loss * weight).backward()
        if self.plan.adversarial_epsilon and turn in ("all", "generator"):
            self._adversarial(batch, turn, weight)
        return value, figures

    def _adversarial(self, batch: Batch, turn: str, weight: float) -> None:
        """FGM: the same batch with the word vectors moved along their gradient; its gradient is added."""
        table = embeddings_of(self.net)
        if table is None or table.weight.grad is None:
            raise Conflict(
                say("train.no_vectors", "Adversarial training moves word vectors, and this model has none that are trained."),
                hint=say("train.not_adversarial", "Remove `adversarial` from [train], or choose a text model with method = 'full'."),
            )
        gradient = table.weight.grad
        norm = float(gradient.norm())
        if not norm or not math.isfinite(norm):
            return
        kept = table.weight.detach().clone()
        with torch.no_grad():
            table.weight.add_(gradient, alpha=self.plan.adversarial_epsilon / norm)
        with self.autocast():
            loss, _ = self.module(batch, turn)
        (loss * weight).backward()
        with torch.no_grad():
            table.weight.copy_(kept)

    def _clip(self, optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter], number: int, loss: float) -> float:
        limit = self.plan.clip or math.inf
        norm = _clipped(parameters, limit, optimiser)
        if not math.isfinite(norm):
            raise self._diverged(
                say("train.gradient_became", "The gradient became {value} at step {step} (loss {loss})", value=str(norm),
                    step=number + 1, loss=f"{loss:.4g}"),
                None,
            )  # fmt: skip
        return norm

    def _diverged(self, what: Said, batch: Mapping[str, Tensor] | None) -> Conflict:
        """Says what to try, most likely cause first."""
        broken = [name for name, each in (batch or {}).items() if each.is_floating_point() and not bool(each.isfinite().all())]
        if broken:
            cause = say("train.not_finite", "The rows hold values that are not finite in {columns}: clean them in [data].",
                        columns=", ".join(broken))  # fmt: skip
        else:
            also = [f"learning_rate = {self.rate / 10:.2g}"]
            also += [] if self.plan.clip else ["clip = 1.0"]
            also += [] if self.plan.warmup else ["warmup = 0.06"]
            also += ["precision = 'fp32'"] if self.precision != "fp32" else []
            cause = say("train.calmer", "Try {settings} (the rate was {rate}).", settings=", ".join(also), rate=f"{self.rate:.2g}")
        stopped = say("train.diverged", "{failure}; training stopped and nothing was kept.", failure=what)
        return Conflict(stopped, code="training_diverged", hint=cause)


def autocast(precision: str, device: str = "cpu") -> Any:
    """The context of a forward pass at a precision."""
    return torch.autocast(device, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def turns_of(net: nn.Module) -> tuple[str, ...]:
    return tuple(getattr(net, "turns", ("all",)))


def parameters_of(net: nn.Module, turn: str) -> list[nn.Parameter]:
    own: Any = getattr(net, "parameters_of", None)
    return list(own(turn)) if own is not None else list(net.parameters())


def embeddings_of(net: nn.Module) -> nn.Embedding | None:
    find: Any = getattr(net, "embeddings", None)
    return find() if find is not None else None


def tables_of(net: nn.Module) -> list[nn.Embedding]:
    """Tables that are read through their forward pass alone, as the net says."""
    own: Any = getattr(net, "read_by_rows", None)
    found = list(own()) if own is not None else []
    return [each for each in found if "weight" in each._parameters]  # not one that is computed from something else


def _clipped(parameters: list[nn.Parameter], limit: float, optimiser: torch.optim.Optimizer) -> float:
    """Scales the gradients down to a norm of `limit`; the norm they had. Sharded and plain ones may be mixed."""
    gradients = [_plain(each) for each in parameters if each.grad is not None]
    sharded = [each for each in gradients if hasattr(each, "full_tensor")]
    if not sharded:
        norm = float(torch.nn.utils.get_total_norm(gradients))
        _scale(gradients, norm, limit, optimiser)
        return norm
    if len(sharded) == len(gradients):
        measured: Any = torch.nn.utils.clip_grad_norm_(parameters, limit)
        return float(measured.full_tensor())
    squares = [torch.linalg.vector_norm(each).square() for each in gradients]
    norm = math.sqrt(sum(float(each.full_tensor() if hasattr(each, "full_tensor") else each) for each in squares))
    if norm > limit:
        for each in gradients:
            each.mul_(limit / (norm + 1e-6))
    return norm


def _plain(parameter: nn.Parameter) -> Tensor:
    """A gradient's numbers; of one that came as rows, each row's once."""
    gradient: Any = parameter.grad
    if gradient.is_sparse:
        parameter.grad = gradient = gradient.coalesce()
        return gradient.values()  # type: ignore[no-any-return]
    return gradient  # type: ignore[no-any-return]


def _scale(gradients: list[Tensor], norm: float, limit: float, optimiser: Any) -> None:
    """Down to the limit: on the way through the fused optimiser, which divides as it reads, or here."""
    above = norm > limit
    if optimiser.defaults.get("fused"):
        optimiser.grad_scale = torch.tensor((norm + 1e-6) / limit, device=gradients[0].device) if above else None
    elif above:
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))


def _add_l1(parameters: list[nn.Parameter], strength: float) -> None:
    """The subgradient of strength * sum(|w|), on matrices only."""
    with torch.no_grad():
        for each in parameters:
            if each.grad is not None and each.ndim >= 2:
                each.grad.add_(each.sign(), alpha=strength)


def set_dropout(net: nn.Module, share: float) -> int:
    """Every dropout of the net becomes `share`; how many there were."""
    changed = 0
    for module in net.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)):
            module.p = share
            changed += 1
        for name in ("dropout", "attention_dropout", "dropout_p"):  # recurrent layers and attention keep a plain number
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, share)
                changed += 1
    return changed
