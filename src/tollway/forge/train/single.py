"""One net of a case, trained: the unit that members, searches and processes are made of."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tollway.forge.train.plan import Plan


def train_one(case: Any, plan: Plan, desk: Any, *, net_seed: int | None = None, group: Any = None) -> tuple[Any, dict[str, Any]]:
    """One net of the case, trained; with the frozen layers' outputs kept on disk where that pays."""
    import torch

    from tollway.forge.train import freezing, loop, precision

    net = case.net(plan, plan.seed if net_seed is None else net_seed)
    if hasattr(group, "parts"):
        from tollway.forge.train import tensor_parallel

        net = tensor_parallel.cut(net, plan, group, Path(desk.work))
    elif torch.cuda.is_available():
        net.to("cuda")
    counts = {
        "parameters": sum(each.numel() for each in net.parameters()),
        "trained_parameters": sum(each.numel() for each in net.parameters() if each.requires_grad),
        "rows": len(case.material),
    }
    if plan.method == "none":
        desk.note("method = 'none': the model is kept as it is.")
        return net.eval(), {**counts, "steps": 0, "tokens": 0, "seconds": 0.0}
    batches = case.material.batches(plan)
    held_out = case.validation.batches(plan, measuring=True) if case.validation is not None else None
    begin = getattr(case.objective, "begin", None)
    if begin is not None:  # what an objective must know of the net before it learns
        begin(net, [batches, held_out])
    run = {"validation": held_out, "group": group, "pretrained": case.pretrained}
    if group is None and freezing.can_recall(net):
        choice = precision.choose(net, case.objective, batches, plan, Path(desk.work))
        try:
            with freezing.recalled(net, case.objective, [batches, held_out], Path(desk.work), choice.precision) as objective:
                desk.note("The frozen layers' outputs are computed once and kept while training.")
                result = loop.run(net, batches, plan, desk, objective=objective, **run)
        except freezing.NoRoom as error:
            desk.warn(str(error))
            result = loop.run(net, batches, plan, desk, objective=case.objective, **run)
    else:
        result = loop.run(net, batches, plan, desk, objective=case.objective, **run)
    figures = result.to_json()
    history = figures.pop("history")
    figures |= {**counts, "validation": history[-1] if history else {}, "history": history}
    figures["rows_per_s"] = round(result.rows / max(result.seconds, 1e-9), 2)
    figures["tokens_per_s"] = round(result.tokens / max(result.seconds, 1e-9), 2)
    figures["learning_rate"], figures["method"] = plan.rate(pretrained=case.pretrained), plan.method
    end = getattr(case.objective, "end", None)
    whole = group is None or plan.distributed in ("ddp", "ray")  # not in parts
    if end is not None and whole:  # what an objective has to show of the trained net
        figures |= end(net, desk)
    return net.eval(), figures


def sub_desk(desk: Any, name: str, *, out: Path | None = None) -> Any:
    """A desk for a part of the work, with a work folder of its own."""
    work = Path(desk.work) / name
    work.mkdir(parents=True, exist_ok=True)
    return replace(desk, work=work, out=out or Path(desk.out))
