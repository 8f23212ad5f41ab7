"""One way in to every method, and the recipe's step: some test rows explained by several methods, with their faithfulness.

explain.explain(predictor, row, "integrated-gradients") -> Explanation
explain.report(recipe.explain, folder, prepared, desk)  -> figures; writes explanations.json
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tollway.forge.evaluate import opening
from tollway.forge.evaluate.examples import plain
from tollway.forge.explain.kept import FILE_NAME
from tollway.inference import explain as outside
from tollway.inference.explain import Explanation
from tollway.inference.masking import cut
from tollway.kit.errors import BadRequest, NotFound, TollwayError
from tollway.kit.said import say

INSIDE = outside.INSIDE
METHODS = (*outside.METHODS, *INSIDE)
BACKGROUND = 8
DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "text-classification": ("shap", "integrated-gradients", "attention"),
    "text-regression": ("shap", "integrated-gradients"),
    "image-classification": ("shap", "integrated-gradients"),
    "tabular-classification": ("shap", "lime"),
    "tabular-regression": ("shap", "lime"),
    "recommendation": ("shap",),
}


def explain(predictor: Any, row: Mapping[str, Any], method: str = "shap", **options: Any) -> Explanation:
    """Explain one answer by any method; those from inside need a predictor with a torch net. Raises BadRequest."""
    if method not in METHODS:
        raise BadRequest(f"There is no method {method!r}.", param="method", hint=f"Choose one of {', '.join(METHODS)}.")
    if method in outside.METHODS:
        return outside.explain(predictor, row, method, **options)
    predictor = _with_net(predictor, method)
    game = outside.Game(predictor, cut(predictor, row), options.get("target"))
    weights, checks, extra = _seen_inside(predictor, game, method)
    return outside.from_inside(game, method, weights, checks, extra, int(options.get("seed", 0)))


def check(part: Any) -> None:
    """Raises BadRequest for methods that there are not; before anything is trained."""
    strange = [name for name in part.methods if name not in METHODS]
    if strange:
        raise BadRequest(f"[explain] methods has {', '.join(strange)}.", hint=f"There are: {', '.join(METHODS)}.")


def _with_net(predictor: Any, method: str) -> Any:
    if hasattr(predictor, "net"):
        return predictor
    if hasattr(predictor, "loss") and hasattr(predictor, "features"):  # a bare net
        from tollway.forge import models

        return models.TorchPredictor(predictor)
    raise BadRequest(
        f"{method} looks inside the model; this one can only be asked.",
        hint=f"Choose one of {', '.join(outside.METHODS)}.",
    )


def _seen_inside(predictor: Any, game: outside.Game, method: str) -> tuple[Any, dict[str, float], dict[str, Any]]:
    from tollway.forge.explain.inside import LiveNet
    from tollway.inference import inside

    net = LiveNet(predictor.net)
    if method == "attention":
        weights, extra = inside.attention(net, predictor.features, game.pieces)
        return weights, {}, extra
    weights, checks = inside.by_gradients(net, predictor.features, game.pieces, game.target)
    return weights, checks, {}


def report(
    part: Any, folder: Path, prepared: Any, desk: Any, source: Path | None = None, *, predictor: Any = None
) -> dict[str, Any]:  # fmt: skip
    """Explain some test rows by each method and keep it; the figures say how faithful each method was.

    `source` is the trained model's folder, for methods that look inside when `folder` has only converted formats.
    """
    check(part)
    task = opening.task_of(prepared, folder)
    methods = list(part.methods) or list(DEFAULTS.get(task, ()))
    if not methods:
        desk.note(say("explain.none", "Answers of {task} are not explained.", task=task))
        return {"rows": 0}
    rows = opening.rows(prepared, "test", part.rows, desk.seed)
    if not rows:
        raise NotFound("There are no test rows to explain.", hint="Give the split a test share.")
    served, torch_one = _predictors(folder, source, desk, predictor, methods)
    background = opening.rows(prepared, "train", BACKGROUND, desk.seed) if task.startswith("tabular-") else []
    found, skipped = _explained(rows, methods, served, torch_one, background, desk)
    figures = {"rows": len(rows), "methods": summary(found), "skipped": skipped}
    (desk.out / FILE_NAME).write_text(
        json.dumps({"task": task, **figures, "items": found}, ensure_ascii=False), encoding="utf-8"
    )
    return figures


def _predictors(folder: Path, source: Path | None, desk: Any, given: Any, methods: Sequence[str]) -> tuple[Any, Any]:
    """What is served, and the torch net behind it when a method has to look inside."""
    served = given if given is not None else opening.served(folder, source, threads=desk.threads, home=desk.home)[0]
    if not set(methods) & set(INSIDE):
        return served, None
    if hasattr(served, "net"):
        return served, served
    try:
        return served, opening.reference(folder, source, desk.home)
    except TollwayError as error:
        inside = ", ".join(sorted(set(methods) & set(INSIDE)))
        desk.warn(
            say(
                "explain.no_torch",
                "{methods}: the torch model is not at hand ({failure})",
                methods=inside,
                failure=error.said,
            )
        )
        return served, None


def _explained(
    rows: Sequence[Mapping[str, Any]], methods: Sequence[str], served: Any, torch_one: Any, background: Sequence[Mapping[str, Any]],
    desk: Any,
) -> tuple[list[dict[str, Any]], dict[str, str]]:  # fmt: skip
    found: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for at, row in enumerate(rows):
        truth = row.get("label", row.get("target"))
        item: dict[str, Any] = {
            "input": plain({k: v for k, v in row.items() if not k.startswith("x_")}),
            "truth": plain(truth),
            "by": {},
        }
        for method in methods:
            options = {"background": background} if method in outside.METHODS and background else {}
            try:
                using = torch_one if method in INSIDE else served
                if using is None:
                    raise BadRequest("the torch model is not at hand")
                item["by"][method] = explain(using, row, method, **options).to_json()
            except BadRequest as error:
                skipped[method] = error.message
        if item["by"]:
            found.append(item)
        desk.progress(at + 1, len(rows), unit="rows")
        if desk.stopped():
            break
    return found, skipped


def summary(items: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Per method: the mean gain over random orders, the share of rows that beat random, the largest gap of its law."""
    found: dict[str, dict[str, float]] = {}
    for method in dict.fromkeys(name for item in items for name in item["by"]):
        mine = [item["by"][method] for item in items if method in item["by"]]
        tested = [one["faithfulness"] for one in mine if one.get("faithfulness")]
        gaps = [value for one in mine for name, value in (one.get("checks") or {}).items() if name.endswith("_gap")]
        row: dict[str, float] = {"rows": len(mine)}
        if tested:
            gains = np.array([one["gain"] for one in tested])
            row |= {name: float(np.mean([one[name] for one in tested]))
                    for name in ("deletion", "deletion_random", "insertion", "insertion_random")}  # fmt: skip
            row |= {"gain": float(gains.mean()), "better_than_random": float((gains > 0).mean())}
            if len(gains) > 1:
                spread = 1.96 * float(gains.std(ddof=1)) / len(gains) ** 0.5
                row |= {"gain_low": float(gains.mean()) - spread, "gain_high": float(gains.mean()) + spread}
        if gaps:
            row["largest_gap"] = float(max(gaps))
        row["evaluations"] = float(np.mean([one.get("evaluations", 0) for one in mine]))
        found[method] = row
    return found
