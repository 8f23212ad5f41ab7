"""Runs and their steps: each step is cached by the digest of what goes into it, and picks up where a crash left it.

    run = Runs(home, clock).begin(recipe_text, recipe, cost)
    folder = run.step("train", {"train": recipe.train, "after": prepared.name}, lambda desk: fit(..., desk))

What a step's function writes to `desk.out` becomes `runs/steps/<name>-<digest>/`, whole or not at all (renamed into
place after an fsync); its figures and times are `<name>-<digest>.json` beside it. The digest covers the recipe's part, the
digests of the steps before, the seed, the source code of the rooms that do the work and the versions of the libraries
beneath, so a hit is the same work done before and a change of code is never hidden by the cache. `desk.work` survives a
crash: checkpoints go there.

Everything that happens is a line of `events.jsonl`; the terminal, `run watch`, the console and the report read those.
"""

import fcntl
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from tollway.forge.desk import Desk, Event, Sink, Stopped
from tollway.forge.digests import code_of, digest_of
from tollway.kit import durable
from tollway.kit.clock import Clock
from tollway.kit.errors import Conflict, NotFound, TollwayError
from tollway.kit.ids import new_id
from tollway.kit.said import coded, say

Events: TypeAlias = list[Event]  # inside Runs the word list is a method


@dataclass(frozen=True, slots=True)
class Cost:
    """What the machine costs: micros of `currency` an hour, and watts while it works. Both are assumptions, shown as such."""

    micros_per_hour: int = 0
    currency: str = "USD"
    watts: float = 0.0


class Record(msgspec.Struct, kw_only=True):
    """`run.json`: a run at a glance. `cost_micros` and `energy_wh` cover the steps that really ran, cached ones not."""

    id: str
    recipe: str
    task: str
    state: str = "running"  # running | done | failed | stopped
    step: str = ""
    pid: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    cost_micros: int = 0
    currency: str = "USD"
    energy_wh: float = 0.0
    made_seconds: float = 0.0  # what making it took in all, steps from the cache included at what they took then
    error: str = ""
    hint: str = ""
    said: list[dict[str, Any] | None] = []  # both as codes and figures
    package: str = ""
    dataset: str = ""
    dataset_digest: str = ""
    steps: list[dict[str, Any]] = []
    metrics: dict[str, Any] = {}
    step_began_ms: int = 0  # of the step that is being made; 0: none is
    micros_per_hour: int = 0
    watts: float = 0.0

    def so_far(self, now_ms: int) -> tuple[float, int, float]:
        """Seconds, cost in micros and energy in Wh, with what the step in work took until now."""
        working = self.step_began_ms and self.alive_state == "running"
        more = max(0, now_ms - self.step_began_ms) / 1000 if working else 0.0
        cost = self.cost_micros + round(more * self.micros_per_hour / 3600)
        return self.seconds + more, cost, self.energy_wh + more * self.watts / 3600

    @property
    def alive_state(self) -> str:
        """`interrupted` when its process is gone without having said how it ended."""
        return self.state if self.state != "running" or _alive(self.pid) else "interrupted"


class Run:
    """One execution of a recipe."""

    def __init__(self, runs: "Runs", record: Record, cost: Cost, *, sink: Sink | None = None) -> None:
        self.runs = runs
        self.record = record
        self.cost = cost
        self.seed = 0
        self.threads = os.cpu_count() or 1
        self.shelf: Any = None
        self.store: Any = None
        self.stop_asked: Callable[[], bool] = lambda: False
        self._sink = sink
        self._began = time.monotonic()

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def folder(self) -> Path:
        return self.runs.root / self.record.id

    def step(
        self,
        name: str,
        inputs: Mapping[str, Any],
        rooms: Iterable[str],
        work: Callable[[Desk], Mapping[str, Any] | None],
    ) -> Path:
        """The output folder of a step: from the cache, or made now. `rooms` are the packages whose code matters."""
        if self.stop_asked():
            raise Stopped(
                say("run.stopped", "The run was stopped."),
                hint=say("run.start_again", "Start the same recipe again: it goes on where it was."),
            )
        digest = digest_of({"step": name, "seed": self.seed, "code": code_of(tuple(rooms)), **inputs})
        folder = self.runs.steps / f"{name}-{digest[:16]}"
        self.record.step = name
        self.save()
        with self._alone(folder):
            noted = folder.with_suffix(".json")
            cached = noted.is_file() and folder.is_dir()
            self.emit({"kind": "step_started", "step": name, "cached": cached})
            row = json.loads(noted.read_text("utf-8")) if cached else self._make(name, folder, work)
        seconds = 0.0 if cached else float(row["seconds"])
        self.record.step_began_ms = 0
        self.record.steps.append({"name": name, "folder": folder.name, "cached": cached, **row})
        self.record.seconds += seconds
        self.record.made_seconds += float(row["seconds"])
        self.record.cpu_seconds += 0.0 if cached else float(row["cpu_seconds"])
        self.record.cost_micros += round(seconds * self.cost.micros_per_hour / 3600)
        self.record.energy_wh += seconds * self.cost.watts / 3600
        self.save()
        self.emit({"kind": "step_done", "step": name, "cached": cached, "seconds": seconds, "figures": row["figures"]})
        return folder

    def _make(self, name: str, folder: Path, work: Callable[[Desk], Mapping[str, Any] | None]) -> dict[str, Any]:
        making = self.runs.steps / ".making" / folder.name
        keep = self.runs.steps / ".work" / folder.name
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        keep.mkdir(parents=True, exist_ok=True)
        desk = Desk(
            out=making, work=keep, home=self.runs.root.parent, seed=self.seed, threads=self.threads, step=name,
            emit=lambda event: self.emit({**event, "step": name}), shelf=self.shelf, store=self.store,
            board=self.folder / "tensorboard", stop_asked=self.stop_asked,
        )  # fmt: skip
        self.record.step_began_ms = self.runs.clock.now_ms()
        self.save()
        began, cpu = time.monotonic(), _cpu_seconds()
        try:
            figures = dict(work(desk) or {})
        finally:
            desk.close()
        row = {"seconds": round(time.monotonic() - began, 3), "cpu_seconds": round(_cpu_seconds() - cpu, 3),
               "figures": figures, "made_ms": self.runs.clock.now_ms(), "run": self.id}  # fmt: skip
        durable.sync_tree(making)
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)
        # What is told of a step lies beside its output: the output of equal work is equal, byte for byte.
        durable.write(folder.with_suffix(".json"), json.dumps(row, ensure_ascii=False, default=str, indent=1))
        durable.sync(self.runs.steps)
        shutil.rmtree(keep, ignore_errors=True)
        return row

    @contextmanager
    def _alone(self, folder: Path) -> Any:
        """Two runs that need the same step: the second waits and then finds it made."""
        lock = self.runs.steps / ".locks" / folder.name
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("a") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.emit(
                    {"kind": "note", "text": f"Another run is making the same step ({folder.name}); waiting for it."}
                )
                fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def emit(self, event: Event) -> None:
        """Write an event down and tell whoever listens."""
        event = {"at_ms": self.runs.clock.now_ms(), **event}
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False, default=str) + "\n")
        if self._sink is not None:
            self._sink(event)

    def save(self) -> None:
        """Bring `run.json` up to date."""
        durable.write(
            self.folder / "run.json", msgspec.json.format(msgspec.json.encode(self.record), indent=1).decode()
        )

    def figures(self, step: str) -> dict[str, Any]:
        """What a step of this run reported; empty before it is done."""
        return next((dict(row["figures"]) for row in reversed(self.record.steps) if row["name"] == step), {})

    def finish(self, state: str, error: TollwayError | None = None) -> None:
        """The run has ended: done, failed or stopped. What was spent on a step that did not end was spent."""
        record, now_ms = self.record, self.runs.clock.now_ms()
        record.seconds, record.cost_micros, record.energy_wh = record.so_far(now_ms)
        record.step_began_ms = 0
        self.record.state = state
        self.record.finished_ms = now_ms
        if error is not None:
            self.record.error, self.record.hint = error.message, error.hint
            self.record.said = [coded(error.said), coded(error.said_hint)]
        self.save()
        self.emit({"kind": "run_done", "state": state, "error": self.record.error, "package": self.record.package})


class Runs:
    """The runs of a home: `<home>/runs/<id>/`, and the steps they share."""

    def __init__(self, home: Path, clock: Clock) -> None:
        self.root = home / "runs"
        self.steps = self.root / "steps"
        self.clock = clock

    def begin(self, recipe_text: str, name: str, task: str, cost: Cost, *, sink: Sink | None = None) -> Run:
        """A new run of a recipe."""
        run_id = new_id("run", self.clock.now_ms())
        folder = self.root / run_id
        folder.mkdir(parents=True)
        self.steps.mkdir(exist_ok=True)
        durable.write(folder / "recipe.toml", recipe_text)
        record = Record(id=run_id, recipe=name, task=task, pid=os.getpid(), started_ms=self.clock.now_ms())
        record.currency, record.micros_per_hour, record.watts = cost.currency, cost.micros_per_hour, cost.watts
        run = Run(self, record, cost, sink=sink)
        run.save()
        run.emit({"kind": "run_started", "run": run_id, "recipe": name, "task": task})
        return run

    def list(self) -> list[Record]:
        """All runs, oldest first; a folder without a readable `run.json` is none."""
        found = []
        for path in sorted(self.root.glob("run_*/run.json")):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=Record))
            except (OSError, msgspec.MsgspecError):
                continue
        return found

    def get(self, run: str) -> Record:
        """A run by its id, the end of its id, or a recipe's name (its newest run). Raises NotFound, Conflict."""
        records = self.list()
        named = [record for record in records if record.recipe == run]
        exact = [record for record in records if record.id == run] or named[-1:]
        if not exact:
            exact = [record for record in records if len(run) >= 4 and record.id.endswith(run)]
        if not exact:
            raise NotFound(
                say("run.unknown", "There is no run {name}.", name=run),
                code="run_not_found",
                hint=say("run.list", "`tollway run list` shows them."),
            )
        if len(exact) > 1:
            raise Conflict(
                say("run.many", "{name} is the end of {count} run ids.", name=run, count=len(exact)),
                hint=say("run.give_more", "Give more of it."),
            )
        return exact[0]

    def folder(self, record: Record) -> Path:
        return self.root / record.id

    def output(self, record: Record, step: str) -> Path | None:
        """The folder a step of this run made or found; None when it did not get there, or was cleared away."""
        for row in record.steps:
            if row["name"] == step and (self.steps / row["folder"]).is_dir():
                return self.steps / str(row["folder"])
        return None

    def events(self, record: Record) -> Events:
        """Everything that happened, in order; a line cut by a crash is left out."""
        found = []
        with (self.folder(record) / "events.jsonl").open(encoding="utf-8") as file:
            for line in file:
                try:
                    found.append(json.loads(line))
                except json.JSONDecodeError:
                    continue
        return found


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _cpu_seconds() -> float:
    """Of this process and the children it has waited for."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
