"""Recurrent networks for texts: rnn, gru, lstm, bilstm.

The backward direction reads each row from its own end (not from the padding), by reversing rows in place of packing
them: the answer to a row is the same alone and in a batch, and every exporter understands the graph.
"""

from typing import Final

import torch
from torch import Tensor, nn

from tollway.forge.models.net import ModelSpec
from tollway.forge.models.text import TextNet, word_vectors
from tollway.inference import Features, TextFeatures

_FAR: Final = 100.0  # sigmoid of it is 1 in float32


class Plain(nn.RNN):
    """A plain recurrent layer. Where it does not learn it runs as gated units whose gates stand still (reset open, update
    shut), which is the same function: exporters know gated units, but would unroll a plain layer to one fixed length."""

    def forward(self, states: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        if self.training:
            return super().forward(states, start)
        into, back, bias, other = (one.detach() for one in self.all_weights[0])
        still = torch.full_like(bias, _FAR)
        none, square = torch.zeros_like(into), torch.zeros_like(back)
        gates = [
            torch.cat([none, none, into]), torch.cat([square, square, back]),
            torch.cat([still, -still, bias]), torch.cat([0 * still, 0 * still, other]),
        ]  # fmt: skip
        begin = torch.zeros(1, states.shape[0], self.hidden_size, dtype=states.dtype, device=states.device)
        return torch.gru(states, begin, gates, True, 1, 0.0, False, False, True)


_CELLS: Final = {"rnn": Plain, "gru": nn.GRU, "lstm": nn.LSTM, "bilstm": nn.LSTM}


class Recurrent(TextNet):
    """Embedding, recurrent layers, pooling, head."""

    def __init__(self, spec: ModelSpec, features: TextFeatures) -> None:
        options = spec.options
        embedding = word_vectors(features, int(options["embedding"]), options)
        self.both = spec.architecture == "bilstm"
        width = int(options["width"])
        super().__init__(spec, features, width * (2 if self.both else 1), embedding, str(options["pooling"]))
        cell = _CELLS[spec.architecture]
        fan_in = embedding.embedding_dim
        self.forwards, self.backwards = nn.ModuleList(), nn.ModuleList()
        for _ in range(int(options["layers"])):
            self.forwards.append(cell(fan_in, width, batch_first=True))
            if self.both:
                self.backwards.append(cell(fan_in, width, batch_first=True))
            fan_in = width * (2 if self.both else 1)

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self.drop(self.embedding(input_ids))
        turned = reversal(attention_mask) if self.both else None
        there = attention_mask.unsqueeze(-1).to(states.dtype)
        for number, forwards in enumerate(self.forwards):
            if number:
                states = self.drop(states) * there  # exporters fix the length of two layers with nothing in between
            out = run(forwards, states)
            if turned is not None:
                back = run(self.backwards[number], flip(states, turned))
                out = torch.cat([out, flip(back, turned)], dim=-1)
            states = out
        return states

    def layers(self) -> list[nn.Module]:
        return [self.embedding, *self.forwards]


def run(layer: nn.Module, states: Tensor) -> Tensor:
    """All states of a layer. A gated layer gets its first state: exporters then keep the length open."""
    if isinstance(layer, (nn.GRU, nn.LSTM)):
        begin = torch.zeros(1, states.shape[0], layer.hidden_size, dtype=states.dtype, device=states.device)
        return layer(states, (begin, begin) if isinstance(layer, nn.LSTM) else begin)[0]  # type: ignore[no-any-return]
    return layer(states)[0]  # type: ignore[no-any-return]


def reversal(mask: Tensor) -> Tensor:
    """Where each place of a row comes from when its true part is turned round; padding stays."""
    places = torch.arange(mask.shape[1], device=mask.device).unsqueeze(0)
    lengths = mask.sum(1, keepdim=True)
    return torch.where(places < lengths, lengths - 1 - places, places)


def flip(states: Tensor, places: Tensor) -> Tensor:
    return states.gather(1, places.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


def create(spec: ModelSpec, features: Features) -> Recurrent:
    """The network of a spec."""
    assert isinstance(features, TextFeatures)
    return Recurrent(spec, features)
