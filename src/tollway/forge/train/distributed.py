"""Training in several processes: data parallel (DDP), fully sharded (FSDP), tensor parallel, by PyTorch's own launcher.

For `train.fit` when the recipe says `processes = N`. Each process makes the same case from the same prepared rows; the
first one talks to the desk and writes the model folder, which is the one a single process would have written.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tollway.forge.train import jobs
from tollway.forge.train.plan import Plan
from tollway.kit import errors
from tollway.kit.said import say

_TAIL = 2000  # characters of a failed process's last words


def fit(plan: Plan, train: Any, model: Any, task: str, prepared: Any, desk: Any) -> dict[str, Any]:
    """Starts the processes, relays what the first one says, and returns its figures."""
    job = jobs.write(plan, train, model, task, prepared, desk)
    if plan.distributed.startswith("ray"):
        from tollway.forge.train import ray_train

        return ray_train.fit(plan, job, desk)
    command = [
        sys.executable, "-m", "tollway.forge.train.launch", str(os.getpid()),
        "--standalone", f"--nproc-per-node={plan.processes}",
        "-m", "tollway.forge.train.worker", str(job),
    ]  # fmt: skip
    how = str(plan.distributed)
    desk.note(say("train.processes", "{count} processes train together ({how}).", count=plan.processes, how=how))
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
            raise jobs.error_of(said["error"])
        talk.seek(0)
        last = talk.read()[-_TAIL:]
    raise errors.Conflict(
        say("train.processes_ended", "The training processes ended with code {status}. Their last words: {failure}",
            status=str(code), failure=last.strip()[-400:]),
        code="training_processes_failed",
        hint=say("train.start_again", "Start the run again (it goes on from the last checkpoint), or set processes = 1."),
    )


def _relay(process: "subprocess.Popen[str]", desk: Any) -> dict[str, Any]:
    """What the first process says: events for the desk, and at the end a result or an error."""
    said: dict[str, Any] = {}
    assert process.stdout is not None
    for line in process.stdout:
        if desk.stopped():
            (Path(desk.work) / jobs.STOP).touch()
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
