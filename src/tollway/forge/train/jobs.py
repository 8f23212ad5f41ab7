"""A job: what several processes need to know to train together, as JSON; and their errors on the way back.

For `distributed.fit` and the launchers below it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tollway.forge.desk import Stopped
from tollway.forge.train.plan import Plan
from tollway.kit import errors

STOP = "stop"  # a file in the work folder that asks the processes to end


def write(plan: Plan, train: Any, model: Any, task: str, prepared: Any, desk: Any) -> Path:
    """Everything a process needs to know, as JSON; returns the file."""
    work = Path(desk.work)
    (work / STOP).unlink(missing_ok=True)
    document = {
        "plan": plan.to_json(), "train": train.model_dump(), "model": model.model_dump(), "task": task,
        "prepared": str(prepared.folder), "out": str(desk.out), "work": str(work), "home": str(desk.home), "seed": desk.seed,
    }  # fmt: skip
    job = work / "job.json"
    job.write_text(json.dumps(document), encoding="utf-8")
    return job


def error_of(said: Mapping[str, Any]) -> errors.TollwayError:
    """A process's error, as it would have been raised here."""
    kinds: dict[str, type[errors.TollwayError]] = {"Stopped": Stopped, "BadRequest": errors.BadRequest, "NotFound": errors.NotFound}
    return kinds.get(said["class"], errors.Conflict)(said["message"], code=said["code"], hint=said["hint"])
