"""A run killed with SIGKILL at random moments ends with the weights of the run that nobody disturbed, bit for bit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.forge.models import worlds
from tests.forge.train import nets
from tests.forge.train.test_language_objectives import TINY, Rows
from tollway.forge import recipe, train
from tollway.forge.desk import Stopped
from tollway.forge.train import checkpoints, loop, search
from tollway.forge.train.plan import Plan
from tollway.kit.errors import Conflict

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_killed_again_and_again_it_ends_bit_for_bit_the_same(tmp_path):
    script = ROOT / "tests/forge/train/killed.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script, tmp_path, "3", "adamw", "sgd"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2
    for said in rows:
        assert said["kills"] >= 3
        assert said["resumed"] == said["plain"]


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "rmsprop", "sgd", "adafactor"])
def test_stopped_and_started_again_every_optimiser_goes_on_exactly(tmp_path, optimizer):
    options = {"epochs": 2, "optimizer": optimizer, "learning_rate": 0.01, "precision": "fp32"}
    whole = nets.bag(dropout=0.3)
    loop.run(whole, nets.batches(), Plan.of(options), nets.desk(tmp_path / "whole"))
    asked = []
    desk = nets.desk(tmp_path / "parts", stop=lambda: len(asked.append(1) or asked) == 12)
    with pytest.raises(Stopped, match="step 11 of"):
        loop.run(nets.bag(dropout=0.3), nets.batches(), Plan.of(options), desk)
    parts = nets.bag(seed=99, dropout=0.3)  # other weights: they come from the checkpoint
    loop.run(parts, nets.batches(), Plan.of(options), desk)
    assert nets.same(whole, parts)
    assert any("Goes on at step 11" in event.get("text", "") for event in desk.seen)


PAIRS = [{"prompt": f"Say {n}.", "chosen": f"{n} is fine, 很好.", "rejected": f"No {n}"} for n in range(12)]
WAYS = {
    "a painter's slow half": ("image-generation", worlds.TABLES["image-generation"].to_pylist(), {"batch_rows": 4}, "gan"),
    "preferences by LoRA": ("preference", PAIRS, {"batch_rows": 3, "method": "lora"}, "llama"),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_only_weights_and_optimiser_goes_on_exactly(way, tmp_path):
    task, rows, how, architecture = WAYS[way]
    part = recipe.Model(architecture=architecture, options=TINY if architecture == "llama" else {"filters": 4})
    plan, prepared = recipe.Train(epochs=3, precision="fp32", **how), Rows(task, rows)
    train.fit(plan, part, task, prepared, nets.desk(tmp_path / "whole"))
    asked = []
    desk = nets.desk(tmp_path / "parts", stop=lambda: len(asked.append(1) or asked) == 8)
    with pytest.raises(Stopped):
        train.fit(plan, part, task, prepared, desk)
    train.fit(plan, part, task, prepared, desk)
    files = [next((tmp_path / one / "out").glob("*model.safetensors")) for one in ("whole", "parts")]
    whole, parts = (load_file(file) for file in files)
    assert whole.keys() == parts.keys() and all(torch.equal(one, parts[name]) for name, one in whole.items())


@pytest.mark.slow
def test_a_search_killed_while_it_clears_away_a_trial_goes_on(tmp_path, monkeypatch):
    rows = Rows("text-classification", [{"text": f"word{n % 7} word{n % 3}", "label": str(n % 2)} for n in range(40)])
    rows.tables["validation"] = rows.tables["train"][:10]
    plan = recipe.Train(epochs=1, search={"trials": 2, "space": {"learning_rate": [1e-3, 1e-2]}})
    part = recipe.Model(architecture="bilstm", options={"width": 4, "embedding": 4, "min_count": 1})
    desk, remove = nets.desk(tmp_path), shutil.rmtree

    def die(path, **more):
        for file in Path(path).rglob("*.safetensors"):
            file.unlink()
        if Path(path).name == "trial-0":
            raise KeyboardInterrupt
        remove(path, **more)

    monkeypatch.setattr(search.shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        train.fit(plan, part, rows.task, rows, desk)
    monkeypatch.undo()
    assert len(train.fit(plan, part, rows.task, rows, desk).figures["search"]["trials"]) == 2


def test_a_finished_run_is_not_trained_again(tmp_path):
    desk = nets.desk(tmp_path)
    one, other = nets.bag(), nets.bag(seed=2)
    first = loop.run(one, nets.batches(), Plan.of({"epochs": 1}), desk, validation=nets.batches(50, seed=3))
    again = loop.run(other, nets.batches(), Plan.of({"epochs": 1}), desk, validation=nets.batches(50, seed=3))
    assert nets.same(one, other) and again.history == first.history


def test_checkpoints_are_safetensors_and_json_and_two_are_kept(tmp_path):
    plan = Plan.of({"epochs": 2, "checkpoint_every_steps": 2})
    loop.run(nets.bag(), nets.batches(), plan, nets.desk(tmp_path))
    files = [file for file in (tmp_path / "work").rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".safetensors", ".json"}
    assert len(list((tmp_path / "work" / "checkpoints").iterdir())) == checkpoints.KEPT


def test_a_half_written_checkpoint_is_no_checkpoint(tmp_path):
    plan = Plan.of({"epochs": 1, "checkpoint_every_steps": 5})
    whole = nets.bag()
    loop.run(whole, nets.batches(), plan, nets.desk(tmp_path / "whole"))
    folder = tmp_path / "cut" / "work" / "checkpoints" / ".new-000000005"
    folder.mkdir(parents=True)
    (folder / "rank-0.safetensors").write_bytes(b"half")
    cut = nets.bag()
    loop.run(cut, nets.batches(), plan, nets.desk(tmp_path / "cut"))
    assert nets.same(whole, cut) and not folder.exists()


def test_a_checkpoint_of_another_net_is_refused(tmp_path):
    desk, plan = nets.desk(tmp_path), Plan.of({"epochs": 1, "precision": "fp32"})
    loop.run(nets.bag(), nets.batches(), plan, desk)
    net = nets.bag()
    net.more = torch.nn.Linear(2, 2)
    with pytest.raises(Conflict, match="of another net"):
        loop.run(net, nets.batches(), plan, desk)
