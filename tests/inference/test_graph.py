"""A `.pt2` file that is looked into gives what the net gives: its embeddings, its gradients, its attention, fused or not."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tollway.forge.convert import torch_export
from tollway.forge.convert.flat import Flat, Source
from tollway.inference import graph
from tollway.kit.errors import BadRequest

IDS = torch.tensor([[3, 7, 7, 1, 9, 2]])
GIVEN = {"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]])}


class Reader(nn.Module):
    """Words, places, fused attention that hides padding, and a value; the words' vectors are written into."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(12, 8), nn.Embedding(16, 8)
        self.mixed, self.out = nn.Linear(8, 24), nn.Linear(8, 2)

    def parts(self, vectors: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        made = self.mixed(vectors).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return made[0], made[1], made[2], (mask > 0)[:, None, None, :]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        vectors = self.words(input_ids)
        vectors.mul_(2.0)
        vectors = vectors + self.places(torch.arange(input_ids.shape[1]))
        query, key, value, seen = self.parts(vectors, attention_mask)
        states = F.scaled_dot_product_attention(query, key, value, attn_mask=seen).transpose(1, 2).flatten(2)
        return {"logits": self.out(states.mean(1))}


@pytest.fixture(scope="module")
def net() -> Reader:
    torch.manual_seed(5)
    return Reader().eval()


@pytest.fixture(scope="module")
def opened(net: Reader, tmp_path_factory: pytest.TempPathFactory) -> graph.Graph:
    return graph.opened(exported(net, tmp_path_factory.mktemp("reader") / "model.pt2", "first"), 1)


def exported(net: Reader, path: Path, reads: str) -> Path:
    names, axes = ("input_ids", "attention_mask"), {0: "rows", 1: "length"}
    example = (torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64))
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    source = Source(Flat(net, names, ("logits",)), example, names, ("logits",), dict.fromkeys(names, axes), reads)
    return torch_export.export(source, path, longest=16)


def test_embeddings_are_recorded_in_the_order_of_their_calls(net: Reader, opened: graph.Graph) -> None:
    words, places = opened.recorded(GIVEN)
    torch.testing.assert_close(words, net.words(IDS))
    torch.testing.assert_close(places, net.places(torch.arange(6)))


def test_gradients_are_the_nets(net: Reader, opened: graph.Graph) -> None:
    words, places = (one.clone().requires_grad_(True) for one in opened.recorded(GIVEN))
    (ours,) = torch.autograd.grad(opened.answers(GIVEN, [words, places])["logits"][0, 1], [words])
    leaf = net.words(IDS).clone().requires_grad_(True)
    query, key, value, seen = net.parts(leaf * 2.0 + net.places(torch.arange(6)), GIVEN["attention_mask"])
    scores = (query @ key.transpose(-1, -2) / math.sqrt(4)).masked_fill(~seen, -math.inf)
    states = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    (theirs,) = torch.autograd.grad(net.out(states.mean(1))[0, 1], [leaf])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    (look,) = opened.looks(GIVEN)
    torch.testing.assert_close(look, scores.softmax(-1).detach(), atol=1e-6, rtol=1e-4)


def test_it_is_left_as_it_was(net: Reader, opened: graph.Graph) -> None:
    before = opened.answers(GIVEN, opened.recorded(GIVEN))["logits"]
    opened.looks(GIVEN)
    torch.testing.assert_close(opened.answers(GIVEN, opened.recorded(GIVEN))["logits"], before)
    torch.testing.assert_close(before, net(**GIVEN)["logits"], atol=1e-6, rtol=1e-4)


def test_a_file_that_does_not_say_where_it_is_read_is_to_be_converted_again(
    net: Reader, opened: graph.Graph, tmp_path: Path
) -> None:
    assert opened.first
    older = graph.opened(exported(net, tmp_path / "model.pt2", ""), 1)
    with pytest.raises(BadRequest, match="does not say where") as refused:
        _ = older.first
    assert (refused.value.param, "again" in refused.value.hint) == ("method", True)


def test_an_input_that_is_missing_is_named(opened: graph.Graph) -> None:
    with pytest.raises(BadRequest, match="attention_mask"):
        opened.recorded({"input_ids": IDS})
