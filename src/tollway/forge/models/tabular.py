"""Networks for columns: `tabular` (embeddings, residual layers) and `linear` (one weight a column, word or pixel).

Linear regression is the hello of this field. The whole of it, by gradient descent:

    for step in range(1000):
        value = numbers @ weight + bias
        apart = value - target
        weight -= rate * numbers.T @ apart / len(apart)
        bias -= rate * apart.mean()

`linear` is that model under the common loop: squared error for a number, cross-entropy for a class (logistic regression).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tollway.forge.models.net import Head, ModelSpec, Net
from tollway.inference import Features, ImageFeatures, TabularFeatures, TextFeatures

_WIDE_RATE = 5.0  # the linear part may learn so many times faster than the layers


class Columns(nn.Module):
    """Numbers and categories side by side as one vector."""

    def __init__(self, features: TabularFeatures, embedding: int) -> None:
        super().__init__()
        widths = [embedding or min(32, round(1.6 * size**0.56)) for size in features.cardinalities]
        self.tables = nn.ModuleList(
            nn.Embedding(size, width) for size, width in zip(features.cardinalities, widths, strict=True)
        )
        for table in self.tables:
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=0.1)
        self.width = sum(widths) + (features.numbers_width if features.numeric else 0)

    def forward(self, arrays: dict[str, Tensor]) -> Tensor:
        parts = [arrays["numbers"]] if "numbers" in arrays else []
        if "categories" in arrays:
            codes = arrays["categories"]
            parts += [table(codes[:, place]) for place, table in enumerate(self.tables)]
        return torch.cat(parts, dim=1)


class Residual(nn.Module):
    """Two layers around which the input is carried."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.grow, self.shrink = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        made: Tensor = self.drop(self.shrink(self.drop(F.relu(self.grow(self.norm(states))))))
        return states + made


class Wide(nn.Module):
    """One weight for each number and each category; nothing at first."""

    def __init__(self, features: TabularFeatures, outputs: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, outputs) for size in features.cardinalities)
        self.weight = nn.Linear(max(features.numbers_width if features.numeric else 0, 1), outputs)
        for one in self.parameters():
            nn.init.zeros_(one)

    def forward(self, arrays: dict[str, Tensor]) -> Tensor:
        numbers = arrays["numbers"] if "numbers" in arrays else arrays["categories"][:, :1] * 0.0
        total: Tensor = self.weight(numbers)
        for place, table in enumerate(self.tables):
            total = total + table(arrays["categories"][:, place])
        return total


class Tabular(Net):
    """Wide and deep (Cheng et al. 2016): a linear model, and residual layers on embeddings that begin at nothing. On few
    rows it stays near the linear model, which is hard to beat there; on many the layers take over."""

    def __init__(self, spec: ModelSpec, features: TabularFeatures) -> None:
        super().__init__(spec, features)
        options, dropout = spec.options, float(spec.options["dropout"])
        width, outputs = int(options["width"]), len(features.labels) or 1
        self.columns = Columns(features, int(options["embedding"]))
        self.drop = nn.Dropout(dropout)
        self.enter = nn.Linear(self.columns.width, width)
        self.blocks = nn.ModuleList(Residual(width, dropout) for _ in range(int(options["layers"])))
        self.norm = nn.LayerNorm(width)
        self.deep = nn.Linear(width, outputs)
        nn.init.zeros_(self.deep.weight)
        self.wide = Wide(features, outputs)
        self.head = Head(outputs, spec.task, features)
        self.head.out = nn.Identity()

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        states = self.enter(self.drop(self.columns(arrays)))
        for one in self.blocks:
            states = one(states)
        deep = self.deep(F.relu(self.norm(states)))
        return self.head(deep + _WIDE_RATE * self.wide(arrays))  # type: ignore[no-any-return]

    def layers(self) -> list[nn.Module]:
        return list(self.blocks)


class Linear(Net):
    """One linear layer: a weight for each number, category, word or pixel."""

    def __init__(self, spec: ModelSpec, features: Features) -> None:
        super().__init__(spec, features)
        self.drop = nn.Dropout(float(spec.options["dropout"]))
        outputs = len(features.labels) or 1
        self.columns = Wide(features, outputs) if isinstance(features, TabularFeatures) else None
        self.words: nn.Embedding | None = None
        self.weight: nn.Linear | None = None
        if isinstance(features, TextFeatures):
            self.words = nn.Embedding(features.vocabulary_size, outputs, padding_idx=features.pad_id)
            self.bias = nn.Parameter(torch.zeros(outputs))
            nn.init.zeros_(self.words.weight)
        elif isinstance(features, ImageFeatures):
            self.weight = nn.Linear(features.channels * features.size**2, outputs)
            nn.init.zeros_(self.weight.weight)
            nn.init.zeros_(self.weight.bias)
        self.head = Head(outputs, spec.task, features)
        self.head.out = nn.Identity()

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        if self.columns is not None:
            total = self.columns({name: self.drop(one) if name == "numbers" else one for name, one in arrays.items()})
        elif self.words is not None:
            ids, mask = arrays["input_ids"], arrays["attention_mask"]
            counts = mask.sum(1, keepdim=True).clamp(min=1).float().sqrt()
            total = (self.drop(self.words(ids)) * mask.unsqueeze(-1)).sum(1) / counts + self.bias
        elif self.weight is not None:
            total = self.weight(self.drop(arrays["pixel_values"].flatten(1)))
        return self.head(total)  # type: ignore[no-any-return]


def create(spec: ModelSpec, features: Features) -> Tabular:
    """The tabular network of a spec."""
    assert isinstance(features, TabularFeatures)
    return Tabular(spec, features)


def create_linear(spec: ModelSpec, features: Features) -> Linear:
    """The linear model of a spec."""
    return Linear(spec, features)
