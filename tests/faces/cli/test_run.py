"""`tollway run …`: a model that is no better than a guess is told so and stopped; runs are watched, compared and drawn."""

import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tollway.forge.steps import Cost, Runs
from tollway.kit.clock import SystemClock

RECIPE = """
[recipe]
name = "guess"
task = "tabular-classification"
[data]
dataset = "noise"
split = {validation = 0.1, test = 0.3}
[model]
architecture = "linear"
[train]
epochs = 2
threads = 1
[evaluate]
bootstrap = 50
noise = []
"""


@pytest.fixture
def noise(ask, tmp_path) -> Path:
    """A recipe for rows whose label has nothing to do with their number: three in four are "no"."""
    rows = [f"{(at * 7919) % 401},{'yes' if (at * at) % 4 == 1 and at % 8 != 3 else 'no'}" for at in range(200)]
    (tmp_path / "noise.csv").write_text("number,label\n" + "\n".join(rows) + "\n")
    ask("dataset", "import", str(tmp_path / "noise.csv"), "--name", "noise", "--label", "label")
    path = tmp_path / "guess.toml"
    path.write_text(RECIPE)
    return path


def test_a_model_that_is_no_better_than_a_guess_is_told_so_and_stopped(tollway, ask, noise, home):
    ran = tollway("run", "start", str(noise))
    assert ran.code == 7, ran.err
    assert "NOT BETTER THAN majority" in ran.err and "vs.majority is 0, wanted >0 (no better than majority" in ran.err
    assert 'require = {"vs.majority" = ">=-0.01"}' in ran.err and 'metrics = ["auc"]' in ran.err
    assert ask("model", "list", "--all") == []
    failed = ask("run", "show", "guess")
    assert f"tollway run report {failed['id']}" in ran.err, "the error says where the report is"
    assert f"tollway run report {failed['id']}" in tollway("run", "show", "guess").err, "and to go on would change nothing"
    assert failed["state"] == "failed" and failed["metrics"]["not_better_than"].startswith("majority")
    page = (Path(failed["folder"]) / "report.html").read_text(encoding="utf-8")
    assert "Not better than majority" in page and "for every model" in page
    assert "Not better than majority" in (Path(failed["folder"]) / "card.md").read_text(encoding="utf-8")

    # a recipe that says otherwise has its model, and is told so all the same
    noise.write_text(RECIPE + 'require = {"vs.majority" = ">=-0.01"}\n')
    ran = tollway("run", "start", str(noise))
    assert ran.code == 0, ran.err
    assert "not better than majority" in ran.out and "WARNING" in ran.out
    assert "tollway run report" in ran.err and "tollway deploy" not in ran.err
    shown = ask("run", "show", "guess")
    assert shown["package"] == "guess@1" and [one["cached"] for one in shown["steps"][:2]] == [True, True]

    noise.write_text(RECIPE + "baseline = false\n")  # nothing was converted: no engine serves it, so it is not told to be deployed
    ran = tollway("run", "start", str(noise))
    assert ran.code == 0 and "[convert] formats" in ran.err and "tollway deploy" not in ran.err
    table = ask("run", "compare", failed["id"], shown["id"])
    by_name = {row["figure"]: list(row.values())[1:] for row in table}
    assert by_name["accuracy"][0] == by_name["accuracy"][1] > 0.5 and by_name["gates"] == ["1 of 2", "1 of 1"]
    assert tollway("run", "compare", "guess", failed["id"][-6:]).out.count("accuracy") >= 1

    # what TensorBoard draws is what the run told
    board = EventAccumulator(str(Path(failed["folder"]) / "tensorboard"))
    board.Reload()
    drawn = {one.step: one.value for one in board.Scalars("train/train.loss")}
    runs = Runs(home, SystemClock())
    told = [one for one in runs.events(runs.get(failed["id"])) if one["kind"] == "metric" and one["name"] == "train.loss"]
    assert drawn == pytest.approx({one["at"]: one["value"] for one in told}) and len(drawn) > 1


def test_a_run_is_watched_until_it_ends(tollway, home):
    run = Runs(home, SystemClock()).begin(RECIPE, "guess", "tabular-classification", Cost())
    run.emit({"kind": "step_started", "step": "train", "cached": False})

    def go_on() -> None:
        run.emit({"kind": "progress", "step": "train", "done": 1, "total": 2})
        run.emit({"kind": "note", "step": "train", "text": "half of it is done"})
        run.emit({"kind": "step_done", "step": "train", "cached": False, "seconds": 3.0, "figures": {"loss": 0.25}})
        run.finish("done")

    later = threading.Timer(0.2, go_on)
    later.start()
    ran = tollway("run", "watch", "guess")
    later.join()
    assert ran.code == 0
    assert "half of it is done" in ran.err and "train      3.0 s" in ran.err and "loss 0.25" in ran.err
    assert run.id in ran.out and "tollway run report" in ran.err
