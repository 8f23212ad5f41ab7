"""Masked language modelling (Devlin et al. 2018): a seventh of the words is hidden, anew in every epoch, and guessed."""

from typing import Any

from torch import Tensor

from tollway.forge.models import lm_masked
from tollway.forge.train.material import Material
from tollway.kit.errors import BadRequest


class Masked:
    """`share` of the words is asked for. What is hidden is drawn from torch's generator, which checkpoints keep."""

    name = "masked"

    def __init__(self, share: float = 0.15, **_: Any) -> None:
        if not 0 < share < 1:
            raise BadRequest(f"A share of {share} of the words cannot be hidden.", param="train.options.share")
        self.share = share
        self._features: Any = None

    def prepare(self, prepared: Any, features: Any, split: str) -> Material | None:
        """[CLS] text [SEP] of every row."""
        self._features = features
        rows = self.rows(prepared.read(split).to_pylist(), features)
        if not rows:
            return None
        lengths = [len(row["input_ids"]) for row in rows]
        return Material(rows, self.targets(rows), lambda some: lm_masked.collate(some, features.pad_id), lengths)

    def rows(self, rows: list[dict[str, Any]], features: Any) -> list[dict[str, Any]]:
        """One encoded row a text; empty texts teach nothing."""
        made = (lm_masked.as_text(features, row) for row in rows)
        return [one for one in made if len(one["input_ids"]) > 2]

    def targets(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """None but what is hidden."""
        return {}

    def loss(self, net: Any, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        ids, labels = lm_masked.hide(batch["input_ids"], self._features or net.features, None, self.share)
        loss, figures = net.loss({**batch, "input_ids": ids, "labels": labels}, turn)
        return loss, figures
