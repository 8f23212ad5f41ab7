"""Training in this process: one net, or the members of an ensemble or a soup."""

from pathlib import Path
from typing import Any

from tollway.forge.train.plan import Plan


def fit_here(plan: Plan, train: Any, model: Any, task: str, prepared: Any, desk: Any) -> dict[str, Any]:
    """In this process: one net, or the members of an ensemble or a soup."""
    import torch

    from tollway.forge.train import members
    from tollway.forge.train.case import Case
    from tollway.forge.train.single import train_one

    torch.set_num_threads(plan.threads)
    case = Case.of(train, model, task, prepared, Path(desk.home))
    if plan.members > 1:
        return members.fit(case, plan, desk)
    net, figures = train_one(case, plan, desk)
    return figures | case.save(net, Path(desk.out), desk)
