"""Net: what every model is to the loop, the exporters and the explainers. Named arrays in, named outputs out, its own loss.

The loop knows nothing else of a model: `loss(batch)`, `turns` and `parameters_of(turn)` (a GAN has two), and `embeddings()`
for adversarial training.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tollway.inference import IGNORE, Features
from tollway.kit.errors import BadRequest

TARGETS: Final = ("label", "target", "labels", "weight", "start", "end", "teacher")


@dataclass
class ModelSpec:
    """What model.toml says."""

    architecture: str
    task: str
    options: dict[str, Any] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    parameters: int = 0
    made_by: str = ""
    parent: str = ""


class Net(nn.Module):
    """A model. Subclasses give `forward`; the loss follows from the outputs and the task."""

    turns: tuple[str, ...] = ("all",)
    moving: tuple[str, ...] = ()  # modules whose weights no optimiser moves but the net itself: checkpoints keep them

    def __init__(self, spec: ModelSpec, features: Features) -> None:
        super().__init__()
        self.spec = spec
        self.features = features
        self.label_smoothing = 0.0
        self.adapter: dict[str, Any] | None = None  # set by adapters.adapt

    @property
    def body(self) -> nn.Module:
        """The module whose layers adapters are put on and whose names their files use."""
        return self

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def loss(self, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch (arrays and targets together) and figures worth showing."""
        outputs = self(**{name: one for name, one in batch.items() if name not in TARGETS})
        return loss_of(outputs, batch, self.features.target.std, self.label_smoothing)

    def parameters_of(self, turn: str = "all") -> Iterator[nn.Parameter]:
        """The parameters that a turn may change."""
        return (one for one in self.parameters() if one.requires_grad)

    def embeddings(self) -> nn.Embedding | None:
        """The word (or item) vectors, for adversarial training."""
        return next((one for one in self.modules() if isinstance(one, nn.Embedding)), None)

    def read_by_rows(self) -> list[nn.Embedding]:
        """Tables that are read through their forward pass alone, so that rows no batch mentions need not be moved."""
        return []

    def layers(self) -> list[nn.Module]:
        """The stack from input to output, for training only the top of it. Empty: this model has none."""
        return []

    def example(self, rows: int = 2) -> dict[str, Tensor]:
        """Arrays of plausible rows, for exporters."""
        arrays = self.features.collate(self.features.encode(self.features.example(rows)))
        return {name: torch.from_numpy(one) for name, one in arrays.items()}

    @property
    def reads_first(self) -> bool:
        """Whether the answer to a text is read from its first place; else from all of them."""
        return self.spec.options.get("pooling") == "first"

    @property
    def dynamic(self) -> dict[str, dict[int, str]]:
        """Which axes of each input vary."""
        return self.features.dynamic()

    def count(self) -> int:
        """Parameters."""
        return sum(one.numel() for one in self.parameters())


class Head(nn.Module):
    """From a vector (or one per token) to the outputs of the task: `logits`, `value` or `embedding`."""

    def __init__(self, width: int, task: str, features: Features) -> None:
        super().__init__()
        self.task = task
        target = features.target
        if task == "sentence-embedding":
            self.out: nn.Module = nn.Identity()
        elif task.endswith("-regression"):
            self.out = nn.Linear(width, 1)
            self.register_buffer("scale", torch.tensor([target.mean, target.std], dtype=torch.float32))
        else:
            self.out = nn.Linear(width, len(features.labels))

    def forward(self, vector: Tensor) -> dict[str, Tensor]:
        made = self.out(vector)
        if self.task == "sentence-embedding":
            return {"embedding": F.normalize(made.float(), dim=-1)}
        if self.task.endswith("-regression"):
            scale: Tensor = self.scale  # type: ignore[assignment]
            return {"value": made.float().squeeze(-1) * scale[1] + scale[0]}
        return {"logits": made}


def loss_of(
    outputs: dict[str, Tensor], batch: dict[str, Tensor], std: float = 1.0, smoothing: float = 0.0
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy for classes (of rows, tokens or spans), squared error in units of the spread for numbers."""
    if "start_logits" in outputs:
        return _span_loss(outputs, batch)
    if "labels" in batch and "logits" in outputs:
        return token_loss(outputs["logits"], batch["labels"], smoothing)
    weight = batch.get("weight")
    if "label" in batch and "logits" in outputs:
        logits = outputs["logits"].float()
        each = F.cross_entropy(logits, batch["label"], label_smoothing=smoothing, reduction="none")
        hits = (logits.detach().argmax(-1) == batch["label"]).float().mean()
        return _mean(each, weight), {"accuracy": float(hits)}
    name = next((one for one in ("value", "score") if one in outputs), "")
    if name and "target" in batch:
        apart = (outputs[name].float().reshape(-1) - batch["target"].float()) / std
        loss = _mean(apart.square(), weight)
        return loss, {"rmse": math.sqrt(max(float(loss.detach()), 0.0)) * std}
    raise BadRequest(f"No loss fits the outputs {sorted(outputs)} and the targets {sorted(batch)}.")


def token_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy over tokens; labels may be wider than the batch (they were padded for all rows)."""
    labels = labels[:, : logits.shape[1]]
    flat, wanted = logits.float().reshape(-1, logits.shape[-1]), labels.reshape(-1)
    asked = wanted != IGNORE
    count = asked.sum().clamp(min=1)
    loss = F.cross_entropy(flat, wanted, ignore_index=IGNORE, label_smoothing=smoothing, reduction="sum") / count
    hits = ((flat.detach().argmax(-1) == wanted) & asked).sum() / count
    return loss, {"accuracy": float(hits)}


def _span_loss(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    first, last = outputs["start_logits"].float(), outputs["end_logits"].float()
    loss = (F.cross_entropy(first, batch["start"]) + F.cross_entropy(last, batch["end"])) / 2
    hits = (first.detach().argmax(-1) == batch["start"]) & (last.detach().argmax(-1) == batch["end"])
    return loss, {"exact": float(hits.float().mean())}


def _mean(each: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return each.mean()
    return (each * weight).sum() / weight.sum().clamp(min=1e-12)
