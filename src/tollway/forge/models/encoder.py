"""transformer: an encoder for texts, pre-norm, with attention as plain batched products (the fused kernel is slower on CPUs)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tollway.forge.models.net import ModelSpec
from tollway.forge.models.text import TextNet, word_vectors
from tollway.inference import Features, TextFeatures
from tollway.kit.errors import BadRequest


class Attention(nn.Module):
    """Multi-head attention. `bias` is added to the scores: a large negative number hides a place."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.head_width = width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, states: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        query, key, value = self.heads(self.query(states)), self.heads(self.key(memory)), self.heads(self.value(memory))
        scores = (query @ key.transpose(-1, -2)) / math.sqrt(self.head_width) + bias
        mixed = self.drop(scores.softmax(-1)) @ value
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def heads(self, states: Tensor) -> Tensor:
        """[rows, length, width] -> [rows, heads, length, head width]; the number of heads follows from the weights."""
        return torch.unflatten(states, -1, (-1, self.head_width)).transpose(1, 2)


class Layer(nn.Module):
    """Attention to itself, then (in a decoder) to the text that was read, then two linear layers; each added to its input."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float, reads: bool = False) -> None:
        super().__init__()
        self.attention, self.first = Attention(width, heads, dropout), nn.LayerNorm(width)
        self.reading = Attention(width, heads, dropout) if reads else None
        self.second = nn.LayerNorm(width) if reads else None
        self.grow, self.shrink, self.last = nn.Linear(width, inner), nn.Linear(inner, width), nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, states: Tensor, bias: Tensor, memory: Tensor | None = None, memory_bias: Tensor | None = None
    ) -> Tensor:
        calm = self.first(states)
        states = states + self.drop(self.attention(calm, calm, bias))
        if self.reading is not None and self.second is not None and memory is not None and memory_bias is not None:
            states = states + self.drop(self.reading(self.second(states), memory, memory_bias))
        made: Tensor = self.drop(self.shrink(F.gelu(self.grow(self.last(states)))))
        return states + made


class Stack(nn.Module):
    """Positions and layers: token vectors in, states out."""

    def __init__(
        self, width: int, layers: int, heads: int, inner: int, longest: int, dropout: float, reads: bool = False
    ):
        super().__init__()
        if width % heads:
            raise BadRequest(f"width = {width} is not divisible by heads = {heads}.", param="heads")
        self.positions = nn.Embedding(longest, width)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.blocks = nn.ModuleList(Layer(width, heads, inner or 4 * width, dropout, reads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, vectors: Tensor, bias: Tensor, memory: Tensor | None = None, memory_bias: Tensor | None = None
    ) -> Tensor:
        places = torch.arange(vectors.shape[1], device=vectors.device)
        states = self.drop(vectors + self.positions(places))
        for block in self.blocks:
            states = block(states, bias, memory, memory_bias)
        return self.norm(states)  # type: ignore[no-any-return]


def hide(mask: Tensor) -> Tensor:
    """What is added to scores so that padding is not attended to."""
    return (1.0 - mask[:, None, None, :].float()) * -1e4


class Encoder(TextNet):
    """Embedding, stack, pooling, head."""

    def __init__(self, spec: ModelSpec, features: TextFeatures) -> None:
        options = spec.options
        embedding = word_vectors(features, int(options["width"]), options)
        width = embedding.embedding_dim
        super().__init__(spec, features, width, embedding, str(options["pooling"]))
        self.scale = math.sqrt(width) if not options.get("vectors") else 1.0
        self.stack = Stack(
            width, int(options["layers"]), int(options["heads"]), int(options["inner"]), features.max_length,
            float(options["dropout"]),
        )  # fmt: skip

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.stack(self.embedding(input_ids) * self.scale, hide(attention_mask))  # type: ignore[no-any-return]

    def layers(self) -> list[nn.Module]:
        return [self.embedding, *self.stack.blocks]


def create(spec: ModelSpec, features: Features) -> Encoder:
    """The network of a spec."""
    assert isinstance(features, TextFeatures)
    return Encoder(spec, features)
