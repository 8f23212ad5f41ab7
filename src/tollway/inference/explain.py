"""Why a model answers what it answers, seen from outside: parts of the input are taken away and the answer is watched.

    found = explain.explain(predictor, {"text": "a lovely film"}, "shap")
    found.units        # [{"text": "lovely ", "start": 2, "end": 9, "weight": 0.61}, ...]

Needs nothing but `predict`, so it works on every format and in the replica: numpy only.
shap: Shapley values; all coalitions when there are few units, else Kernel SHAP (Lundberg and Lee 2017) with its constraint,
so that the weights add up to the answer minus the empty answer. permutation: the same by antithetic permutations (Castro et
al. 2009). lime: a local weighted ridge fit (Ribeiro et al. 2016, kernel width 25). occlusion: what is lost without a unit.
Faithfulness is measured: deletion and insertion curves (Petsiuk et al. 2018) against random orders.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tollway.inference.masking import Cut, cut
from tollway.kit.errors import BadRequest

METHODS: Final = ("shap", "permutation", "lime", "occlusion")
INSIDE: Final = ("integrated-gradients", "attention")
"""What has to look inside the model (`inside.py`): torch, and a net or a `.pt2` file."""
BUDGET: Final = 600  # inputs that one explanation may ask the model about
CURVE_POINTS: Final = 12
RANDOM_ORDERS: Final = 6

Floats = NDArray[np.float64]
Masks = NDArray[np.bool_]


class Predictor(Protocol):
    """Anything that answers rows."""

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]: ...


@dataclass
class Explanation:
    """One answer explained. `units` carry the weight of each part of the input for the target."""

    method: str
    kind: str  # text | image | tabular
    target: str  # the label, or "value" / "score"
    value: float  # the answer for the whole input
    base: float  # the answer for nothing
    units: list[dict[str, Any]]
    evaluations: int = 0
    checks: dict[str, float] = field(default_factory=dict)
    faithfulness: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: what `/v1/explain` answers."""
        return {name: value for name, value in asdict(self).items() if value not in ({}, None)}


class Game:
    """The input as a game of its units: `values(masks)` is the answer with only the units of each mask present."""

    def __init__(self, predictor: Predictor, pieces: Cut, target: str | None = None) -> None:
        self.predictor, self.pieces = predictor, pieces
        self.units = len(pieces.units)
        self._seen: dict[bytes, float] = {}
        answer = predictor.predict([pieces.row])[0]
        self.target = chosen(answer, target)

    @property
    def evaluations(self) -> int:
        return len(self._seen) * self.pieces.rows_each

    def values(self, masks: Masks) -> Floats:
        """One number per mask; each mask is asked about once, all new ones together."""
        masks = np.atleast_2d(masks)
        keys = [mask.tobytes() for mask in masks]
        new = {key: mask for key, mask in zip(keys, masks, strict=True) if key not in self._seen}
        if new:
            each = self.pieces.rows_each
            rows = [row for mask in new.values() for row in self.pieces.rows(mask)]
            scores = [score(answer, self.target) for answer in self.predictor.predict(rows)]
            means = np.asarray(scores, dtype=np.float64).reshape(-1, each).mean(axis=1)
            self._seen.update(zip(new, means.tolist(), strict=True))
        return np.array([self._seen[key] for key in keys])

    def ends(self) -> tuple[float, float]:
        """The answer for nothing and for everything."""
        nothing, everything = self.values(np.stack([np.zeros(self.units, bool), np.ones(self.units, bool)]))
        return float(nothing), float(everything)


def explain(
    predictor: Predictor, row: Mapping[str, Any], method: str = "shap", *, target: str | None = None, budget: int = BUDGET,
    seed: int = 0, background: Sequence[Mapping[str, Any]] = (), measure: bool = True,
) -> Explanation:  # fmt: skip
    """Explain one answer. `background` rows stand in for absent columns of a table; without them absent means missing."""
    way = WAYS.get(method)
    if way is None:
        raise BadRequest(f"There is no method {method!r}.", param="method", hint=f"Choose one of {', '.join(METHODS)}.")
    game = Game(predictor, cut(predictor, row, background), target)
    weights, checks = way(game, np.random.default_rng(seed), budget)
    base, value = game.ends()
    units = [{**unit, "weight": float(weight)} for unit, weight in zip(game.pieces.units, weights, strict=True)]
    found = Explanation(method, game.pieces.kind, game.target, value, base, units, checks=checks)
    if measure and game.units > 1:
        found.faithfulness = faithfulness(game.values, weights, np.random.default_rng(seed))
    found.evaluations = game.evaluations
    return found


def from_inside(
    game: Game, method: str, seen: Sequence[float] | Floats, checks: Mapping[str, float], extra: Mapping[str, Any],
    seed: int = 0,
) -> Explanation:  # fmt: skip
    """What was seen inside the model, held against its answers. Gradients say themselves what they add up to."""
    base, value = game.ends()
    weights, told = np.asarray(seen, dtype=np.float64), dict(checks)
    if "value" in told:
        told["served_difference"] = abs(
            value - told["value"]
        )  # rounding may part what answers from what was looked into
        base, value = told.pop("base"), told.pop("value")
    units = [{**unit, "weight": float(weight)} for unit, weight in zip(game.pieces.units, weights, strict=True)]
    found = Explanation(
        method, game.pieces.kind, game.target, value, base, units, checks=told, extra=dict(extra)
    )  # fmt: skip
    if game.units > 1:
        found.faithfulness = faithfulness(game.values, weights, np.random.default_rng(seed))
    found.evaluations = game.evaluations
    return found


def chosen(answer: Mapping[str, Any], target: str | None) -> str:
    """What is explained: the label asked for, the label given, or the number. Raises BadRequest."""
    if answer.get("scores"):
        labels = ", ".join(map(str, answer["scores"]))
        if target is not None and target not in answer["scores"]:
            raise BadRequest(f"{target!r} is not one of the labels.", param="target", hint=f"Labels: {labels}.")
        return str(target if target is not None else answer["label"])
    written = "text" in answer or "answer" in answer  # its score is of whatever text comes out: another one each time
    for name in () if written else ("value", "score"):
        if isinstance(answer.get(name), (int, float)):
            return name
    raise BadRequest("Answers of this kind cannot be explained.", hint="Classes, numbers and scores can.")


def score(answer: Mapping[str, Any], target: str) -> float:
    """The explained number of an answer."""
    scores = answer.get("scores")
    return float(scores[target] if scores else answer[target])


def occlusion(game: Game, rng: np.random.Generator, budget: int) -> tuple[Floats, dict[str, float]]:
    """Leave one out."""
    without = ~np.eye(game.units, dtype=bool)
    _, whole = game.ends()
    return whole - game.values(without), {}


def shap(game: Game, rng: np.random.Generator, budget: int) -> tuple[Floats, dict[str, float]]:
    """Shapley values, exact for few units."""
    n = game.units
    base, whole = game.ends()
    if n == 1:
        return np.array([whole - base]), {"additivity_gap": 0.0}
    weights = exact_shapley(game) if 2**n <= max(budget, 16) else kernel_shap(game, rng, budget)
    return weights, {
        "additivity_gap": float(abs(weights.sum() - (whole - base))),
        "exact": float(2**n <= max(budget, 16)),
    }


def exact_shapley(game: Game) -> Floats:
    """The definition: the mean marginal contribution over all orders, from all 2^n coalitions."""
    n = game.units
    masks = np.array(list(itertools.product([False, True], repeat=n)))
    values = game.values(masks)
    place = 2 ** np.arange(n - 1, -1, -1)
    sizes = masks.sum(axis=1)
    share = np.array([1 / (n * math.comb(n - 1, size)) for size in range(n)])
    found = np.zeros(n)
    for unit in range(n):
        absent = np.flatnonzero(~masks[:, unit])
        found[unit] = (share[sizes[absent]] * (values[absent + place[unit]] - values[absent])).sum()
    return found


def kernel_shap(game: Game, rng: np.random.Generator, budget: int) -> Floats:
    """Weighted least squares over coalitions, constrained so that the weights add up."""
    n = game.units
    base, whole = game.ends()
    masks, weights = coalitions(n, max(budget, 2 * n), rng)
    left = game.values(masks) - base
    design = masks.astype(np.float64)
    # eliminate the last unit by the constraint sum(w) = whole - base
    reduced, target = design[:, :-1] - design[:, -1:], left - design[:, -1] * (whole - base)
    root = np.sqrt(weights)[:, None]
    solved, *_ = np.linalg.lstsq(reduced * root, target * root[:, 0], rcond=1e-10)
    return np.append(solved, whole - base - solved.sum())


def coalitions(n: int, budget: int, rng: np.random.Generator) -> tuple[Masks, Floats]:
    """Coalitions and their Shapley kernel weights: whole sizes while they fit, the rest drawn, always with complements."""
    sizes = np.arange(1, n)
    kernel = (n - 1) / (sizes * (n - sizes))
    kernel = kernel / kernel.sum()
    masks: list[Masks] = []
    weights: list[Floats] = []
    left, mass, low = budget, 1.0, 1
    while low <= n - low:
        both = [low] if low == n - low else [low, n - low]
        count, share = sum(math.comb(n, size) for size in both), float(sum(kernel[size - 1] for size in both))
        if (count > left * share / max(mass, 1e-12) * 1.0001 and low > 1) or count > left:
            break
        for size in both:
            block = np.zeros((math.comb(n, size), n), dtype=bool)
            for at, members in enumerate(itertools.combinations(range(n), size)):
                block[at, list(members)] = True
            masks.append(block)
            weights.append(np.full(len(block), kernel[size - 1] / len(block)))
        left, mass, low = left - count, mass - share, low + 1
    if low <= n - low and left >= 2:
        drawn = _drawn(n, low, left // 2, kernel, rng)
        masks += [drawn, ~drawn]
        weights.append(np.full(2 * len(drawn), mass / (2 * len(drawn))))
    return np.concatenate(masks), np.concatenate(weights)


def _drawn(n: int, low: int, count: int, kernel: Floats, rng: np.random.Generator) -> Masks:
    sizes = np.arange(low, n - low + 1)
    chance = kernel[sizes - 1] / kernel[sizes - 1].sum()
    picked = rng.choice(sizes, size=count, p=chance)
    order = rng.random((count, n)).argsort(axis=1).argsort(axis=1)
    return np.asarray(order < picked[:, None])


def permutation(game: Game, rng: np.random.Generator, budget: int) -> tuple[Floats, dict[str, float]]:
    """Mean marginal contributions over random orders, each walked forwards and backwards."""
    n = game.units
    rounds = max(1, budget // (2 * n))
    found, walks = np.zeros(n), 0
    for _ in range(rounds):
        order = rng.permutation(n)
        for one in (order, order[::-1]):
            masks = np.zeros((n + 1, n), dtype=bool)
            for step, unit in enumerate(one):
                masks[step + 1 :, unit] = True
            found[one] += np.diff(game.values(masks))
            walks += 1
    base, whole = game.ends()
    weights = found / walks
    return weights, {"additivity_gap": float(abs(weights.sum() - (whole - base)))}


def lime(game: Game, rng: np.random.Generator, budget: int) -> tuple[Floats, dict[str, float]]:
    """A ridge fit around the input; `fit` is its weighted R2: below about 0.5 the picture it gives is not the model's."""
    n = game.units
    masks = np.ones((budget, n), dtype=bool)
    removed = rng.integers(1, n + 1, size=budget - 1)
    masks[1:] = rng.random((budget - 1, n)).argsort(axis=1).argsort(axis=1) >= removed[:, None]
    values = game.values(masks)
    distance = 100 * (1 - np.sqrt(masks.mean(axis=1)))
    weights = np.sqrt(np.exp(-(distance**2) / 25**2))
    design = masks.astype(np.float64)
    centre, level = np.average(design, axis=0, weights=weights), np.average(values, weights=weights)
    x, y = design - centre, values - level
    solved = np.linalg.solve((x * weights[:, None]).T @ x + np.eye(n), (x * weights[:, None]).T @ y)
    error, total = (weights * (y - x @ solved) ** 2).sum(), (weights * y**2).sum()
    return solved, {"fit": float(1 - error / total) if total > 1e-18 else 1.0}


def faithfulness(values: Callable[[Masks], Floats], weights: Floats, rng: np.random.Generator) -> dict[str, Any]:
    """Deletion (lower is better) and insertion (higher is better) areas of this order, and of random ones.

    `gain` = how much better than random, both curves together: above 0 the weights say something true about the model.
    """
    n = len(weights)
    steps = np.unique(np.round(np.linspace(0, n, min(n, CURVE_POINTS) + 1)).astype(int))
    ours = np.argsort(-weights, kind="stable")
    orders = [ours] + [rng.permutation(n) for _ in range(RANDOM_ORDERS)]
    masks = np.stack([_curve(order, steps, n) for order in orders])  # order, insertion|deletion, step, unit
    curves = values(masks.reshape(-1, n)).reshape(len(orders), 2, len(steps))
    area = ((curves[:, :, 1:] + curves[:, :, :-1]) / 2 * np.diff(steps)).sum(axis=2) / n
    insertion, deletion = area[0]
    random_insertion, random_deletion = area[1:].mean(axis=0)
    return {
        "insertion": float(insertion), "insertion_random": float(random_insertion),
        "deletion": float(deletion), "deletion_random": float(random_deletion),
        "gain": float((insertion - random_insertion) + (random_deletion - deletion)),
        "steps": [float(step / n) for step in steps], "insertion_curve": curves[0, 0].tolist(), "deletion_curve": curves[0, 1].tolist(),
        "insertion_curve_random": curves[1:, 0].mean(axis=0).tolist(), "deletion_curve_random": curves[1:, 1].mean(axis=0).tolist(),
    }  # fmt: skip


def _curve(order: NDArray[Any], steps: NDArray[Any], n: int) -> Masks:
    inserted = np.zeros((len(steps), n), dtype=bool)
    for at, step in enumerate(steps):
        inserted[at, order[:step]] = True
    return np.stack([inserted, ~inserted])


WAYS: Final[dict[str, Callable[[Game, np.random.Generator, int], tuple[Floats, dict[str, float]]]]] = {
    "shap": shap, "permutation": permutation, "lime": lime, "occlusion": occlusion,
}  # fmt: skip
