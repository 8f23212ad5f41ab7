"""One net of a case, trained: the unit that members, searches and processes are made of."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tollway.forge.train.plan import Plan
from tollway.kit.said import say


def train_one(
    case: Any, plan: Plan, desk: Any, *, net_seed: int | None = None, group: Any = None
) -> tuple[Any, dict[str, Any]]:
    """One net of the case, trained; with the frozen layers' outputs kept on disk where that pays."""
    from tollway.forge.train import device

    net = case.net(plan, plan.seed if net_seed is None else net_seed)
    if hasattr(group, "parts"):
        from tollway.forge.train import tensor_parallel

        net = tensor_parallel.cut(net, plan, group, Path(desk.work))
        place = next(net.parameters()).device
    else:
        place = device.choose(plan.device)
    counts: dict[str, Any] = {
        "parameters": sum(each.numel() for each in net.parameters()),
        "trained_parameters": sum(each.numel() for each in net.parameters() if each.requires_grad),
        "rows": len(case.material),
    }
    table: Any = net.embeddings() if hasattr(net, "embeddings") else None
    if hasattr(table, "missing_share"):
        counts["vectors_missing_share"] = round(table.missing_share, 4)
        lacks = say("train.lacks", "{missing_share} of the {count} words", missing_share=table.missing_share,
                    count=table.num_embeddings)  # fmt: skip
        desk.note(
            say("train.vectors", "The file of word vectors lacks {found}; theirs are learnt afresh.", found=lacks)
        )
    if plan.method == "none":
        desk.note(say("train.none", "method = 'none': the model is kept as it is."))
        return net.eval(), {**counts, "steps": 0, "tokens": 0, "seconds": 0.0}
    if place.type != "cpu":
        desk.note(say("train.place", "Trained on {place}.", place=str(place)))
    with device.on(net, place):
        result = _learn(case, net, plan, desk, group)
    figures = result.to_json()
    history = figures.pop("history")
    figures |= {**counts, "validation": history[-1] if history else {}, "history": history, "device": place.type}
    figures["rows_per_s"] = round(result.rows / max(result.seconds, 1e-9), 2)
    figures["tokens_per_s"] = round(result.tokens / max(result.seconds, 1e-9), 2)
    figures["learning_rate"], figures["method"] = plan.rate(pretrained=case.pretrained), plan.method
    end = getattr(case.objective, "end", None)
    whole = group is None or plan.distributed in ("ddp", "ray")  # not in parts
    if end is not None and whole:  # what an objective has to show of the trained net
        figures |= end(net, desk)
    return net.eval(), figures


def _learn(case: Any, net: Any, plan: Plan, desk: Any, group: Any) -> Any:
    """The loop over the case's rows; with what the frozen layers give kept, where that pays."""
    from tollway.forge.train import freezing, loop, precision

    batches = case.material.batches(plan)
    held_out = case.validation.batches(plan, measuring=True) if case.validation is not None else None
    begin = getattr(case.objective, "begin", None)
    if begin is not None:  # what an objective must know of the net before it learns
        begin(net, [batches, held_out])
    run = {"validation": held_out, "group": group, "pretrained": case.pretrained}
    if group is None and freezing.can_recall(net):
        choice = precision.choose(net, case.objective, batches, plan, Path(desk.work), home=Path(desk.home))
        try:
            with freezing.recalled(
                net, case.objective, [batches, held_out], Path(desk.work), choice.precision
            ) as objective:
                desk.note(say("train.frozen", "The frozen layers' outputs are computed once and kept while training."))
                return loop.run(net, batches, plan, desk, objective=objective, **run)
        except freezing.NoRoom as error:
            desk.warn(str(error))
    return loop.run(net, batches, plan, desk, objective=case.objective, **run)


def sub_desk(desk: Any, name: str, *, out: Path | None = None) -> Any:
    """A desk for a part of the work, with a work folder of its own."""
    work = Path(desk.work) / name
    work.mkdir(parents=True, exist_ok=True)
    return replace(desk, work=work, out=out or Path(desk.out))
