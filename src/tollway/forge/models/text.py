"""What text models share: word vectors, pooling over a mask, the loss of sentence embeddings."""

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tollway.forge.models.net import Head, ModelSpec, Net
from tollway.inference import Features, TextFeatures
from tollway.kit.errors import BadRequest

_TEMPERATURE: Final = 0.05


class TextNet(Net):
    """Token numbers -> states (a subclass's `states`) -> one vector -> the answer; or an answer for each token."""

    def __init__(
        self, spec: ModelSpec, features: TextFeatures, width: int, embedding: nn.Embedding, pooling: str
    ) -> None:
        super().__init__(spec, features)
        self.embedding = embedding
        self.pool = Pool(width, pooling)
        self.head = Head(width, spec.task, features)
        self.drop = nn.Dropout(float(spec.options.get("dropout", 0.1)))

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[rows, length, width]."""
        raise NotImplementedError

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        mask = arrays["attention_mask"]
        states = self.states(arrays["input_ids"], mask)
        if self.spec.task == "token-classification":
            return self.head(self.drop(states))  # type: ignore[no-any-return]
        return self.head(self.drop(self.pool(states, mask)))  # type: ignore[no-any-return]

    def loss(self, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        if self.spec.task == "sentence-embedding":
            return pair_loss(self, batch)
        return super().loss(batch, turn)

    def read_by_rows(self) -> list[nn.Embedding]:
        return [self.embedding]


class Pool(nn.Module):
    """States to one vector, padding left out: mean, max, first, last, or a learnt attention."""

    def __init__(self, width: int, way: str) -> None:
        super().__init__()
        self.way = way
        self.score = nn.Linear(width, 1) if way == "attention" else None

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        there = mask.unsqueeze(-1).to(states.dtype)
        if self.way == "max":
            return (states + (there - 1.0) * 1e4).amax(1)
        if self.way == "first":
            return states[:, 0]
        if self.way == "last":
            last = (mask.sum(1) - 1).clamp(min=0)
            return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2])).squeeze(1)
        if self.score is not None:
            weights = (self.score(states).float() + (there.float() - 1.0) * 1e4).softmax(1)
            return torch.sum(states * weights.to(states.dtype), 1)
        return torch.sum(states * there, 1) / there.sum(1).clamp(min=1.0)


def pair_loss(net: Net, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Sentence embeddings. Pairs with a `target`: cosine against it. Pairs alone: each text must find its partner in the
    batch (InfoNCE). Texts alone: its partner is itself under another dropout (SimCSE, Gao et al. 2021)."""
    one = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    other = one
    if "input_ids_b" in batch:
        other = {"input_ids": batch["input_ids_b"], "attention_mask": batch["attention_mask_b"]}
    left, right = net(**one)["embedding"], net(**other)["embedding"]
    if "target" in batch:
        apart = (left * right).sum(-1) - batch["target"].float()
        loss = apart.square().mean()
        return loss, {"rmse": float(loss.detach().sqrt())}
    scores = left @ right.T / _TEMPERATURE
    wanted = torch.arange(len(scores), device=scores.device)
    return F.cross_entropy(scores, wanted), {"found": float((scores.detach().argmax(-1) == wanted).float().mean())}


def word_vectors(features: Features, width: int, options: dict[str, object]) -> nn.Embedding:
    """An embedding for the vocabulary: fresh, or read from a file of pre-trained vectors."""
    if not isinstance(features, TextFeatures):
        raise BadRequest(f"A text model cannot read {features.kind} features.")
    path = str(options.get("vectors") or "")
    if not path:
        embedding = nn.Embedding(features.vocabulary_size, width, padding_idx=features.pad_id)
        nn.init.normal_(embedding.weight, std=0.1)
    else:
        from tollway.forge.models import vectors

        found = vectors.read(Path(path), features.words())
        embedding = nn.Embedding(features.vocabulary_size, found.width, padding_idx=features.pad_id)
        spread = found.spread
        nn.init.normal_(embedding.weight, std=spread)
        with torch.no_grad():
            embedding.weight[torch.from_numpy(found.places)] = torch.from_numpy(found.rows)
        embedding.missing_share = found.missing_share  # type: ignore[assignment]  # told in the run's notes
        if options.get("freeze_vectors"):
            embedding.weight.requires_grad_(False)
    with torch.no_grad():
        embedding.weight[features.pad_id] = 0
    return embedding
