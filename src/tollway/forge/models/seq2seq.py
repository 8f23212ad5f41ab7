"""seq2seq: a transformer that reads one text and writes another (Vaswani et al. 2017), one vocabulary for both."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tollway.forge.models.encoder import Stack, hide
from tollway.forge.models.net import ModelSpec, Net, token_loss
from tollway.forge.models.text import word_vectors
from tollway.inference import IGNORE, Features, SequenceFeatures


class Seq2Seq(Net):
    """A reader and a writer; the writer's output shares the word vectors."""

    features: SequenceFeatures

    def __init__(self, spec: ModelSpec, features: SequenceFeatures) -> None:
        super().__init__(spec, features)
        options = spec.options
        self.embedding = word_vectors(features, int(options["width"]), options)
        width = self.embedding.embedding_dim
        if not options.get("vectors"):
            nn.init.normal_(self.embedding.weight, std=width**-0.5)
        sizes = (width, int(options["layers"]), int(options["heads"]), int(options["inner"]), features.max_length + 1)
        dropout = float(options["dropout"])
        self.reader, self.writer = Stack(*sizes, dropout), Stack(*sizes, dropout, reads=True)
        self.bias = nn.Parameter(torch.zeros(features.vocabulary_size))
        self.scale = math.sqrt(width)
        features.options["memory"] = width

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        mask = arrays["attention_mask"]
        encoded = self.reader(self.embedding(arrays["input_ids"]) * self.scale, hide(mask))
        memory, hidden = arrays.get("memory", encoded), hide(arrays.get("memory_mask", mask))
        written = arrays["decoder_input_ids"]
        places = torch.arange(written.shape[1], device=written.device)
        later = (places[None, :] > places[:, None]).float()[None, None] * -1e4
        states = self.writer(self.embedding(written) * self.scale, later, memory, hidden)
        return {"logits": F.linear(states, self.embedding.weight, self.bias), "encoded": encoded}

    def loss(self, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        return written_loss(self, batch, self.features.start_id, self.features.pad_id)

    def layers(self) -> list[nn.Module]:
        return [self.embedding, *self.reader.blocks, *self.writer.blocks]

    def example(self, rows: int = 2) -> dict[str, Tensor]:
        return super().example(rows) | remembered(self.features, rows)


def remembered(features: SequenceFeatures, rows: int) -> dict[str, Tensor]:
    """What the writing half takes, for exporters: sizes of its own, for it need not be fed what the reading half is."""
    width = int(features.options["memory"])
    return {
        "memory": torch.randn(rows + 1, 5, width, generator=torch.Generator().manual_seed(0)),
        "memory_mask": torch.ones(rows + 1, 5, dtype=torch.int64),
        "decoder_input_ids": torch.full((rows + 1, 3), features.start_id),
    }


def written_loss(net: Net, batch: dict[str, Tensor], start: int, pad: int) -> tuple[Tensor, dict[str, float]]:
    """The writer sees what it should have written up to each place and guesses the next token."""
    labels = batch["labels"]
    width = int((labels != IGNORE).sum(1).max())
    labels = labels[:, : max(width, 1)]
    before = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)
    before = before.masked_fill(before == IGNORE, pad)
    arrays = {name: batch[name] for name in ("input_ids", "attention_mask")}
    outputs = net(**arrays, decoder_input_ids=before)
    return token_loss(outputs["logits"], labels, net.label_smoothing)


def create(spec: ModelSpec, features: Features) -> Seq2Seq:
    """The network of a spec."""
    assert isinstance(features, SequenceFeatures)
    return Seq2Seq(spec, features)
