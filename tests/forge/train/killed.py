"""Trains a tiny net again and again in forked processes that are killed with SIGKILL, until one gets to the end.

`python killed.py FOLDER SEED OPTIMIZER...`: prints a JSON line {"kills", "plain", "resumed", "steps"} for each: digests of
the weights of the run that nobody disturbed and of the one that was killed. Run by test_resume.py in its own process.
"""

import hashlib
import json
import os
import random
import signal
import sys
import threading
from pathlib import Path

import torch

from tests.forge.train import nets
from tollway.forge.train import loop
from tollway.forge.train.plan import Plan

OPTIONS = {
    "epochs": 4, "learning_rate": 0.01, "checkpoint_every_steps": 3, "accumulate": 2, "label_smoothing": 0.1, "l1": 1e-5,
    "adversarial": {"epsilon": 0.5}, "precision": "fp32",
}  # fmt: skip


def train(folder: Path, optimizer: str, deadly: int, late_s: float) -> str:
    """One attempt: begins, or goes on where the last one was killed. At its `deadly` step it dies, a moment later."""
    asked = 0

    def step() -> bool:
        nonlocal asked
        asked += 1
        if asked == deadly:
            threading.Timer(late_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return False

    net = nets.bag(dropout=0.3)
    plan = Plan.of({**OPTIONS, "optimizer": optimizer}, seed=5)
    result = loop.run(net, nets.batches(240), plan, nets.desk(folder, stop=step), validation=nets.batches(60, seed=9))
    (folder / "steps").write_text(str(result.steps))
    (folder / "asked").write_text(str(asked))
    whole = b"".join(each.contiguous().numpy().tobytes() for each in net.state_dict().values())
    history = json.dumps(result.history).encode()
    return hashlib.sha256(whole + history).hexdigest()


def attempt(folder: Path, optimizer: str, deadly: int = 0, late_s: float = 0.0) -> bool:
    """A forked process; it is killed on its way unless it has finished before."""
    child = os.fork()
    if child == 0:
        try:
            (folder / "digest").write_text(train(folder, optimizer, deadly, late_s))
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def main(folder: Path, seed: int, optimizer: str) -> None:
    torch.set_num_threads(1)
    chance = random.Random(seed)
    plain, killed = folder / "plain", folder / "killed"
    plain.mkdir(parents=True), killed.mkdir()
    assert attempt(plain, optimizer)
    whole = int((plain / "asked").read_text())
    kills = 0
    # counted in steps, not in seconds: on a machine that grows quicker or slower three fall into a run all the same
    while kills < 6 and not attempt(killed, optimizer, chance.randint(1, whole // 4), chance.uniform(0, 0.004)):
        kills += 1
    if not (killed / "digest").exists():
        assert attempt(killed, optimizer)
    print(json.dumps({
        "kills": kills, "plain": (plain / "digest").read_text(), "resumed": (killed / "digest").read_text(),
        "steps": int((plain / "steps").read_text()),
    }))  # fmt: skip


if __name__ == "__main__":
    for name in sys.argv[3:]:
        main(Path(sys.argv[1]) / name, int(sys.argv[2]), name)
