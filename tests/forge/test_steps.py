"""Steps: made once, whole or not at all, again when anything that matters changed; a crash leaves what it had saved."""

import json
import subprocess
import sys
import threading

import pytest

from tollway.forge.desk import Stopped
from tollway.forge.digests import code_of
from tollway.forge.steps import Cost, Runs
from tollway.kit.clock import ManualClock, SystemClock
from tollway.kit.errors import BadRequest, Conflict, NotFound

ROOMS = ("forge/recipe",)


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path, ManualClock())


def begin(runs, name="movies", **more):
    return runs.begin("text", name, "text-classification", Cost(3_600_000_000, "USD", 100.0), **more)


def write(text):
    def work(desk):
        (desk.out / "made.txt").write_text(text)
        desk.note("made")
        return {"figure": 1.5}

    return work


def test_a_step_is_made_once_and_found_again(runs):
    made, seen = [], []

    def work(desk):
        made.append(1)
        return write("x")(desk)

    folders = [begin(runs, sink=seen.append).step("train", {"a": 1}, ROOMS, work) for _ in range(2)]
    assert folders[0] == folders[1]
    assert made == [1]
    assert (folders[0] / "made.txt").read_text() == "x"
    assert [event["cached"] for event in seen if event["kind"] == "step_done"] == [False, True]


@pytest.mark.parametrize("other", [{"a": 2}, {"a": 1, "b": 1}])
def test_other_inputs_make_another_step(runs, other):
    run = begin(runs)
    assert run.step("train", {"a": 1}, ROOMS, write("x")) != run.step("train", other, ROOMS, write("y"))


def test_another_seed_and_other_code_make_another_step(runs):
    run = begin(runs)
    first = run.step("train", {}, ROOMS, write("x"))
    assert run.step("train", {}, ("forge/steps",), write("x")) != first
    run.seed = 8
    assert run.step("train", {}, ROOMS, write("x")) != first
    assert code_of(("forge/recipe",)) != code_of(("forge/steps",))


def test_what_is_so_far_counts_the_step_in_work_for_whoever_reads_the_record(runs):
    run, seen = begin(runs), []

    def works(_desk):
        runs.clock.advance(seconds=40)
        seen.append(runs.get(run.id).so_far(runs.clock.now_ms()))

    run.step("train", {}, ROOMS, works)
    assert seen == [(40.0, 40_000_000, 40 * 100 / 3600)]
    assert runs.get(run.id).so_far(runs.clock.now_ms() + 9_000)[1] == run.record.cost_micros, "nothing is in work"


def test_what_was_spent_on_a_step_that_did_not_end_was_spent(runs):
    run = begin(runs)

    def fails(_desk):
        runs.clock.advance(seconds=40)
        raise BadRequest("no")

    with pytest.raises(BadRequest) as error:
        run.step("train", {}, ROOMS, fails)
    runs.clock.advance(seconds=1)
    run.finish("failed", error.value)
    assert (run.record.seconds, run.record.cost_micros) == (41.0, 41_000_000)
    assert runs.get(run.id).so_far(runs.clock.now_ms() + 9_000)[0] == 41.0


def test_a_failing_step_leaves_nothing_but_its_checkpoints(runs):
    run = begin(runs)

    def fails(desk):
        (desk.out / "half.txt").write_text("half")
        (desk.work / "checkpoint").write_text("7")
        raise BadRequest("no")

    with pytest.raises(BadRequest):
        run.step("train", {}, ROOMS, fails)
    assert not list(runs.steps.glob("train-*"))

    def goes_on(desk):
        assert not list(desk.out.iterdir())
        (desk.out / "done").write_text((desk.work / "checkpoint").read_text())

    folder = begin(runs).step("train", {}, ROOMS, goes_on)
    assert (folder / "done").read_text() == "7"
    assert not list((runs.steps / ".work").iterdir())


def test_only_work_that_was_done_costs(runs):
    run = begin(runs)
    run.step("train", {}, ROOMS, write("x"))
    again = begin(runs)
    again.step("train", {}, ROOMS, write("x"))
    assert again.record.cost_micros == 0
    assert again.record.seconds == 0
    assert run.record.steps[0]["figures"] == {"figure": 1.5}


def test_two_runs_do_not_make_the_same_step_twice(runs):
    gate, made = threading.Event(), []

    def slow(desk):
        made.append(1)
        gate.wait(10)

    first = threading.Thread(target=lambda: begin(runs).step("train", {}, ROOMS, slow))
    second = threading.Thread(target=lambda: begin(runs).step("train", {}, ROOMS, slow))
    first.start()
    second.start()
    gate.set()
    first.join(10)
    second.join(10)
    assert made == [1]


def test_a_stop_is_heeded_between_steps(runs):
    run = begin(runs)
    run.stop_asked = lambda: True
    with pytest.raises(Stopped):
        run.step("train", {}, ROOMS, write("x"))


def test_runs_are_found_by_id_by_its_end_and_by_recipe(runs):
    one, two = begin(runs), begin(runs, "other")
    assert runs.get(one.id).id == one.id
    assert runs.get(two.id[-8:]).id == two.id
    assert runs.get("movies").id == one.id
    with pytest.raises(NotFound):
        runs.get("nothing")
    assert [record.id for record in runs.list()] == sorted([one.id, two.id])
    with pytest.raises((Conflict, NotFound)):
        runs.get("")


def test_a_run_whose_process_is_gone_is_interrupted(runs):
    run = begin(runs)
    assert runs.get(run.id).alive_state == "running"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    run.record.pid = ended.pid
    run.save()
    assert runs.get(run.id).alive_state == "interrupted"


def test_a_line_cut_by_a_crash_does_not_hide_the_events(runs):
    run = begin(runs)
    run.emit({"kind": "note", "text": "你好"})
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"kind": "no')
    assert runs.events(run.record)[-1]["text"] == "你好"


def test_killed_in_the_middle_the_next_run_starts_with_the_checkpoint(tmp_path):
    """A real process, a real SIGKILL."""
    program = f"""
import os, signal
from pathlib import Path
from tollway.forge.steps import Cost, Runs
from tollway.kit.clock import SystemClock
def work(desk):
    (desk.work / "at").write_text("41")
    (desk.out / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
Runs(Path({str(tmp_path)!r}), SystemClock()).begin("t", "m", "chat", Cost()).step("train", {{}}, {ROOMS!r}, work)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    runs = Runs(tmp_path, SystemClock())
    assert runs.list()[0].alive_state == "interrupted"
    seen = {}

    def work(desk):
        seen["at"] = (desk.work / "at").read_text()
        seen["out"] = list(desk.out.iterdir())

    folder = begin(runs).step("train", {}, ROOMS, lambda desk: work(desk))
    assert seen == {"at": "41", "out": []}
    assert json.loads(folder.with_suffix(".json").read_text())["figures"] == {}
