"""Direct preference optimisation (Rafailov et al. 2023): the chosen answer becomes likelier than the rejected one, by more
than it was for the model one began with.

The published loss in our own loop, since TRL's trainer brings its own and its checkpoints cannot be resumed bit for bit
(nor read without a pickle); a test holds the loss against TRL's DPOTrainer. Chosen and rejected share a row, as two
documents that do not see each other; the reference's likelihoods are computed once, before the first step.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tollway.forge.train.batches import IGNORED, Batches, Encoded
from tollway.forge.train.material import Material
from tollway.kit.errors import BadRequest, Conflict

_REFERENCE = "reference"


class Dpo:
    """`beta`: how dear leaving the reference is; `label_smoothing`: the share of pairs thought to be the wrong way round."""

    name = "dpo"

    def __init__(self, beta: float = 0.1, label_smoothing: float = 0.0, **_: Any) -> None:
        if not beta > 0:
            raise BadRequest(f"beta = {beta} must be above 0.", param="train.options.beta")
        self.beta, self.label_smoothing = float(beta), float(label_smoothing)

    def prepare(self, prepared: Any, features: Any, split: str) -> Material | None:
        """A row a pair: the chosen conversation (segment 1), then the rejected one (segment 2)."""
        rows = prepared.read(split).to_pylist()
        pairs = [pair for one in features.encode(rows) if (pair := _joined(one)) is not None]
        if rows and not pairs:
            raise BadRequest("No pair leaves an answer within max_length.", param="model.options.max_length")
        if not pairs:
            return None
        encoded = [pair[0] for pair in pairs]
        return Material(encoded, {"labels": [pair[1] for pair in pairs]}, lengths=[len(one["input_ids"]) for one in encoded])

    def begin(self, net: Any, parts: Sequence[Batches | None]) -> None:
        """Remember how likely the net finds all answers before it learns. Called once, before the loop."""
        was = net.training
        net.eval()
        try:
            for batches in parts:
                if batches is None:
                    continue
                batches.targets.pop(_REFERENCE, None)
                known = np.zeros((len(batches), 2), dtype=np.float32)
                for indices in batches.in_order():
                    with torch.no_grad():
                        known[indices] = torch.stack(_log_likelihoods(net, batches.batch(indices)), 1).numpy()
                batches.targets[_REFERENCE] = known
        finally:
            net.train(was)

    def loss(self, net: Any, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        if _REFERENCE not in batch:
            raise Conflict("The reference's likelihoods are missing.", hint="Objective.begin must run before the loop.")
        chosen, rejected = _log_likelihoods(net, batch)
        known = batch[_REFERENCE]
        margin = self.beta * ((chosen - known[:, 0]) - (rejected - known[:, 1]))
        doubt = self.label_smoothing if net.training else 0.0
        loss = -(F.logsigmoid(margin) * (1 - doubt) + F.logsigmoid(-margin) * doubt).mean()
        figures = {"preferred": float((margin > 0).float().mean()), "margin": float(margin.detach().mean())}
        return loss, figures


def _log_likelihoods(net: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Summed log-likelihood of each row's chosen and of its rejected answer."""
    labels, segments = batch["labels"], batch["segments"]
    hidden = net.model(batch["input_ids"], segments)
    asked = labels != IGNORED
    logits = F.linear(hidden[asked], net.head()).float()
    each = -F.cross_entropy(logits, labels[asked].long(), reduction="none")
    rows = asked.nonzero()[:, 0]
    empty = each.new_zeros(len(labels))
    side = segments[asked]
    return empty.index_add(0, rows, each * (side == 1)), empty.index_add(0, rows, each * (side == 2))


def _joined(one: Encoded) -> tuple[Encoded, np.ndarray] | None:
    """The two conversations of a preference as one row; None when an answer was cut away."""
    sides = [(one[f"input_ids{b}"], one[f"_labels{b}"]) for b in ("", "_b")]
    if not all((labels != IGNORED).any() for _, labels in sides):
        return None
    ids = np.concatenate([ids for ids, _ in sides]).astype(np.int32)
    segments = np.concatenate([np.full(len(ids), number, dtype=np.int32) for number, (ids, _) in enumerate(sides, 1)])
    labels = np.concatenate([labels for _, labels in sides]).astype(np.int32)
    return {"input_ids": ids, "segments": segments}, labels
