"""Small worlds that a model can learn in a second: rows of every task, and a loop to learn them by heart."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from tollway.forge import models
from tollway.inference.image import png


@dataclass(frozen=True)
class Part:
    """A recipe's [model]."""

    architecture: str = ""
    base: str = ""
    options: dict[str, Any] = field(default_factory=dict)


TEXTS = ["a lovely film", "a bad bad bad film", "一部很好的电影", "很差"]
_rng = np.random.default_rng(0)
IMAGES = [png(_rng.random((1, 12, 12)) * 0.3 + (0.6 if number % 2 else 0)) for number in range(16)]


def squares(number: int) -> tuple[bytes, list[dict[str, Any]]]:
    """A dim picture of 32 x 32 with one or two bright squares in it: small ones and large ones."""
    rng, boxes = np.random.default_rng(number), []
    picture = rng.random((1, 32, 32)) * 0.3
    for label, side, left in (("small", 6, 2), ("large", 12, 16))[: 1 + number % 2]:
        top = int(rng.integers(0, 32 - side))
        picture[:, top : top + side, left : left + side] = 0.9
        boxes.append({"label": label, "box": [left, top, left + side, top + side]})
    return png(picture), boxes


SQUARES = [squares(number) for number in range(12)]
TABLES = {
    "text-classification": pa.table({"text": TEXTS * 4, "label": ["pos", "neg"] * 8}),
    "text-regression": pa.table({"text": TEXTS * 4, "target": [30.0, -10.0, 28.0, -9.0] * 4}),
    "sentence-embedding": pa.table({"text": TEXTS * 2, "text_b": ["lovely", "bad film", "很好", "很 差"] * 2}),
    "token-classification": pa.table(
        {
            "tokens": [["Anna", "lives", "in", "Paris", "."], ["张", "伟", "住", "在", "北京"]] * 4,
            "tags": [["B-PER", "O", "O", "B-LOC", "O"], ["B-PER", "I-PER", "O", "O", "B-LOC"]] * 4,
        }
    ),
    "question-answering": pa.table(
        {
            "context": ["It was built in 1889. It is in Paris."] * 4,
            "question": ["When was it built?", "Where is it?"] * 2,
            "answer": ["1889", "Paris"] * 2,
        }
    ),
    "translation": pa.table(
        {"source": ["the dog", "a cat", "the big cat", "我 爱 狗"] * 4, "target": ["el perro", "un gato", "el gato grande", "amo los perros"] * 4}
    ),
    "image-classification": pa.table({"image": IMAGES, "label": ["a", "b"] * 8}),
    "image-generation": pa.table({"image": IMAGES}),
    "object-detection": pa.table({"image": [one for one, _ in SQUARES], "boxes": [boxes for _, boxes in SQUARES]}),
    "tabular-classification": pa.table({"age": [1.0, None, 3.0, 50.0] * 4, "job": ["x", "y", None, "z"] * 4, "label": ["p", "q"] * 8}),
    "tabular-regression": pa.table({"age": [1.0, 2.0, 3.0, 50.0] * 4, "job": ["x", "y", None, "z"] * 4, "target": [10.5, 20.5, 30.0, 500.0] * 4}),
    "recommendation": pa.table({"user": [f"u{number % 4}" for number in range(16)], "item": [f"i{number % 5}" for number in range(16)],
                                "rating": [1.0, 5.0, 2.0, 4.0] * 4}),
}  # fmt: skip
ASK: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": "a lovely film"}, {"text": ""}, {"text": "很差 " * 30}],
    "sentence": [{"text": "a lovely film"}, {"text": ""}],
    "token": [{"text": "Anna in 北京"}, {"text": ""}],
    "question": [{"context": TABLES["question-answering"]["context"][0].as_py(), "question": "When?"}],
    "translation": [{"source": "the dog"}, {"source": "a cat"}],
    "image": [{"image": IMAGES[0]}, {"image": IMAGES[1]}],
    "object": [{"image": SQUARES[0][0]}, {"image": SQUARES[1][0]}],
    "tabular": [{"age": 3.0, "job": "x"}, {"age": None, "job": "stranger"}],
    "recommendation": [{"user": "u1", "item": "i2"}, {"user": "eve", "item": "i9"}],
}


def ask(task: str) -> list[dict[str, Any]]:
    return [{"seed": 1}, {"seed": 2}] if task == "image-generation" else ASK[task.split("-")[0]]


def make(task: str, seed: int = 7, **part: Any) -> models.Net:
    """A net for the task's world."""
    one = Part(**part)
    return models.create(one, task, models.fit_features(one, task, TABLES[task]), seed)


def batch_of(net: models.Net) -> dict[str, torch.Tensor]:
    """All training rows as one batch."""
    rows, features = TABLES[net.spec.task].to_pylist(), net.features
    arrays = features.collate(features.encode(rows)) | features.targets(rows)
    return {name: torch.from_numpy(one) for name, one in arrays.items()}


def learn(net: models.Net, steps: int, rate: float = 1e-2) -> list[float]:
    """The loss of the first turn at every step."""
    batch, history = batch_of(net), []
    optimisers = {turn: torch.optim.AdamW(list(net.parameters_of(turn)), lr=rate) for turn in net.turns}
    net.train()
    for _ in range(steps):
        for turn in net.turns:
            loss, _ = net.loss(batch, turn)
            net.zero_grad()
            loss.backward()
            optimisers[turn].step()
            if turn == net.turns[0]:
                history.append(float(loss.detach()))
    net.eval()
    return history
