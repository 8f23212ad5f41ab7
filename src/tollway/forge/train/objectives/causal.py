"""Causal language modelling: every token from those before it. Documents are packed; none sees another."""

from typing import Any

import numpy as np
from torch import Tensor

from tollway.forge.train.material import Material
from tollway.forge.train.objectives.packing import Pair, pack, row_length
from tollway.kit.errors import BadRequest

_BLOCK = 1024  # rows turned into tokens at a time


class Causal:
    """Pre-training on texts, or going on with it on a base. `length` is the most tokens a row has."""

    name = "causal"

    def __init__(self, length: int | None = None, **_: Any) -> None:
        self.length = length
        self._row = 0  # rows of all splits are as long as those of the first, the training rows

    def prepare(self, prepared: Any, features: Any, split: str) -> Material | None:
        """Rows of packed documents."""
        rows = prepared.read(split).to_pylist()
        if not rows:
            return None
        documents = self.documents(features, rows)
        most = min(features.max_length, self.length or features.max_length)
        self._row = self._row or row_length(documents, most)
        packed = pack(documents, self._row, features.pad_id)
        if not packed.rows:
            raise BadRequest(
                f"The {split} rows leave nothing to learn from: {self.nothing}.",
                code="empty_dataset",
                hint="Look at the rows and at max_length.",
            )
        return Material(packed.rows, {"labels": packed.labels}, lengths=packed.lengths)

    nothing = "every text is empty"

    def documents(self, features: Any, rows: list[dict[str, Any]]) -> list[Pair]:
        """Inputs and labels of every row."""
        found: list[Pair] = []
        for at in range(0, len(rows), _BLOCK):
            found += [
                (one["input_ids"].astype(np.int32), one["_labels"].astype(np.int32))
                for one in features.encode(rows[at : at + _BLOCK])
            ]
        return found

    def loss(self, net: Any, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        loss, figures = net.loss(batch, turn)
        return loss, figures
