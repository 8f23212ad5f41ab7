"""Training in several processes: data parallel (DDP), fully sharded (FSDP), tensor parallel, by PyTorch's own launcher.

For `train.fit` when the recipe says `processes = N`. Each process makes the same case from the same prepared rows; the
first one talks to the desk and writes the model folder, which is the one a single process would have written.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from tollway.forge.steps import Stopped
from tollway.forge.train.plan import Plan
from tollway.kit import errors

_STOP = "stop"  # a file in the work folder that asks the processes to end
_TAIL = 2000  # characters of a failed process's last words


def fit(plan: Plan, train: Any, model: Any, task: str, prepared: Any, desk: Any) -> dict[str, Any]:
    """Starts the processes, relays what the first one says, and returns its figures."""
    job = write_job(plan, train, model, task, prepared, desk)
    if plan.distributed == "ray":
        from tollway.forge.train import ray_train

        return ray_train.fit(plan, job, desk)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={plan.processes}",
        "-m", "tollway.forge.train.worker", str(job),
    ]  # fmt: skip
    desk.note(f"{plan.processes} processes train together ({plan.distributed}).")
    environment = {"GLOO_SOCKET_IFNAME": "lo", **os.environ, "OMP_NUM_THREADS": str(plan.threads)}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as talk:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=talk, text=True, env=environment)  # noqa: S603 - our own interpreter
        try:
            said = _relay(process, desk)
            code = process.wait()
        finally:
            _end(process)
        if code == 0 and "result" in said:
            return dict(said["result"])
        if "error" in said:
            raise error_of(said["error"])
        talk.seek(0)
        last = talk.read()[-_TAIL:]
    raise errors.Conflict(
        f"The training processes ended with code {code}. Their last words: {last.strip()[-400:]}", code="training_processes_failed",
        hint="Start the run again (it goes on from the last checkpoint), or set processes = 1.",
    )


def write_job(plan: Plan, train: Any, model: Any, task: str, prepared: Any, desk: Any) -> Path:
    """Everything a process needs to know, as JSON; returns the file."""
    work = Path(desk.work)
    (work / _STOP).unlink(missing_ok=True)
    document = {
        "plan": plan.to_json(), "train": train.model_dump(), "model": model.model_dump(), "task": task,
        "prepared": str(prepared.folder), "out": str(desk.out), "work": str(work), "home": str(desk.home), "seed": desk.seed,
    }  # fmt: skip
    job = work / "job.json"
    job.write_text(json.dumps(document), encoding="utf-8")
    return job


def _relay(process: "subprocess.Popen[str]", desk: Any) -> dict[str, Any]:
    """What the first process says: events for the desk, and at the end a result or an error."""
    said: dict[str, Any] = {}
    assert process.stdout is not None
    for line in process.stdout:
        if desk.stopped():
            (Path(desk.work) / _STOP).touch()
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue  # a library's own talk
        if not isinstance(event, dict) or "kind" not in event:
            continue
        if event["kind"] in ("result", "error"):
            said.setdefault(event["kind"], event.get("value"))
        else:
            desk.emit(event)
    return said


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def error_of(said: Mapping[str, Any]) -> errors.TollwayError:
    """A process's error, as it would have been raised here."""
    kinds: dict[str, type[errors.TollwayError]] = {"Stopped": Stopped, "BadRequest": errors.BadRequest, "NotFound": errors.NotFound}
    return kinds.get(said["class"], errors.Conflict)(said["message"], code=said["code"], hint=said["hint"])


class Together:
    """The group of several processes (`torch.distributed`, gloo on CPUs)."""

    def __init__(self, strategy: str) -> None:
        import torch.distributed as dist

        self.dist, self.strategy = dist, strategy
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.number = self.rank

    def wrap(self, module: Any, *, many_turns: bool = False) -> Any:
        """DDP averages gradients; FSDP keeps a part of every tensor in each process."""
        if self.strategy == "fsdp":
            from torch.distributed.fsdp import fully_shard

            from tollway.forge.train.freezing import layers_of

            for layer in layers_of(module.net):
                fully_shard(layer)
            return fully_shard(module)
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(module, find_unused_parameters=many_turns)

    def unsynced(self, module: Any) -> AbstractContextManager[object]:
        if hasattr(module, "no_sync"):
            made: AbstractContextManager[object] = module.no_sync()
            return made
        return nullcontext()

    def settle(self, module: Any) -> None:
        """A forward pass without a backward one leaves tensors whole, and what is saved then would not be what learns."""
        for each in module.modules() if self.strategy == "fsdp" else ():
            if hasattr(each, "reshard"):
                each.reshard()

    def barrier(self) -> None:
        self.dist.barrier()

    def agree(self, value: bool) -> bool:
        import torch

        said = torch.tensor([int(value)])
        self.dist.broadcast(said, 0)
        return bool(said.item())

    def total(self, values: list[float]) -> list[float]:
        import torch

        sums = torch.tensor(values, dtype=torch.float64)
        self.dist.all_reduce(sums)
        return [float(each) for each in sums]
