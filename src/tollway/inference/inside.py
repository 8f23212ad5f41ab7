"""Why a net answers what it answers, seen from inside: gradients along a path, and where attention goes.

Integrated gradients (Sundararajan, Taly and Yan 2017): the gradient is averaged along the straight line from a baseline to
the input and multiplied by the difference. What is moved is every embedding's output and every array of floats, so one
function serves text, pictures and tables. The sum of all weights must be the answer minus the baseline's (completeness):
the gap is measured and the path is walked in finer steps where the answer jumps.
Attention rollout (Abnar and Zuidema 2020): attention matrices, averaged over heads, with the residual path added, multiplied
through the layers. It shows where the model looks, not what the answer depends on: its faithfulness is measured too.

What is looked into is an `Opened` model: the net itself in the factory, the graph of a `.pt2` file (`graph.py`) beside a replica.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tollway.inference.encoding import Arrays
from tollway.inference.explain import METHODS as OUTSIDE
from tollway.inference.masking import Cut
from tollway.kit.errors import BadRequest

POINTS, PIECES, PIECES_MAX = 8, 4, 160
GAP = 0.01  # of the difference that is explained
_TOKENS_AT_ONCE: Final = 1024  # of all points together: what a gradient needs is kept for each
_FLOATS_AT_ONCE: Final = 1_500_000
Floats = NDArray[np.float64]
Tensors = dict[str, Tensor]


class Opened(Protocol):
    """A model that can be looked into."""

    @property
    def first(self) -> bool:
        """Whether the answer is read from the first place of a text; else from all of them."""
        ...

    def recorded(self, arrays: Tensors) -> list[Tensor]:
        """What each embedding gives for these arrays, in the order of the calls; without gradients."""
        ...

    def answers(self, arrays: Tensors, moved: Sequence[Tensor]) -> Tensors:
        """The outputs, with those in the place of what the embeddings give."""
        ...

    def looks(self, arrays: Tensors) -> list[Tensor]:
        """What each layer of attention weighs, (rows, heads, places, places), first to last; none without any."""
        ...


class Path:
    """The line from the baseline's arrays to the input's: what flows out of embeddings and what flows in as floats."""

    def __init__(self, opened: Opened, arrays: Arrays, baseline: Arrays) -> None:
        self.opened = opened
        self.arrays, self.baseline = tensors(arrays), tensors(baseline)
        self.inputs = [name for name, one in self.arrays.items() if one.is_floating_point()]
        self.ends = [opened.recorded(self.baseline), opened.recorded(self.arrays)]
        twice = opened.recorded({name: one.repeat(2, *[1] * (one.dim() - 1)) for name, one in self.arrays.items()})
        # an embedding of positions has no rows: it is the same for one text and for two
        self.moves = [one.shape != other.shape for one, other in zip(self.ends[1], twice, strict=True)]
        if [one.shape for one in self.ends[0]] != [one.shape for one in self.ends[1]]:
            raise BadRequest("The baseline has another shape than the input: integrated gradients need both alike.")

    def at(self, shares: Tensor) -> tuple[list[Tensor], Tensors]:
        """Points of the line, one row each, as leaves whose gradients are wanted."""
        ends = zip(*self.ends, self.moves, strict=True)
        moved = [_between(low, high, shares) if moves else high for low, high, moves in ends]
        floats = {name: _between(self.baseline[name], self.arrays[name], shares) for name in self.inputs}
        return moved, floats

    def answers(self, moved: Sequence[Tensor], floats: Mapping[str, Tensor], rows: int) -> Tensors:
        """The outputs at points of the line."""
        held = {name: floats.get(name, one.expand(rows, *one.shape[1:])) for name, one in self.arrays.items()}
        return self.opened.answers(held, moved)

    @property
    def at_once(self) -> int:
        """How many points are walked together, so that long texts and large pictures fit into memory."""
        length = max((one.shape[1] for one in self.arrays.values() if one.dim() == 2), default=1)
        floats = max((self.arrays[name].numel() for name in self.inputs), default=1)
        return max(1, min(POINTS, _TOKENS_AT_ONCE // length, _FLOATS_AT_ONCE // floats))


def tensors(arrays: Arrays) -> Tensors:
    """Arrays as torch takes them."""
    return {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in arrays.items()}


def _between(low: Tensor, high: Tensor, shares: Tensor) -> Tensor:
    """Rows on the way from low (1, ...) to high (1, ...), as leaves."""
    steps = shares.view(-1, *[1] * (high.dim() - 1))
    return (low + steps * (high - low)).detach().requires_grad_(True)


Weights = dict[str, list[Floats]]


def integrated_gradients(
    path: Path, pick: Callable[[Tensors], Tensor], pieces_max: int = PIECES_MAX
) -> tuple[Weights, dict[str, float]]:
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
            if short > tolerance / 16 and walked + 2 * len(again) < pieces_max and piece[1] - piece[0] > 1e-6:
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


def _heights(path: Path, shares: Sequence[float], pick: Callable[[Tensors], Tensor]) -> list[float]:
    """The answer at points of the line."""
    with torch.no_grad():
        found: list[float] = []
        for start in range(0, len(shares), path.at_once):
            part = torch.tensor(shares[start : start + path.at_once], dtype=torch.float32)
            found += pick(path.answers(*path.at(part), len(part))).double().tolist()
    return found


def _walked(path: Path, low: float, high: float, pick: Callable[[Tensors], Tensor]) -> Weights:
    """One piece of the line at Gauss-Legendre points."""
    points, shares = np.polynomial.legendre.leggauss(POINTS)
    half = (high - low) / 2
    at = torch.tensor(low + half * (points + 1), dtype=torch.float32)
    weight = torch.tensor(shares * half, dtype=torch.float32)
    differences = {
        "embeddings": [high - low for low, high in zip(*path.ends, strict=True)],
        "floats": [path.arrays[name] - path.baseline[name] for name in path.inputs],
    }
    found: Weights = {name: [np.zeros(tuple(one.shape)) for one in apart] for name, apart in differences.items()}
    for start in range(0, POINTS, path.at_once):
        part = slice(start, start + path.at_once)
        slopes = _slopes(path, at[part], weight[part], pick)
        for name, apart in differences.items():
            for into, slope, one in zip(found[name], slopes[name], apart, strict=True):
                if slope is not None:
                    into += (slope * one).double().numpy()
    return found


def _slopes(
    path: Path, at: Tensor, weight: Tensor, pick: Callable[[Tensors], Tensor]
) -> dict[str, list[Tensor | None]]:
    """The weighted sum of the gradients at some points; None for what does not move, or does not matter."""
    moved, floats = path.at(at)
    leaves = [one for one in [*moved, *floats.values()] if one.requires_grad]
    score = pick(path.answers(moved, floats, len(at))).sum()
    grads = torch.autograd.grad(score, leaves, allow_unused=True) if leaves and score.requires_grad else ()
    found = dict(zip(map(id, leaves), grads, strict=False))

    def summed(point: Tensor) -> Tensor | None:
        grad = found.get(id(point))
        return None if grad is None else (grad * weight.view(-1, *[1] * (grad.dim() - 1))).sum(0, keepdim=True)

    return {"embeddings": [summed(one) for one in moved], "floats": [summed(one) for one in floats.values()]}


def picking(features: Any, target: str) -> Callable[[Tensors], Tensor]:
    """The explained number of each row: the probability of a label, the value, or the score."""
    if target in ("value", "score"):
        return lambda outputs: outputs[target].reshape(-1).float()
    place = list(features.labels).index(target)
    return lambda outputs: outputs["logits"].float().softmax(-1)[:, place]


def by_gradients(
    opened: Opened, features: Any, pieces: Cut, target: str, points: int = PIECES_MAX * POINTS
) -> tuple[Floats, dict[str, float]]:
    """Integrated gradients, gathered to the units of the cut. `points`: how many of the line may be looked at."""
    encoded = features.encode([pieces.row])[0]
    empty = features.encode([pieces.rows(np.zeros(len(pieces.units), bool))[0]])[0]
    if pieces.kind == "text":
        empty = _unsaid(encoded, features)
    path = Path(opened, features.collate([encoded]), features.collate([empty]))
    weights, checks = integrated_gradients(path, picking(features, target), max(PIECES, points // POINTS))
    if pieces.kind == "image":
        return _cells(weights["floats"][0][0].sum(axis=0), pieces), checks
    if pieces.kind == "text":
        tokens = sum(one[0].sum(axis=-1) for one in weights["embeddings"] if one.ndim == 3)
        return _words(tokens, features, pieces), checks
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


def _words(tokens: Any, features: Any, pieces: Cut) -> Floats:
    """Weights of tokens added up over the words that they lie in."""
    found = np.zeros(len(pieces.units))
    starts = {name: [unit["start"] for unit in pieces.units if unit["field"] == name] for name in ("text", "text_b")}
    for (name, low, high), weight in zip(_places(features, pieces.row), np.asarray(tokens), strict=False):
        if high > low and starts[name]:
            before = len(starts["text"]) if name == "text_b" else 0
            found[before + max(0, int(np.searchsorted(starts[name], low, side="right")) - 1)] += weight
    return found


def _places(features: Any, row: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Where each token lies: the field, and from which character to which; nowhere, for marks."""
    one = features.tokenizer.encode(str(row["text"]))
    if not features.options.get("pair"):
        return [("text", *place) for place in one.offsets]
    other = features.tokenizer.encode(str(row["text_b"]))
    if features.tokenizer.post_processor is None:  # as TextFeatures joins them, with a mark between
        room = features.max_length // 2
        first = [("text", *place) for place in one.offsets[:room]]
        return [*first, ("text", 0, 0), *(("text_b", *place) for place in other.offsets)]
    both = features.tokenizer.encode(str(row["text"]), str(row["text_b"]))
    names = ("text", "text_b")
    return [
        (names[which], *place) if which is not None else ("text", 0, 0)
        for which, place in zip(both.sequence_ids, both.offsets, strict=True)
    ]


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
        without = tensors(features.collate(features.encode(pieces.rows(mask))))
        pairs = [*zip(weights["embeddings"], path.opened.recorded(without), path.ends[1], strict=True)]
        pairs += [
            (one, without[name], path.arrays[name]) for name, one in zip(path.inputs, weights["floats"], strict=True)
        ]
        found.append(sum(float(one[(there != gone).numpy()].sum()) for one, gone, there in pairs))
    return np.array(found)


def attention(opened: Opened, features: Any, pieces: Cut) -> tuple[Floats, dict[str, Any]]:
    """Rollout from the place that is read out (the first token, or the mean of all) to each word."""
    if pieces.kind != "text":
        raise _other_method("Attention is shown for texts only.")
    arrays = tensors(features.collate(features.encode([pieces.row])))
    maps = [one[0].float().mean(0).double().numpy() for one in opened.looks(arrays)]
    if not maps:
        raise _other_method("This model has no attention to show.")
    rolled = rollout(maps)
    tokens = rolled[0] if opened.first else rolled.mean(axis=0)
    shown = [features.tokenizer.id_to_token(int(one)) for one in arrays["input_ids"][0]]
    return _words(tokens, features, pieces), {
        "tokens": shown, "rollout": np.round(rolled, 4).tolist(), "layers": len(maps)
    }  # fmt: skip


def _other_method(why: str) -> BadRequest:
    return BadRequest(why, param="method", hint=f"Choose integrated-gradients, {', '.join(OUTSIDE)}.")


def rollout(maps: Sequence[Floats]) -> Floats:
    """Layers of attention (places, places), first to last, as one matrix: each row sums to 1."""
    found = np.eye(maps[0].shape[-1])
    for one in maps:
        mixed = 0.5 * one + 0.5 * np.eye(one.shape[-1])
        found = (mixed / mixed.sum(axis=-1, keepdims=True)) @ found
    return found
