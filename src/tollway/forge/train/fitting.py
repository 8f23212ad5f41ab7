"""Fit: the training step of a run: from a recipe's parts and prepared rows to a model folder.

For `flows.build`. Reads as the story of a training: the case, then one net, several members, or a search for settings;
in this process or in several.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tollway.forge.train.plan import Plan


@dataclass(frozen=True)
class Trained:
    """What `fit` hands back: the model folder and the figures of its making."""

    folder: Path
    figures: dict[str, Any]


def fit(train: Any, model: Any, task: str, prepared: Any, desk: Any) -> Trained:
    """Trains what the recipe says and writes the model folder to `desk.out`. Raises BadRequest, Conflict, Stopped."""
    plan = Plan.of(train, seed=desk.seed, threads=desk.threads)
    began = time.monotonic()
    if getattr(train, "search", None):
        from tollway.forge.train import search

        figures = search.fit(train, model, task, prepared, desk)
    elif plan.processes > 1:
        from tollway.forge.train import distributed

        figures = distributed.fit(plan, train, model, task, prepared, desk)
    else:
        from tollway.forge.train import local

        figures = local.fit_here(plan, train, model, task, prepared, desk)
    figures["wall_seconds"] = round(time.monotonic() - began, 3)
    _write_figures(Path(desk.out), figures)
    return Trained(Path(desk.out), figures)


def _write_figures(folder: Path, figures: dict[str, Any]) -> None:
    from tollway.forge.train.material import write_json

    write_json(folder / "training.json", figures)
