"""Supervised learning: answers are given with the rows; the loss is the net's own.

For `train.fit`: the objective of classification, regression, tagging, question answering, translation, recommendation.
"""

from typing import Any

from torch import Tensor

from tollway.forge.train.material import Material

_BLOCK = 1024  # rows turned into arrays at a time


class Supervised:
    """`Net.loss`, with label smoothing while it learns (never while it is measured)."""

    name = "supervised"

    def __init__(self, label_smoothing: float = 0.0, **_: Any) -> None:
        self.label_smoothing = label_smoothing

    def prepare(self, prepared: Any, features: Any, split: str) -> Material | None:
        """Rows through the features that will also encode them when the model is served."""
        if not prepared.rows(split):
            return None
        rows = prepared.read(split).to_pylist()
        encoded = [each for at in range(0, len(rows), _BLOCK) for each in features.encode(rows[at : at + _BLOCK])]
        lengths = [features.length(each) for each in encoded]
        return Material(encoded, features.targets(rows), features.collate, lengths)

    def loss(self, net: Any, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        net.label_smoothing = self.label_smoothing if net.training else 0.0
        loss, figures = net.loss(batch, turn)
        return loss, figures
