"""What the loop measures while it trains: loss on held-out rows, and accuracy or error where the outputs allow it.

For the loop's choice of the best weights; the figures a model is judged by come from `forge.evaluate`.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from tollway.forge.train.batches import IGNORED, Batches
from tollway.forge.train.device import move
from tollway.forge.train.freezing import train_mode
from tollway.forge.train.group import Alone, Group
from tollway.forge.train.learner import Lossy, autocast, turns_of
from tollway.forge.train.objectives import Objective


def measure(
    net: nn.Module, objective: Objective, batches: Batches, precision: str = "fp32", group: Group | None = None,
    module: nn.Module | None = None,
) -> dict[str, float]:  # fmt: skip
    """Means over all rows: loss, and accuracy or rmse. Leaves the net in training mode as it was. `module` is the net as
    the group wrapped it: sharded tensors are whole only inside its forward pass."""
    group, module = group or Alone(), module or Lossy(net, objective)
    training, random_state = net.training, torch.get_rng_state()
    torch.manual_seed(0)  # what an objective draws (masks) is the same at every look
    net.eval()
    device = next(net.parameters()).device
    outputs: dict[str, Any] = {}
    hook = net.register_forward_hook(lambda _module, _inputs, output: outputs.update(output) if isinstance(output, dict) else None)
    tally = _Tally()
    order = batches.in_order()
    try:
        with torch.no_grad():
            for at in range(group.rank, math.ceil(len(order) / group.size) * group.size, group.size):
                indices = order[min(at, len(order) - 1)]  # every process takes part in every round: sharded nets need it
                batch = move(batches.batch(indices), device)
                outputs.clear()
                with autocast(precision, device.type):
                    loss, figures = module(batch, turns_of(net)[-1])
                if at < len(order):
                    tally.add(len(indices), float(loss), figures, outputs, batch)
    finally:
        hook.remove()
        if training:
            train_mode(net)
        torch.set_rng_state(random_state)
    return tally.means(group)


class _Tally:
    """Sums that become means."""

    def __init__(self) -> None:
        self.rows = self.loss = self.asked = self.right = self.numbers = self.squares = 0.0
        self.figures: dict[str, float] = {}

    def add(self, rows: int, loss: float, figures: dict[str, float], outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        self.rows += rows
        self.loss += loss * rows
        for name, value in figures.items():
            self.figures[name] = self.figures.get(name, 0.0) + float(value) * rows
        logits, label = outputs.get("logits"), batch.get("label", batch.get("labels"))
        if logits is not None and label is not None and not label.is_floating_point() and logits.ndim == label.ndim + 1:
            asked = label != IGNORED
            self.asked += float(asked.sum())
            self.right += float(((logits.argmax(-1) == label) & asked).sum())
        guess, target = outputs.get("value"), batch.get("target")
        if guess is not None and target is not None and guess.numel() == target.numel():
            self.numbers += target.numel()
            self.squares += float((guess.float().reshape(-1) - target.float().reshape(-1)).square().sum())

    def means(self, group: Group) -> dict[str, float]:
        names = sorted(self.figures)
        sums = group.total([self.rows, self.loss, self.asked, self.right, self.numbers, self.squares,
                            *(self.figures[name] for name in names)])
        rows, loss, asked, right, values, squares = sums[:6]
        found = {name: total / rows for name, total in zip(names, sums[6:], strict=True)}
        found["loss"] = loss / rows
        if asked:
            found["accuracy"] = right / asked
        if values:
            found["rmse"] = math.sqrt(squares / values)
        return found
