"""Members: several nets of one case, as an ensemble (their answers are averaged) or a soup (their weights are).

For `train.fit`. Members of an ensemble start and shuffle differently; those of a soup start alike and shuffle differently,
else their weights would not lie in one valley and their mean would be no model.
"""

from pathlib import Path
from typing import Any

import torch

from tollway.forge.train import judge
from tollway.forge.train.case import Case
from tollway.forge.train.plan import Plan, better
from tollway.forge.train.single import sub_desk, train_one
from tollway.kit.said import say


def fit(case: Case, plan: Plan, desk: Any) -> dict[str, Any]:
    """Trains the members one after another and writes what they become to `desk.out`."""
    nets, rows = [], []
    for number in range(plan.members):
        desk.note(say("train.member", "Member {number} of {count}.", number=number + 1, count=plan.members))
        own = plan.but(seed=plan.seed + number)
        net, figures = train_one(
            case, own, sub_desk(desk, f"member-{number}"), net_seed=plan.seed if plan.soup else own.seed
        )
        nets.append(net)
        rows.append(figures)
    totals = {name: sum(row[name] for row in rows) for name in ("steps", "tokens", "rows", "seconds")}
    figures = {**rows[0], **totals, "members": [{"best": row["best"], "steps": row["steps"], "seed": plan.seed + number}
                                               for number, row in enumerate(rows)]}  # fmt: skip
    if plan.soup:
        net, used, best = soup(case, plan, nets, rows)
        figures |= {"soup": used, "best": best}
        desk.note(
            say("train.soup", "The soup is the mean of {used} of {count} members.", used=len(used), count=len(nets))
        )
    else:
        from tollway.forge.models import ensemble

        net = ensemble.of(nets)
    return figures | case.save(net, Path(desk.out), desk)


def soup(case: Case, plan: Plan, nets: list[Any], rows: list[dict[str, Any]]) -> tuple[Any, list[int], float | None]:
    """The greedy soup (Wortsman et al. 2022): from the best member down, each one that does not make the mean worse."""
    metric = rows[0]["metric"]
    if case.validation is None:
        return mean(nets), list(range(len(nets))), None
    held_out = case.validation.batches(plan, measuring=True)

    def figure(net: Any) -> float:
        found = judge.measure(net, case.objective, held_out, rows[0]["precision"])
        return found[metric]

    order = sorted(range(len(nets)), key=lambda number: rows[number]["best"], reverse=better(metric, 1.0, 0.0))
    used, best = [order[0]], rows[order[0]]["best"]
    for number in order[1:]:
        value = figure(mean([nets[each] for each in [*used, number]]))
        if value == best or better(metric, value, best):
            used, best = [*used, number], value
    return mean([nets[each] for each in used]), used, best


def mean(nets: list[Any]) -> Any:
    """A net whose weights are the mean of these nets' (they stay as they are)."""
    import copy

    result = copy.deepcopy(nets[0])
    states = [net.state_dict() for net in nets]
    with torch.no_grad():
        for name, each in result.state_dict().items():
            if each.is_floating_point():
                each.copy_(torch.stack([state[name].float() for state in states]).mean(0))
    return result
