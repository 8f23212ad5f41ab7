"""two-tower and matrix-factorisation: a vector for the user, one for the item; their product (and two biases) is the score.

Number 0 is the stranger. A small share of the ids is hidden while training, so that 0 learns the average one.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tollway.forge.models.net import ModelSpec, Net
from tollway.inference import Features, PairFeatures


class Recommender(Net):
    """With `hidden` layers two towers, without them matrix factorisation (Koren et al. 2009)."""

    def __init__(self, spec: ModelSpec, features: PairFeatures) -> None:
        super().__init__(spec, features)
        options = spec.options
        users, items = features.sizes
        width, hidden = int(options["width"]), []
        if spec.architecture == "two-tower":
            hidden = [int(one) for one in options["hidden"]]
        self.user, self.item = nn.Embedding(users, width), nn.Embedding(items, width)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
        for table, spread in ((self.user, 0.05), (self.item, 0.05), (self.user_bias, 0.0), (self.item_bias, 0.0)):
            nn.init.normal_(table.weight, std=spread)
        dropout = float(options["dropout"])
        self.user_tower, self.item_tower = tower(width, hidden, dropout), tower(width, hidden, dropout)
        self.drop = nn.Dropout(dropout)
        target = features.target
        self.choosing = options["goal"] == "choice"
        self.hidden_share = float(options["unknown"])
        scale = [0.0, 1.0] if self.choosing else [target.mean, target.std]
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    def read_by_rows(self) -> list[nn.Embedding]:
        return [self.user, self.item]

    def vectors(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Of both sides, after their towers."""
        return self.user_tower(self.drop(self.user(user))), self.item_tower(self.drop(self.item(item)))

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        user, item = arrays["user"], arrays["item"]
        left, right = self.vectors(user, item)
        raw = (left * right).sum(-1) + self.user_bias(user).squeeze(-1) + self.item_bias(item).squeeze(-1)
        scale: Tensor = self.scale  # type: ignore[assignment]
        return {"score": raw.float() * scale[1] + scale[0]}

    def loss(self, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        user, item = self._some_hidden(batch["user"]), self._some_hidden(batch["item"])
        if not self.choosing:
            return super().loss({**batch, "user": user, "item": item}, turn)
        left, right = self.vectors(user, item)
        scores = left @ right.T + self.item_bias(item).squeeze(-1)
        same = item.unsqueeze(0) == item.unsqueeze(1)  # the same item further down the batch is no wrong choice
        same.fill_diagonal_(False)
        wanted = torch.arange(len(item), device=item.device)
        scores = scores.float().masked_fill(same, -1e4)
        return F.cross_entropy(scores, wanted), {"found": float((scores.detach().argmax(-1) == wanted).float().mean())}

    def _some_hidden(self, ids: Tensor) -> Tensor:
        if not self.training or not self.hidden_share:
            return ids
        return torch.where(torch.rand(ids.shape, device=ids.device) < self.hidden_share, torch.zeros_like(ids), ids)


def tower(width: int, hidden: list[int], dropout: float) -> nn.Module:
    """Layers from a vector to one of the same width; the input is carried around them."""
    if not hidden:
        return nn.Identity()
    layers: list[nn.Module] = []
    before = width
    for after in hidden:
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        before = after
    layers.append(nn.Linear(before, width))
    return Carried(nn.Sequential(*layers))


class Carried(nn.Module):
    """input + inner(input)"""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: Tensor) -> Tensor:
        return states + self.inner(states)  # type: ignore[no-any-return]


def create(spec: ModelSpec, features: Features) -> Recommender:
    """The recommender of a spec."""
    assert isinstance(features, PairFeatures)
    return Recommender(spec, features)
