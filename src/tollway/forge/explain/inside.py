"""Why a net answers what it answers, seen from inside: gradients along a path, and where attention goes.

Integrated gradients (Sundararajan, Taly and Yan 2017): the gradient is averaged along the straight line from a baseline to
the input and multiplied by the difference. What is moved is every embedding's output and every array of floats, so one
function serves text, pictures and tables. The sum of all weights must be the answer minus the baseline's (completeness):
the gap is measured and the path is walked in finer steps where the answer jumps.
Attention rollout (Abnar and Zuidema 2020): attention matrices, averaged over heads, with the residual path added, multiplied
through the layers. It shows where the model looks, not what the answer depends on: its faithfulness is measured too.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tollway.inference import explain as outside
from tollway.inference.masking import Cut
from tollway.kit.errors import BadRequest

POINTS, PIECES, PIECES_MAX = 8, 4, 160
GAP = 0.01  # of the difference that is explained
Floats = NDArray[np.float64]


class Path:
    """The line from the baseline's arrays to the input's: what flows out of embeddings and what flows in as floats."""

    def __init__(self, net: Any, arrays: Mapping[str, Any], baseline: Mapping[str, Any]) -> None:
        self.net = net.eval()
        self.arrays = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in arrays.items()}
        self.baseline = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in baseline.items()}
        self.calls: list[Tensor] = []
        self.tables = [one for one in self.net.modules() if isinstance(one, nn.Embedding)]
        self.inputs = [name for name, one in self.arrays.items() if one.is_floating_point()]
        self.ends = [self.recorded(self.baseline), self.recorded(self.arrays)]
        twice = self.recorded({name: one.repeat(2, *[1] * (one.dim() - 1)) for name, one in self.arrays.items()})
        # an embedding of positions has no rows: it is the same for one text and for two
        self.moves = [one.shape != other.shape for one, other in zip(self.ends[1], twice, strict=True)]
        if [one.shape for one in self.ends[0]] != [one.shape for one in self.ends[1]]:
            raise BadRequest("The baseline has another shape than the input: integrated gradients need both alike.")

    def recorded(self, arrays: Mapping[str, Tensor]) -> list[Tensor]:
        """What each embedding gives for these arrays, in the order of the calls."""
        found: list[Tensor] = []
        with _hooked(self.tables, lambda given: found.append(given.detach())), torch.no_grad():
            self.net(**arrays)
        return found

    def at(self, shares: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Points of the line, one row each, as leaves whose gradients are wanted."""
        ends = zip(*self.ends, self.moves, strict=True)
        moved = [_between(low, high, shares) if moves else high for low, high, moves in ends]
        floats = {name: _between(self.baseline[name], self.arrays[name], shares) for name in self.inputs}
        return moved, floats

    def answers(self, moved: Sequence[Tensor], floats: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
        """The net's outputs with the embeddings' outputs replaced."""
        queue = list(moved)
        held = {name: floats.get(name, one.expand(rows, *one.shape[1:])) for name, one in self.arrays.items()}
        with _hooked(self.tables, lambda given: queue.pop(0)):
            outputs: dict[str, Tensor] = self.net(**held)
        return outputs


@contextmanager
def _hooked(modules: Sequence[nn.Module], change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    handles = [one.register_forward_hook(lambda _module, _inputs, given: change(given)) for one in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _between(low: Tensor, high: Tensor, shares: Tensor) -> Tensor:
    """Rows on the way from low (1, ...) to high (1, ...), as leaves."""
    steps = shares.view(-1, *[1] * (high.dim() - 1))
    return (low + steps * (high - low)).detach().requires_grad_(True)


Weights = dict[str, list[Floats]]


def integrated_gradients(path: Path, pick: Callable[[dict[str, Tensor]], Tensor]) -> tuple[Weights, dict[str, float]]:
    """Weights of every moved thing: `embeddings` (one array per call) and `floats` (one per name), and the gap.

    The line is cut into pieces; a piece whose weights do not add up to what the answer does over it is cut in two, so the
    path is walked finely where the answer jumps and quickly where it does not.
    """
    ends = np.linspace(0, 1, PIECES + 1)
    pieces = list(itertools.pairwise(ends))
    base, whole = _heights(path, [0.0, 1.0], pick)
    tolerance = GAP * max(abs(whole - base), 1e-2)
    kept: list[Weights] = []
    walked = 0
    while pieces:
        made = [_walked(path, low, high, pick) for low, high in pieces]
        walked += len(pieces)
        heights = _heights(path, [end for piece in pieces for end in piece], pick)
        again: list[tuple[float, float]] = []
        for at, (piece, weights) in enumerate(zip(pieces, made, strict=True)):
            short = abs(_total(weights) - (heights[2 * at + 1] - heights[2 * at]))
            if short > tolerance / 16 and walked + 2 * len(again) < PIECES_MAX and piece[1] - piece[0] > 1e-6:
                middle = (piece[0] + piece[1]) / 2
                again += [(piece[0], middle), (middle, piece[1])]
            else:
                kept.append(weights)
        pieces = again
    weights = {
        name: [np.sum(group, axis=0) for group in zip(*(one[name] for one in kept), strict=True)] for name in kept[0]
    }
    gap = abs(_total(weights) - (whole - base))
    return weights, {"completeness_gap": gap, "points": float(walked * POINTS), "value": whole, "base": base}


def _total(weights: Weights) -> float:
    return sum(float(one.sum()) for group in weights.values() for one in group)


def _heights(path: Path, shares: Sequence[float], pick: Callable[[dict[str, Tensor]], Tensor]) -> list[float]:
    """The answer at points of the line."""
    with torch.no_grad():
        found: list[float] = []
        for start in range(0, len(shares), 32):
            part = torch.tensor(shares[start : start + 32], dtype=torch.float32)
            found += pick(path.answers(*path.at(part), len(part))).double().tolist()
    return found


def _walked(path: Path, low: float, high: float, pick: Callable[[dict[str, Tensor]], Tensor]) -> Weights:
    """One piece of the line at Gauss-Legendre points."""
    points, shares = np.polynomial.legendre.leggauss(POINTS)
    half = (high - low) / 2
    at = torch.tensor(low + half * (points + 1), dtype=torch.float32)
    weight = torch.tensor(shares * half, dtype=torch.float32)
    moved, floats = path.at(at)
    leaves = [one for one in [*moved, *floats.values()] if one.requires_grad]
    score = pick(path.answers(moved, floats, POINTS)).sum()
    grads = torch.autograd.grad(score, leaves, allow_unused=True) if leaves else ()
    found = dict(zip(map(id, leaves), grads, strict=True))
    differences = {
        "embeddings": [high - low for low, high in zip(*path.ends, strict=True)],
        "floats": [path.arrays[name] - path.baseline[name] for name in path.inputs],
    }
    return {
        name: [
            (_weighted(found.get(id(one)), one, weight) * apart).double().numpy()
            for one, apart in zip(group, differences[name], strict=True)
        ]
        for name, group in (("embeddings", moved), ("floats", list(floats.values())))
    }


def _weighted(grad: Tensor | None, point: Tensor, weight: Tensor) -> Tensor:
    if grad is None:
        return torch.zeros_like(point) if not point.requires_grad else torch.zeros_like(point[:1])
    return (grad * weight.view(-1, *[1] * (grad.dim() - 1))).sum(0, keepdim=True)


def picking(features: Any, target: str) -> Callable[[dict[str, Tensor]], Tensor]:
    """The explained number of each row: the probability of a label, the value, or the score."""
    if target in ("value", "score"):
        return lambda outputs: outputs[target].reshape(-1).float()
    place = list(features.labels).index(target)
    return lambda outputs: outputs["logits"].float().softmax(-1)[:, place]


def by_gradients(predictor: Any, pieces: Cut, target: str) -> tuple[Floats, dict[str, float]]:
    """Integrated gradients of a TorchPredictor, gathered to the units of the cut."""
    features = predictor.features
    encoded = features.encode([pieces.row])[0]
    empty = features.encode([pieces.rows(np.zeros(len(pieces.units), bool))[0]])[0]
    if pieces.kind == "text":
        empty = _unsaid(encoded, features)
    path = Path(predictor.net, features.collate([encoded]), features.collate([empty]))
    weights, checks = integrated_gradients(path, picking(features, target))
    if pieces.kind == "image":
        return _cells(weights["floats"][0][0].sum(axis=0), pieces), checks
    if pieces.kind == "text":
        tokens = sum(one[0].sum(axis=-1) for one in weights["embeddings"] if one.ndim == 3)
        return _words(tokens, predictor, pieces), checks
    return _fields(weights, path, features, pieces), checks


def _unsaid(encoded: Mapping[str, Any], features: Any) -> dict[str, Any]:
    """The same length with nothing said: a masked or unknown word in every place but the marks that frame a text.

    Not padding: its vector is zero, and the normalisation that follows jumps there, which no number of steps can follow.
    """
    tokenizer = features.tokenizer
    marks = {tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "<s>", "</s>")} - {None}
    masks = (tokenizer.token_to_id(name) for name in ("[MASK]", "<mask>"))
    blank = next((one for one in masks if one is not None), features.unknown_id)
    ids = encoded["input_ids"]
    return {**encoded, "input_ids": np.where(np.isin(ids, list(marks)), ids, blank)}


def _words(tokens: Any, predictor: Any, pieces: Cut) -> Floats:
    """Weights of tokens added up over the words that they lie in."""
    text = str(pieces.row["text"])
    offsets = predictor.features.tokenizer.encode(text).offsets
    found = np.zeros(len(pieces.units))
    starts = np.array([unit["start"] for unit in pieces.units])
    for (low, high), weight in zip(offsets, np.asarray(tokens), strict=False):
        if high > low:
            found[max(0, int(np.searchsorted(starts, low, side="right")) - 1)] += weight
    return found


def _cells(pixels: Floats, pieces: Cut) -> Floats:
    """Weights of pixels added up over the cells, whatever size the model scaled the picture to."""
    assert pieces.pixels is not None
    tall, wide = pieces.pixels.shape[:2]
    rows = (np.arange(pixels.shape[0]) + 0.5) * tall / pixels.shape[0]
    columns = (np.arange(pixels.shape[1]) + 0.5) * wide / pixels.shape[1]
    found = []
    for unit in pieces.units:
        left, top, right, bottom = unit["box"]
        inside = np.ix_((rows >= top) & (rows < bottom), (columns >= left) & (columns < right))
        found.append(pixels[inside].sum())
    return np.array(found)


def _fields(weights: Weights, path: Path, features: Any, pieces: Cut) -> Floats:
    """Weights added up by column: what changes in the net's inputs when a column is taken away belongs to it."""
    found = []
    for unit in range(len(pieces.units)):
        mask = np.ones(len(pieces.units), dtype=bool)
        mask[unit] = False
        without = features.collate(features.encode(pieces.rows(mask)))
        tensors = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in without.items()}
        pairs = [*zip(weights["embeddings"], path.recorded(tensors), path.ends[1], strict=True)]
        pairs += [
            (one, tensors[name], path.arrays[name]) for name, one in zip(path.inputs, weights["floats"], strict=True)
        ]
        found.append(sum(float(one[(there != gone).numpy()].sum()) for one, gone, there in pairs))
    return np.array(found)


def attention(predictor: Any, pieces: Cut) -> tuple[Floats, dict[str, Any]]:
    """Rollout from the place that is read out (the first token, or the mean of all) to each word."""
    maps = attention_maps(predictor, pieces.row)
    rolled = rollout(maps)
    pooled = getattr(predictor.net, "pooling", "") or str(predictor.net.spec.options.get("pooling", ""))
    first = (
        pooled == "first"
        or (not pooled and getattr(predictor.net, "hf", None) is not None)
        or _reads_first(predictor.net)
    )
    tokens = rolled[0] if first else rolled.mean(axis=0)
    weights = _words(tokens, predictor, pieces)
    shown = [str(token) for token in predictor.features.tokenizer.encode(str(pieces.row["text"])).tokens]
    return weights, {"tokens": shown, "rollout": np.round(rolled, 4).tolist(), "layers": len(maps)}


def _reads_first(net: Any) -> bool:
    return getattr(net, "hf", None) is not None and net.spec.task != "sentence-embedding"


def rollout(maps: Sequence[Floats]) -> Floats:
    """Layers of attention (places, places), first to last, as one matrix: each row sums to 1."""
    found = np.eye(maps[0].shape[-1])
    for one in maps:
        mixed = 0.5 * one + 0.5 * np.eye(one.shape[-1])
        found = (mixed / mixed.sum(axis=-1, keepdims=True)) @ found
    return found


def attention_maps(predictor: Any, row: Mapping[str, Any]) -> list[Floats]:
    """Each layer's attention, averaged over heads. Raises BadRequest for a net without any."""
    net = predictor.net.eval()
    arrays = predictor.features.collate(predictor.features.encode([row]))
    tensors = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in arrays.items()}
    with torch.no_grad():
        hf = getattr(net, "hf", None)
        if hf is not None:
            found = getattr(hf(**tensors, output_attentions=True), "attentions", None) or ()
            maps = [one[0].float().mean(0).double().numpy() for one in found if one is not None]
        else:
            maps = _own_maps(net, tensors)
    if not maps:
        raise BadRequest("This model has no attention to show.", hint=f"Choose one of {', '.join(outside.METHODS)}.")
    return maps


def _own_maps(net: Any, tensors: Mapping[str, Tensor]) -> list[Floats]:
    """Of our own encoder: its attention drops out a matrix of weights, which in evaluation passes unchanged."""
    found: list[Floats] = []
    layers = [
        one
        for one in net.modules()
        if hasattr(one, "head_width") and isinstance(getattr(one, "drop", None), nn.Dropout)
    ]

    def keep(_module: nn.Module, _inputs: Any, given: Tensor) -> None:
        found.append(given[0].float().mean(0).double().numpy())

    handles = [one.drop.register_forward_hook(keep) for one in layers]
    try:
        net(**tensors)
    finally:
        for handle in handles:
            handle.remove()
    return [one for one in found if one.shape[0] == one.shape[1]]
