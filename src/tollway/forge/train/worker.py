"""One of several processes that train together: what `launch.py` starts. `... -m tollway.forge.train.worker JOB`.

Started by `distributed.fit`. The first process speaks JSON lines on stdout: events for the desk, then a result or an error.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from tollway.forge.desk import Desk
from tollway.kit import lifeline
from tollway.kit.errors import TollwayError


def main(job: Path) -> int:
    """The whole life of a process; its exit code."""
    import torch.distributed as dist

    lifeline.die_with(os.getppid())
    out = _own_stdout()
    rank = int(os.environ.get("RANK", "0"))
    try:
        orders = json.loads(job.read_text(encoding="utf-8"))
        dist.init_process_group(_backend(orders["plan"]))
        figures = work(orders, lambda event: _say(out, event))
        if rank == 0:
            _say(out, {"kind": "result", "value": figures})
        dist.barrier()
    except TollwayError as error:
        told = {"class": type(error).__name__, "message": error.message, "code": error.code, "hint": error.hint}
        _say(out, {"kind": "error", "value": told})
        os._exit(3)  # the others may be waiting for this process: the launcher ends them all
    except Exception as error:
        told = {"class": "Conflict", "message": f"A training process failed: {type(error).__name__}: {str(error)[:400]}",
                "code": "training_processes_failed", "hint": "Start the run again, or set processes = 1."}  # fmt: skip
        _say(out, {"kind": "error", "value": told})
        raise
    dist.destroy_process_group()
    return 0


def work(job: dict[str, Any], emit: Any) -> dict[str, Any]:
    """This process's share of the training; the figures, and in the first process the model folder."""
    import torch

    from tollway.forge import data, recipe
    from tollway.forge.train import gather, tensor_parallel
    from tollway.forge.train.case import Case
    from tollway.forge.train.jobs import STOP
    from tollway.forge.train.plan import Plan
    from tollway.forge.train.single import train_one
    from tollway.forge.train.together import Together

    plan = Plan.from_json(job["plan"])
    torch.set_num_threads(plan.threads)
    group = tensor_parallel.Side() if plan.distributed == "tensor" else Together(plan.distributed)
    stop = Path(job["work"]) / STOP
    desk = Desk(
        out=Path(job["out"]), work=Path(job["work"]), home=Path(job["home"]), seed=job["seed"], threads=plan.threads,
        emit=emit if group.number == 0 else lambda event: None, step="train", stop_asked=stop.exists,
    )  # fmt: skip
    case = Case.of(recipe.Train(**job["train"]), recipe.Model(**job["model"]), job["task"], data.Prepared(Path(job["prepared"])), desk.home)
    net, figures = train_one(case, plan, desk, group=group)
    whole = gather.whole(net, case, plan, group)
    if whole is not None:
        figures |= case.save(whole, desk.out, desk)
    return {**figures, "processes": plan.processes, "distributed": plan.distributed}


def _backend(plan: dict[str, Any]) -> str:
    from tollway.forge.train import device

    cut = plan["distributed"] == "tensor"  # those are cut on the processor
    return "gloo" if cut else device.backend(device.choose(plan["device"]))


def _own_stdout() -> TextIO:
    """The real stdout for our lines alone; whatever libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def _say(out: TextIO, event: dict[str, Any]) -> None:
    out.write(json.dumps(event, ensure_ascii=False, default=str) + "\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
