"""Causal language modelling: every token from those before it. Documents are packed; none sees another."""

from typing import Any

import numpy as np
from torch import Tensor

from tollway.forge.train.material import Material
from tollway.forge.train.objectives.packing import Pair, pack, row_length
from tollway.kit.errors import BadRequest

_BLOCK = 1024  # rows turned into tokens at a time
_SAMPLES, _OPENING, _WRITTEN = 4, 8, 40


class Causal:
    """Pre-training on texts, or going on with it on a base. `length` is the most tokens a row has."""

    name = "causal"

    def __init__(self, length: int | None = None, **_: Any) -> None:
        self.length = length
        self._row = 0  # rows of all splits are as long as those of the first, the training rows
        self._openings: list[np.ndarray] = []

    def prepare(self, prepared: Any, features: Any, split: str) -> Material | None:
        """Rows of packed documents."""
        rows = prepared.read(split).to_pylist()
        if not rows:
            return None
        documents = self.documents(features, rows)
        self._openings = self.openings(features, rows[:_SAMPLES])
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

    def openings(self, features: Any, rows: list[dict[str, Any]]) -> list[np.ndarray]:
        """What the trained net is asked to go on from, to show what it writes."""
        return [one.get("_prompt", one["input_ids"][:_OPENING]) for one in features.encode(rows)]

    def end(self, net: Any, desk: Any) -> dict[str, Any]:
        """After training: a few samples, greedy and by chance, noted for whoever follows the run."""
        from tollway.forge.models import lm

        samples = []
        for place, ids in enumerate(self._openings):
            prompt = net.features.tokenizer.decode(ids.tolist(), skip_special_tokens=True)
            heat = 0.8 if place % 2 else 0.0
            text = lm.write(net, ids.tolist(), _WRITTEN, temperature=heat, top_p=0.95, seed=desk.seed)
            samples.append({"prompt": prompt, "text": text, "temperature": heat})
            desk.note(f"Sample at temperature {heat:g}: {prompt!r} -> {text!r}")
        return {"samples": samples}

    def loss(self, net: Any, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        loss, figures = net.loss(batch, turn)
        return loss, figures
