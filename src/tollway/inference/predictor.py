"""Rows in, answers out, in this process: check, encode, sort by length, run in batches, decode, put back in order.

    predictor = inference.load(folder)                 # ONNX by default
    predictor.predict([{"text": "a lovely film"}])     # [{"label": "positive", "score": 0.98, "scores": {...}}]

The answer to a row does not depend on the rows beside it (up to float rounding).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from tollway.inference.encoding import Arrays, Encoded, Features, Row
from tollway.inference.folder import load_features
from tollway.inference.runners import open_model

BATCH_TOKENS: Final = 4096
BATCH_ROWS: Final = 64
_WASTE: Final = 1.15  # a row joins a batch while padding stays below this share of the true tokens


class Predictor:
    """A model with its features. `run` is the engine: arrays in, arrays out; `shared`: it really runs in several threads at
    the same time, instead of letting them take turns."""

    def __init__(self, features: Features, run: Callable[[Arrays], Arrays], *, shared: bool = True) -> None:
        self.features = features
        self.run = run
        self.shared = shared

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """One answer per row, in the order of the rows. Raises BadRequest naming the row and field that is wrong."""
        self.features.check(rows)
        return self.answer(rows, self.features.encode(rows))

    def tokens(self, rows: Sequence[Row]) -> list[int]:
        """How many tokens each row has (1 where a row has none), as it is counted and billed."""
        return [self.features.length(one) for one in self.features.encode(rows)]

    def answer(self, rows: Sequence[Row], encoded: Sequence[Encoded]) -> list[dict[str, Any]]:
        """Answers to rows that are already encoded."""
        answers: list[dict[str, Any]] = [{}] * len(rows)
        for batch in batches([self.features.length(one) for one in encoded]):
            mine = [encoded[place] for place in batch]
            outputs = self._outputs(mine)
            decoded = self.features.decode(outputs, [rows[place] for place in batch], mine)
            for place, answer in zip(batch, decoded, strict=True):
                answers[place] = answer
        return answers

    def outputs(self, rows: Sequence[Row]) -> list[Arrays]:
        """The model's raw outputs for each row alone, in order; for evaluation and parity checks."""
        encoded = self.features.encode(rows)
        found: list[Arrays] = [{}] * len(rows)
        for batch in batches([self.features.length(one) for one in encoded]):
            mine = [encoded[place] for place in batch]
            for place, part in zip(batch, self.features.parts(self._outputs(mine), mine), strict=True):
                found[place] = part
        return found

    def _outputs(self, encoded: Sequence[Encoded]) -> Arrays:
        return self.features.generate(self.run, self.features.collate(encoded))


def batches(lengths: Sequence[int], tokens: int = BATCH_TOKENS, rows: int = BATCH_ROWS) -> Iterator[list[int]]:
    """Places of rows, longest first, cut so that a batch holds at most `tokens` padded tokens and little padding."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    batch: list[int] = []
    true = 0
    for place in order:
        longest = lengths[batch[0]] if batch else lengths[place]
        padded = longest * (len(batch) + 1)
        crowded = len(batch) >= 4 and padded > _WASTE * (true + lengths[place])
        if batch and (len(batch) >= rows or padded > tokens or crowded):
            yield batch
            batch, true = [], 0
        batch.append(place)
        true += lengths[place]
    if batch:
        yield batch


def load(
    folder: Path, format: str = "onnx", threads: int = 1, *, spinning: bool = False, features: Features | None = None
) -> Predictor:
    """The predictor of a model folder or package, on the engine of `format`. `spinning`: its threads wait actively for each
    other, where the engine knows the difference; quicker when nothing else wants the cores."""
    runner = open_model(Path(folder), format, threads, spinning)
    return Predictor(features or load_features(folder), runner.run, shared=runner.shared)
