"""Supervised learning: answers are given with the rows; the loss is the net's own, or a smoothed one.

For `train.fit`: the objective of classification, regression, tagging, question answering, translation, recommendation.
"""

from typing import Any

from torch import Tensor
from torch.nn import functional

from tollway.forge.train.batches import IGNORED
from tollway.forge.train.material import Material

_BLOCK = 1024  # rows turned into arrays at a time
_TARGETS = ("label", "labels", "target")


class Supervised:
    """`Net.loss`; with label smoothing, cross-entropy against labels that keep a little doubt."""

    name = "supervised"

    def __init__(self, label_smoothing: float = 0.0, **_: Any) -> None:
        self.label_smoothing = label_smoothing

    def prepare(self, prepared: Any, features: Any, split: str) -> Material | None:
        """Rows through the features that will also encode them when the model is served."""
        rows = prepared.read(split).to_pylist()
        if not rows:
            return None
        encoded = [each for at in range(0, len(rows), _BLOCK) for each in features.encode(rows[at : at + _BLOCK])]
        lengths = [features.length(each) for each in encoded]
        return Material(encoded, features.targets(rows), features.collate, lengths)

    def loss(self, net: Any, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        if not self.label_smoothing or not net.training:
            loss, figures = net.loss(batch, turn)
            return loss, figures
        outputs = net(**{name: each for name, each in batch.items() if name not in _TARGETS})
        label = batch.get("label", batch.get("labels"))
        logits = outputs.get("logits")
        if logits is None or label is None or label.is_floating_point():
            loss, figures = net.loss(batch, turn)  # no classes to smooth
            return loss, figures
        loss = functional.cross_entropy(
            logits.float().flatten(0, -2), label.flatten(), ignore_index=IGNORED, label_smoothing=self.label_smoothing
        )
        return loss, {}
