"""How large, how fast and how good a model is: the three figures beside every compression and conversion.

Speed is CPU time of one thread over the same batches, both sides in turns, so that a busy machine slows both alike.
Quality is what needs no library: accuracy, root mean square error, the rate of right tokens.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from tollway.forge.models import found
from tollway.inference import IGNORE, Arrays, Features, batches

Run = Callable[[Arrays], Arrays]
BATCH_ROWS: Final = 32
_SPEED_BATCHES, _ROUNDS, _SPEED_SECONDS = 4, 3, 3.0


@dataclass(frozen=True)
class Quality:
    """One figure of quality and which way is better; `right` says for each row whether it was right (classes only)."""

    name: str
    value: float
    higher_is_better: bool = True
    right: np.ndarray | None = field(default=None, compare=False)

    def drop(self, other: "Quality") -> float:
        """By how much `other` is worse; below zero when it is better."""
        return (self.value - other.value) if self.higher_is_better else (other.value - self.value)


@dataclass(frozen=True)
class Sample:
    """Real rows, encoded once: what every side of a comparison sees."""

    features: Features
    rows: list[dict[str, Any]]
    encoded: list[Any]

    @classmethod
    def of(cls, features: Features, rows: Sequence[dict[str, Any]]) -> "Sample":
        return cls(features, list(rows), features.encode(rows))

    def outputs(self, run: Run) -> list[Arrays]:
        """The raw outputs for each row, in order, cut to what the row itself has."""
        found: list[Arrays] = [{}] * len(self.rows)
        for batch in batches([self.features.length(one) for one in self.encoded]):
            arrays = self.features.generate(run, self.features.collate([self.encoded[place] for place in batch]))
            for number, place in enumerate(batch):
                found[place] = {name: one[number] for name, one in arrays.items()}
        return found

    def speed_batches(self) -> list[Arrays]:
        """A few batches in the order of the rows, as requests come: not sorted by length."""
        places = range(0, min(len(self.rows), BATCH_ROWS * _SPEED_BATCHES), BATCH_ROWS)
        return [self.features.collate(self.encoded[place : place + BATCH_ROWS]) for place in places]


def quality(outputs: Sequence[Arrays], sample: Sample) -> Quality | None:
    """The figure that fits what the model gives; None where rows have no right answer (embeddings, images)."""
    if not outputs:
        return None
    targets = sample.features.targets(sample.rows)
    first = outputs[0]
    if "heat" in first and "true_boxes" in targets:
        return Quality("found", found.found(outputs, sample.features, sample.rows, sample.encoded))
    if "logits" in first and "label" in targets:
        guessed = np.asarray([one["logits"].argmax(-1) for one in outputs])
        right = guessed == targets["label"]
        return Quality("accuracy", float(right.mean()), right=right)
    if "logits" in first and "labels" in targets:
        return Quality("token_accuracy", _token_accuracy(outputs, targets["labels"]))
    if "start_logits" in first and "start" in targets:
        starts = np.asarray([one["start_logits"].argmax(-1) for one in outputs]) == targets["start"]
        ends = np.asarray([one["end_logits"].argmax(-1) for one in outputs]) == targets["end"]
        return Quality("exact", float((starts & ends).mean()), right=starts & ends)
    name = next((one for one in ("value", "score") if one in first), "")
    if name and "target" in targets:
        guessed = np.asarray([float(np.asarray(one[name]).reshape(-1)[0]) for one in outputs])
        return Quality("rmse", float(np.sqrt(np.mean((guessed - targets["target"]) ** 2))), higher_is_better=False)
    return None


def _token_accuracy(outputs: Sequence[Arrays], labels: np.ndarray) -> float:
    right = asked = 0
    for one, wanted in zip(outputs, labels, strict=True):
        width = min(len(wanted), len(one["logits"]))
        there = wanted[:width] != IGNORE
        right += int(((one["logits"][:width].argmax(-1) == wanted[:width]) & there).sum())
        asked += int(there.sum())
    return right / max(1, asked)


def speeds(sides: dict[str, Run], sample: Sample) -> dict[str, float]:
    """Rows a second of one core for each side: the median of rounds in which the sides take turns."""
    work, features = sample.speed_batches(), sample.features
    rows = sum(len(next(iter(batch.values()))) for batch in work)
    spent: dict[str, list[float]] = {name: [] for name in sides}
    with one_thread():
        for run in sides.values():
            features.generate(run, work[0])  # the first call plans and allocates
        began = time.monotonic()
        for number in range(_ROUNDS):
            for name, run in sides.items():
                start = time.process_time()
                for batch in work:
                    features.generate(run, batch)
                spent[name].append(time.process_time() - start)
            if number and time.monotonic() - began > _SPEED_SECONDS * len(sides):
                break
    return {name: rows / max(1e-9, median(times)) for name, times in spent.items()}


@contextmanager
def one_thread() -> Any:
    """torch on one thread inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def size(path: Path) -> int:
    """Bytes of a file, or of all the files of a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def rows_of(prepared: Any, split: str, limit: int, seed: int = 0) -> list[dict[str, Any]]:
    """Some rows of a split, drawn evenly (files are often sorted); of the nearest split that exists when it has none."""
    for name in (split, "validation", "test", "train"):
        if name in prepared.splits:
            table = prepared.read(name)
            if table.num_rows:
                if table.num_rows > limit:
                    places = np.sort(np.random.default_rng(seed).permutation(table.num_rows)[:limit])
                    table = table.take(places)
                rows: list[dict[str, Any]] = table.to_pylist()
                return rows
    return []
