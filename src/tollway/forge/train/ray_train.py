"""Training on a Ray cluster (extra `ray`): Ray Train places the processes, each does what a worker of ours does anywhere.

For `distributed.fit` when the recipe says `distributed = "ray"` (DDP) or `"ray-fsdp"`. The work folder must be one that all
nodes see. Ray hands our function to its workers by name; the data goes as files, the figures come back as JSON.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from tollway.forge.train.plan import Plan
from tollway.kit.errors import Conflict, Unavailable
from tollway.kit.said import say

_POLL_S = 0.3


def fit(plan: Plan, job: Path, desk: Any) -> dict[str, Any]:
    """Runs the job on the cluster in RAY_ADDRESS, or on this machine; relays its events; returns its figures."""
    try:
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError:
        raise Unavailable("Ray is not installed.", hint="pip install 'tollway[ray]', or set distributed = 'ddp'.") from None
    events = job.with_name("ray-events.jsonl")
    events.unlink(missing_ok=True)
    events.touch()
    started = not ray.is_initialized()
    if started:
        ray.init(**_where(plan))
    how = str(plan.distributed)
    desk.note(say("train.ray", "{count} Ray workers train together ({how}).", count=plan.processes, how=how))
    try:
        with tempfile.TemporaryDirectory(prefix="ray-", dir=job.parent) as storage:
            trainer = TorchTrainer(
                _worker, train_loop_config={"job": str(job), "events": str(events)}, torch_config=TorchConfig(backend="gloo"),
                scaling_config=ScalingConfig(num_workers=plan.processes, use_gpu=False),
                run_config=RunConfig(storage_path=storage, name="train"),
            )  # fmt: skip
            _while_running(trainer, events, desk)
    finally:
        if started:
            ray.shutdown()
    return _figures(job)


def _where(plan: Plan) -> dict[str, Any]:
    """The cluster that RAY_ADDRESS names, or one on this machine, without its dashboard and its talk."""
    runtime = {"env_vars": {"OMP_NUM_THREADS": str(plan.threads), "RAY_TRAIN_ENABLE_STATE_TRACKING": "0"}}
    address = os.environ.get("RAY_ADDRESS")
    if address:
        return {"address": address, "runtime_env": runtime}
    cores = max(plan.processes, os.cpu_count() or 1)
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    own = {"worker_niceness": 0}  # Ray's own choice is 15: a run would crawl beside anything else
    return {"address": "local", "num_cpus": cores, "runtime_env": runtime, "_system_config": own, **quiet}  # not one that runs here


def _while_running(trainer: Any, events: Path, desk: Any) -> None:
    """`fit` blocks, so it has a thread of its own while we relay what the first worker writes down."""
    import threading

    ended: dict[str, Any] = {}

    def run() -> None:
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 - carried to the caller's thread, raised there
            ended["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    with events.open(encoding="utf-8") as lines:
        while True:
            alive = thread.is_alive()
            for line in lines:
                desk.emit(json.loads(line))
            if desk.stopped():
                (events.parent / "stop").touch()
            if not alive:
                break
            time.sleep(_POLL_S)
    said = _said(events)
    if said or "error" in ended:
        raise _error(said, ended.get("error"))


def _said(events: Path) -> dict[str, Any]:
    file = events.with_name("ray-error.json")
    if not file.is_file():
        return {}
    said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    return said


def _error(said: dict[str, Any], error: Exception | None) -> Exception:
    if said:
        from tollway.forge.train.jobs import error_of

        return error_of(said)
    return Conflict(
        say("train.ray_failed", "Ray Train failed: {failure}", failure=str(error).strip()[-400:]),
        code="training_processes_failed",
        hint=say("train.ray_status", "Look at the cluster with `ray status`, or set distributed = 'ddp'."),
    )


def _figures(job: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(job.with_name("ray-figures.json").read_text(encoding="utf-8"))
    return figures


def _worker(config: dict[str, str]) -> None:
    """In a Ray worker: the process group is there already."""
    import torch.distributed as dist

    from tollway.forge.train.worker import work
    from tollway.kit.errors import TollwayError

    job = Path(config["job"])

    def emit(event: dict[str, Any]) -> None:
        with Path(config["events"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False, default=str) + "\n")

    try:
        figures = work(json.loads(job.read_text(encoding="utf-8")), emit)
    except TollwayError as error:
        told = {"class": type(error).__name__, "message": error.message, "code": error.code, "hint": error.hint}
        job.with_name("ray-error.json").write_text(json.dumps(told), encoding="utf-8")
        raise
    if dist.get_rank() == 0:
        job.with_name("ray-figures.json").write_text(json.dumps(figures, default=str), encoding="utf-8")
