"""Small nets that keep the Net contract, and a desk: for the tests of the loop, which knows nothing else."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tollway.forge.desk import Desk
from tollway.forge.train.batches import Batches


def desk(folder: Path, *, seed: int = 7, stop: object = lambda: False) -> Desk:
    """A real desk that keeps what it is told in `folder/events`."""
    out, work = folder / "out", folder / "work"
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    seen: list[dict] = []
    made = Desk(out=out, work=work, home=folder, seed=seed, threads=1, emit=seen.append, step="train", stop_asked=stop)
    made.seen = seen
    return made


class Bag(nn.Module):
    """Mean of word vectors, dropout, two layers: text classification in miniature."""

    turns = ("all",)

    def __init__(self, words: int = 50, width: int = 16, labels: int = 3, dropout: float = 0.1) -> None:
        super().__init__()
        self.table = nn.Embedding(words, width)
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, labels)

    def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> dict[str, torch.Tensor]:
        known = (input_ids > 0).unsqueeze(-1)
        mean = (self.table(input_ids) * known).sum(1) / known.sum(1).clamp(min=1)
        return {"logits": self.head(self.dropout(torch.relu(self.hidden(mean))))}

    def loss(self, batch: dict[str, torch.Tensor], turn: str = "all") -> tuple[torch.Tensor, dict[str, float]]:
        outputs = self(**{name: each for name, each in batch.items() if name != "label"})
        return functional.cross_entropy(outputs["logits"].float(), batch["label"]), {}

    def parameters_of(self, turn: str) -> list[nn.Parameter]:
        return list(self.parameters())

    def embeddings(self) -> nn.Embedding:
        return self.table


class Duel(nn.Module):
    """A generator of points and a discriminator of them: a GAN in miniature."""

    turns = ("discriminator", "generator")

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"image": self.generator(noise)}

    def loss(self, batch: dict[str, torch.Tensor], turn: str = "all") -> tuple[torch.Tensor, dict[str, float]]:
        real = batch["point"]
        made = self.generator(torch.randn_like(real))
        if turn == "generator":
            return functional.softplus(-self.discriminator(made)).mean(), {}
        return (functional.softplus(-self.discriminator(real)) + functional.softplus(self.discriminator(made.detach()))).mean(), {}

    def parameters_of(self, turn: str) -> list[nn.Parameter]:
        return list(getattr(self, turn).parameters())


def texts(rows: int = 200, *, seed: int = 0, words: int = 50, labels: int = 3, longest: int = 20) -> tuple[list, dict]:
    """Rows whose label is the class of most of their words: learnable, not trivial."""
    chance = np.random.default_rng(seed)
    encoded, answers = [], []
    for _ in range(rows):
        label = int(chance.integers(labels))
        length = int(chance.integers(3, longest + 1))
        own = chance.integers(1, (words - 1) // labels, size=length) * labels + label
        noise = chance.integers(1, words, size=length)
        ids = np.where(chance.random(length) < 0.7, np.minimum(own, words - 1), noise)
        encoded.append({"input_ids": ids.astype(np.int64)})
        answers.append(label)
    return encoded, {"label": np.asarray(answers)}


def batches(rows: int = 200, *, seed: int = 0, budget: int = 160) -> Batches:
    encoded, targets = texts(rows, seed=seed)
    return Batches(encoded, targets, budget_tokens=budget, seed=seed)


def bag(seed: int = 1, **options: float) -> Bag:
    torch.manual_seed(seed)
    return Bag(**options)


def same(one: nn.Module, other: nn.Module) -> bool:
    """Bit for bit."""
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
