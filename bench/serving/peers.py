"""Starting the peers: each with the same engine module and model, as it is usually set up and as well as we could tune it."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Final

from bench.rig.processes import Child, Rig, free_port
from bench.serving import installs, models
from bench.serving.loads import Target

APPS: Final = Path(__file__).with_name("apps")
NAMES: Final = tuple(installs.PEERS)
START_S: Final = 90


def start(rig: Rig, name: str, *, tuned: bool = False) -> tuple[Target, Child]:
    """A running peer. Raises Missing, RuntimeError."""
    bin_ = installs.environment(name)
    label = f"{name}-{'tuned' if tuned else 'usual'}"
    place = rig.folder / f"{label}-{len(rig.children)}"
    shutil.copytree(APPS, place, ignore=shutil.ignore_patterns("__pycache__"))
    port = free_port()
    env = {
        "BENCH_MODEL": str(models.folder("minilm")),
        "BENCH_TUNED": "1" if tuned else "0",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(place),
        "PATH": f"{bin_}:{os.environ.get('PATH', '')}",
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(place / "bentoml"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "DO_NOT_TRACK": "1",
    }
    command, target = _COMMANDS[name](bin_, place, port)
    child = rig.start(label, ["sh", "-c", f'cd "{place}" && exec "$0" "$@"', *command], env=env)
    child.wait_for(lambda: _answers(target), START_S)
    return dataclasses.replace(target, child=child), child


def _answers(target: Target) -> bool:
    from bench.serving import loads

    try:
        return bool(loads.ask(target, "ready?"))
    except (RuntimeError, ValueError):
        return False


def _naive(bin_: Path, place: Path, port: int) -> tuple[list[str], Target]:
    command = [str(bin_ / "uvicorn"), "naive_app:app", "--host", "127.0.0.1", "--port", str(port), "--no-access-log"]
    return [*command, "--log-level", "warning"], Target("naive", port, "/embed", lambda text: {"text": text})


def _litserve(bin_: Path, place: Path, port: int) -> tuple[list[str], Target]:
    command = [str(bin_ / "python"), "litserve_app.py", str(port)]
    return command, Target("litserve", port, "/predict", lambda text: {"text": text})


def _bentoml(bin_: Path, place: Path, port: int) -> tuple[list[str], Target]:
    command = [str(bin_ / "bentoml"), "serve", "bentoml_app:Embedder", "--host", "127.0.0.1", "--port", str(port)]
    return command, Target("bentoml", port, "/embed", lambda text: {"texts": [text]})


def _mosec(bin_: Path, place: Path, port: int) -> tuple[list[str], Target]:
    command = [
        str(bin_ / "python"),
        "mosec_app.py",
        "--port",
        str(port),
        "--timeout",
        "60000",
        "--address",
        "127.0.0.1",
    ]
    return command, Target("mosec", port, "/inference", lambda text: {"text": text})


def _mlserver(bin_: Path, place: Path, port: int) -> tuple[list[str], Target]:
    tuned = os.environ.get("BENCH_TUNED") == "1" or "tuned" in place.name
    settings = {
        "host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(), "debug": False,
        "parallel_workers": 2 if tuned else 1,
    }  # fmt: skip
    model = {"name": "minilm", "implementation": "mlserver_app.Embedder", "max_batch_size": 32, "max_batch_time": 0.005}
    (place / "settings.json").write_text(json.dumps(settings))
    (place / "model-settings.json").write_text(json.dumps(model))
    target = Target(
        "mlserver", port, "/v2/models/minilm/infer",
        lambda text: {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]},
    )  # fmt: skip
    return [str(bin_ / "mlserver"), "start", "."], target


def _ray(bin_: Path, place: Path, port: int) -> tuple[list[str], Target]:
    command = [str(bin_ / "python"), "ray_app.py", str(port)]
    return command, Target("ray", port, "/", lambda text: {"text": text})


_COMMANDS: Final = {
    "naive": _naive, "litserve": _litserve, "bentoml": _bentoml, "mosec": _mosec, "mlserver": _mlserver, "ray": _ray,
}  # fmt: skip
