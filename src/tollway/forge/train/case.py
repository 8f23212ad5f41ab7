"""The case: what is trained on what: the recipe's parts, the prepared rows as material, the features, the objective.

For `train.fit` and its helpers (members, search, other processes), which each make nets from the same case.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tollway.forge.train import objectives
from tollway.forge.train.freezing import freeze_below
from tollway.forge.train.material import Material
from tollway.forge.train.objectives import Objective
from tollway.forge.train.plan import Plan
from tollway.kit.errors import BadRequest
from tollway.kit.said import say


@dataclass
class Case:
    """Everything a net is made and trained from."""

    train: Any  # the recipe's [train]
    model: Any  # the recipe's [model]
    task: str
    prepared: Any
    features: Any
    objective: Objective
    material: Material
    validation: Material | None
    home: Path | None = None

    @classmethod
    def of(cls, train: Any, model: Any, task: str, prepared: Any, home: Path | None = None) -> "Case":
        """Fits the features on the training rows and encodes every row once."""
        plan = Plan.of(train)
        options = dict(getattr(train, "options", None) or {})
        objective = objectives.get(plan.objective, task, **{"label_smoothing": plan.label_smoothing, **options})
        features = fit_features(model, task, prepared, objective, home)
        material = objective.prepare(prepared, features, "train")
        if material is None:
            raise BadRequest(
                say("train.no_rows", "The prepared data has no training rows."),
                hint=say("train.look_at_data", "Look at [data] split, clean and rows_max."),
            )
        held_out = objective.prepare(prepared, features, "validation") if prepared.rows("validation") else None
        return cls(train, model, task, prepared, features, objective, material, held_out, home)

    @property
    def pretrained(self) -> bool:
        """Does the net start from weights that know so much that they want small steps?"""
        from tollway.forge import models

        return bool(self.model.base) and not models.grows(self.model, self.task, self.home)

    def net(self, plan: Plan, seed: int) -> Any:
        """A fresh net, with only what the method trains left trainable."""
        from tollway.forge import models

        net: Any = models.create(self.model, self.task, self.features, seed, self.home)
        if plan.top is not None:
            freeze_below(net, plan.top)
        elif plan.method == "none":
            net.requires_grad_(False)
        elif plan.method != "full":
            with torch.random.fork_rng(devices=[]):  # what came before in this process is not to matter
                torch.manual_seed(seed)
                net = models.adapt(net, plan.method, dict(getattr(self.train, "options", None) or {}))
        wrap = getattr(self.objective, "wrap", None)  # a goal that needs layers of its own beside the net's
        return net if wrap is None else wrap(net, seed)

    def save(self, net: Any, folder: Path, desk: Any) -> dict[str, Any]:
        """A model folder; returns the figures of what was settled for it on the validation rows."""
        from tollway.forge import models
        from tollway.forge.train import showing

        figures = showing.settle(net, dict(getattr(self.model, "options", None) or {}), self.prepared, desk)
        models.save(net, folder)
        return figures


def fit_features(model: Any, task: str, prepared: Any, objective: Objective, home: Path | None = None) -> Any:
    """How rows become arrays: the objective's own way, else the task's, with the base's tokenizer where there is one."""
    own = getattr(objective, "features", None)
    if own is not None:
        return own(model, task, prepared)
    from tollway.forge import models

    return models.fit_features(model, task, prepared.read("train"), home)
