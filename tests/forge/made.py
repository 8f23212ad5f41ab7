"""Small models trained on real data, for the tests of what happens to a model afterwards."""

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tollway.forge import data, train
from tollway.forge.data import samples
from tollway.forge.desk import Desk
from tollway.forge.recipe import Data, Model, Split, Train
from tollway.kit.clock import SystemClock


@dataclass(frozen=True)
class Made:
    """A trained model folder and the rows it learnt from."""

    folder: Path
    prepared: data.Prepared


def desk(root: Path, seed: int = 7) -> Desk:
    """A desk in `root`; what it is told is in `desk.said`."""
    (root / "out").mkdir(parents=True)
    (root / "work").mkdir()
    said: list[dict[str, Any]] = []
    made = Desk(out=root / "out", work=root / "work", home=root, seed=seed, threads=1, emit=said.append, step="test")
    made.said = said  # type: ignore[attr-defined]
    return made


def told(place: Any, kind: str = "note") -> str:
    """All notes (or warnings) of a desk."""
    return "\n".join(event["text"] for event in place.said if event["kind"] == kind)


@functools.cache
def movies() -> Made:
    """A small transformer on 800 movie sentences: it knows a little, which is enough to see it forget."""
    return _make("movies", "text-classification", 800, Model(
        architecture="transformer", options={"width": 48, "layers": 3, "heads": 4, "vocabulary": 3000, "max_length": 48, "pooling": "max"},
    ), Train(epochs=3, learning_rate=2e-3, precision="fp32"))  # fmt: skip


@functools.cache
def digits() -> Made:
    """A small network of convolutions on 8 x 8 digits."""
    options = {"filters": [16, 32], "hidden": 32}
    return _make("digits", "image-classification", None, Model(architecture="cnn", options=options), Train(epochs=6, precision="fp32"))


def _make(name: str, task: str, rows: int | None, model: Model, how: Train) -> Made:
    root = Path(tempfile.mkdtemp(prefix="tollway-made-"))
    shelf = data.Shelf(root / "datasets", SystemClock())
    samples.load(name, shelf)
    columns = {"text": "text", "label": "label"} if task.startswith("text") else {}
    part = Data(dataset=name, columns=columns, split=Split(validation=0.15, test=0.25), rows_max=rows)
    prepared_desk, trained_desk = desk(root / "prepare"), desk(root / "train")
    with torch.random.fork_rng(devices=[]):
        prepared = data.prepare(part, task, shelf, prepared_desk)
        train.fit(how, model, task, prepared, trained_desk)
    return Made(trained_desk.out, prepared)
