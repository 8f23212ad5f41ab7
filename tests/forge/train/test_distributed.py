"""Several processes train what one process would have trained, and leave the same kind of folder."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.forge.train import nets
from tests.forge.train.test_fitting import MLP, accuracy, prepared
from tollway.forge import data, models, recipe, train
from tollway.forge.data import samples
from tollway.forge.desk import Stopped
from tollway.kit.clock import SystemClock
from tollway.kit.errors import BadRequest, TollwayError

pytestmark = pytest.mark.slow
PLAIN = {"epochs": 2, "precision": "fp32", "threads": 1, "dropout": 0.0, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("digits"), "digits", 384)  # whole pairs of batches


@pytest.fixture(scope="module")
def alone(digits, tmp_path_factory):
    """One process that adds up two batches a step: what two processes with a batch each should equal."""
    desk = nets.desk(tmp_path_factory.mktemp("alone"))
    return train.fit(recipe.Train(**PLAIN, accumulate=2), MLP, "image-classification", digits, desk).folder


def close(one, other) -> bool:
    left, right = models.load(one).state_dict(), models.load(other).state_dict()
    return all(torch.allclose(left[name], right[name], atol=2e-4) for name in left)


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_equal_one_that_accumulates(tmp_path, digits, alone, how):
    desk = nets.desk(tmp_path)
    made = train.fit(recipe.Train(**PLAIN, processes=2, distributed=how), MLP, "image-classification", digits, desk)
    assert close(made.folder, alone)
    assert accuracy(made.folder, digits, "image-classification") > 0.4  # of 0.1 by chance; 0.69 by seed, 0.05 more or less
    assert made.figures["processes"] == 2 and any(event["kind"] == "progress" for event in desk.seen)


def test_an_error_in_a_process_is_told_as_it_is(tmp_path, digits):
    part = recipe.Train(**{**PLAIN, "early_stopping": {"patience": 1, "metric": "rmse"}}, processes=2)
    with pytest.raises(TollwayError, match=r"rmse.*is not measured"):
        train.fit(part, MLP, "image-classification", digits, nets.desk(tmp_path))


def test_stopped_processes_keep_a_checkpoint(tmp_path, digits):
    desk = nets.desk(tmp_path, stop=lambda: any(event["kind"] == "metric" for event in desk.seen))
    part = recipe.Train(**{**PLAIN, "epochs": 400}, processes=2)
    with pytest.raises(Stopped, match="a checkpoint is kept"):
        train.fit(part, MLP, "image-classification", digits, desk)
    assert list((desk.work / "checkpoints").glob("step-*/rank-1.safetensors"))


ENDLESS = """
import sys
from pathlib import Path
from tests.forge.train import nets
from tests.forge.train.test_fitting import MLP
from tollway.forge import data, recipe, train
part = recipe.Train(epochs=4000, precision="fp32", threads=1, processes=2, checkpoint_every_s=1)
train.fit(part, MLP, "image-classification", data.Prepared(Path(sys.argv[1])), nets.desk(Path(sys.argv[2])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends them")
def test_no_process_outlives_a_run_that_was_killed(tmp_path, digits):
    """The run that is started next would share its files with them."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    run = subprocess.Popen([sys.executable, "-c", ENDLESS, digits.folder, tmp_path], env=environment)

    def working() -> list[int]:
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(tmp_path / "work") in file.read_bytes().decode(errors="replace"):
                    found.append(int(file.parent.name))
        return found

    try:
        until(lambda: list((tmp_path / "work" / "checkpoints").glob("step-*")) or run.poll() is not None)
        assert run.poll() is None and len(working()) == 3, "the launcher and two workers"
        for pid in working():
            os.kill(pid, signal.SIGSTOP)  # so that they cannot find out by themselves that nobody listens
        run.kill()
        until(lambda: not working())
    finally:
        run.kill()
        run.wait()
        for pid in working():
            os.kill(pid, signal.SIGKILL)


def until(there) -> None:
    """Wait for a state."""
    end = time.monotonic() + 120
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_ray_workers_of_a_cluster_of_our_own_are_as_nice_as_the_run(monkeypatch):
    from tollway.forge.train import ray_train
    from tollway.forge.train.plan import Plan

    plan = Plan.of(recipe.Train(**PLAIN, processes=2, distributed="ray"), seed=1, threads=1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ray_train._where(plan)["_system_config"] == {"worker_niceness": 0}
    monkeypatch.setenv("RAY_ADDRESS", "ray://far:10001")
    assert "_system_config" not in ray_train._where(plan), "a cluster of somebody else's has its own"


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed")
@pytest.mark.parametrize("how", ["ray", "ray-fsdp"])
def test_ray_workers_equal_one_process_that_accumulates(tmp_path, digits, alone, how):
    made = train.fit(recipe.Train(**PLAIN, processes=2, distributed=how), MLP, "image-classification", digits, nets.desk(tmp_path))
    assert close(made.folder, alone) and made.figures["distributed"] == how


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    shelf = data.Shelf(folder / "datasets", SystemClock())
    version, desk = samples.load("movies", shelf), nets.desk(folder / "prepare")
    desk.shelf = shelf
    data.prepare(recipe.Data(dataset=version.name, rows_max=150, columns={"text": "text"}), "language-modeling", shelf, desk)
    return data.Prepared(desk.out)


LLAMA = recipe.Model(architecture="llama", options={"width": 64, "layers": 2, "heads": 4, "vocabulary": 400, "max_length": 64})


def test_a_decoder_in_parts_learns_what_it_learns_whole(tmp_path, texts):
    plain = {"steps": 8, "precision": "fp32", "threads": 1, "batch_tokens": 512, "learning_rate": 1e-3}
    folders = []
    for more in ({}, {"processes": 2, "distributed": "tensor"}):
        desk = nets.desk(tmp_path / f"{len(more)}")
        folders.append(train.fit(recipe.Train(**plain, **more), LLAMA, "language-modeling", texts, desk).folder)
    assert close(*folders)


def test_what_has_no_plan_is_not_cut(tmp_path, digits):
    with pytest.raises(BadRequest, match="no plan for how its matrices are cut"):
        train.fit(recipe.Train(**PLAIN, processes=2, distributed="tensor"), MLP, "image-classification", digits, nets.desk(tmp_path))
