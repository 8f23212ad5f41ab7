"""The training loop: steps, looks at held-out rows, checkpoints, an early end, and going on exactly where it was.

For `train.fit` and everything that trains anything here. It knows a net only by its contract and writes only to
`desk.work`. A run that was killed and started again ends with the weights of the run that was not, bit for bit.

    result = loop.run(net, batches, plan, desk, validation=held_out, objective=objectives.get(None, task))
"""

import contextlib
import json
import random
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tollway.forge.desk import Stopped
from tollway.forge.train import attention, checkpoints, device, judge, objectives, precision
from tollway.forge.train.batches import Batches
from tollway.forge.train.freezing import train_mode
from tollway.forge.train.group import Alone, Group
from tollway.forge.train.learner import Learner, set_dropout
from tollway.forge.train.objectives import Objective
from tollway.forge.train.plan import Plan, better
from tollway.forge.train.quick_dropout import quick
from tollway.forge.train.quick_layers import quick_layers
from tollway.kit.errors import Conflict
from tollway.kit.said import say

_POINTS = 200  # of a curve
_ASK_EVERY = 10  # steps between the moments when processes agree on whether to save


@dataclass
class Course:
    """Where a run is; with the tensors of a checkpoint, all there is to know."""

    total: int
    precision: str
    attention: str = ""
    step: int = 0  # optimiser steps done
    epoch: int = 0
    position: int = 0  # steps done in this epoch
    best: float | None = None
    best_loss: float | None = None
    best_step: int = 0
    stale: int = 0  # looks without progress
    tokens: int = 0
    rows: int = 0
    seconds: float = 0.0
    ended: str = ""  # "", "done", "early"
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """What a run did. `best` is the best look's figure of `metric`; the net holds its weights."""

    steps: int
    best: float | None
    metric: str
    history: list[dict[str, float]]
    seconds: float
    tokens: int
    rows: int
    best_step: int
    stopped_early: bool
    precision: str
    attention: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(
    net: nn.Module,
    batches: Batches,
    plan: Plan,
    desk: Any,
    *,
    validation: Batches | None = None,
    objective: Objective | None = None,
    group: Group | None = None,
    pretrained: bool = False,
) -> Result:
    """Trains the net in place and leaves it with its best weights (the last ones without validation)."""
    before = attention.used(net)
    torch.set_flush_denormal(True)  # shares near nothing (masked attention) cost 1.5x the time, and nobody sees them
    try:
        with quick(net), quick_layers(net), contextlib.ExitStack() as stack:
            loop = Loop(net, batches, plan, desk, validation, objective, group or Alone(), pretrained)
            stack.callback(loop.learner.close)
            return loop.go()
    finally:
        torch.set_flush_denormal(False)  # it is the whole thread's, and others rely on it
        attention.use(net, before)


class Loop:
    """One run; `go` is its story."""

    def __init__(
        self, net: nn.Module, batches: Batches, plan: Plan, desk: Any, validation: Batches | None,
        objective: Objective | None, group: Group, pretrained: bool,
    ) -> None:  # fmt: skip
        # Threads wait for each other spinning: for a small net that costs more than it brings, on a busy machine 10 times more.
        torch.set_num_threads(1 if precision.is_small(net) else plan.threads)
        _seed(plan.seed + group.rank)
        self.net, self.batches, self.plan, self.desk, self.validation, self.group = (
            net,
            batches,
            plan,
            desk,
            validation,
            group,
        )
        self.objective = objective or objectives.get(plan.objective, "", label_smoothing=plan.label_smoothing)
        self.work = Path(desk.work)
        self.shelf = checkpoints.Shelf(self.work / "checkpoints", group.number, group.barrier)
        if plan.dropout is not None:
            set_dropout(net, plan.dropout)
        train_mode(net)
        total = plan.total_steps(lambda number: len(self._steps_of(number)))
        choice = precision.choose(net, self.objective, batches, plan, self.work, group, Path(desk.home))
        if group.number == 0 and plan.precision == "auto" and not precision.is_small(net):
            desk.note(precision.in_words(choice))
        self.course = Course(total=total, precision=choice.precision, attention=choice.attention)
        self.learner = Learner(
            net, self.objective, plan, total, plan.rate(pretrained=pretrained), choice.precision, group
        )
        self._metric = plan.metric or ""
        self._recent: dict[str, float] = {}
        self._began = self._saved = time.monotonic()
        self._spent = 0.0

    def go(self) -> Result:
        """Resume or begin; step until the end; keep the best."""
        self._resume()
        course = self.course
        while not course.ended:
            steps = self._steps_of(course.epoch)
            while course.position < len(steps) and not course.ended:
                self._pause_if_asked()
                self._step(steps[course.position], last=course.position + 1 == len(steps))
            if not course.ended:
                course.epoch, course.position = course.epoch + 1, 0
        self.learner.settle()
        self._keep_best()
        return Result(
            steps=course.step, best=course.best, metric=self._metric, history=course.history, seconds=round(self._seconds(), 3),
            tokens=course.tokens, rows=course.rows, best_step=course.best_step, stopped_early=course.ended == "early",
            precision=course.precision, attention=course.attention,
        )  # fmt: skip

    def _steps_of(self, epoch: int) -> list[list[list[int]]]:
        """The epoch's optimiser steps, each a list of batches for the whole group; the last one is filled from the first."""
        order = self.batches.epoch(epoch)
        wide = self.plan.accumulate * self.group.size
        steps = [order[at : at + wide] for at in range(0, len(order), wide)]
        while len(steps[-1]) % self.group.size:
            steps[-1] = [*steps[-1], order[len(steps[-1]) % len(order)]]
        return steps

    def _step(self, step: list[list[int]], *, last: bool) -> None:
        course, plan = self.course, self.plan
        rows = sum(len(indices) for indices in step)
        mine = step[self.group.rank :: self.group.size]
        batches = [device.move(self.batches.batch(indices), self.learner.device) for indices in mine]
        weights = [len(indices) * self.group.size / rows for indices in mine]
        figures = self.learner.step(batches, course.step, weights)
        course.step += 1
        course.position += 1
        course.rows += rows
        course.tokens += sum(self.batches.size(indices) for indices in step)
        self._show(figures)
        ends = course.step >= course.total
        every = plan.evaluate_every
        if ends or (last and not every) or (every and course.step % every == 0):
            self._look()
        if ends:
            course.ended = course.ended or "done"
        self._save_if_due()

    def _show(self, figures: dict[str, float]) -> None:
        """Progress for who watches; a curve of a limited number of points for who reads."""
        if self.group.number:
            return
        for name, value in figures.items():
            old = self._recent.get(name)
            self._recent[name] = value if old is None else 0.9 * old + 0.1 * value
        course, seconds = self.course, max(self._seconds(), 1e-9)
        self.desk.progress(
            course.step, course.total, "steps", loss=round(self._recent["loss"], 5), rate=figures["rate"],
            rows_per_s=round(course.rows / seconds, 1), tokens_per_s=round(course.tokens / seconds, 1),
        )  # fmt: skip
        if course.step % max(1, course.total // _POINTS) == 0 or course.step == 1:
            for name in figures:
                value = figures["rate"] if name == "rate" else self._recent[name]
                self.desk.metric(f"train.{name}", value, course.step)

    def _look(self) -> None:
        """Measure on the held-out rows; remember the best; end early when nothing gets better."""
        if self.validation is None:
            self.course.history.append(
                {"step": self.course.step, "epoch": self.course.epoch, "train_loss": self._recent.get("loss", 0.0)}
            )
            return
        course = self.course
        figures = judge.measure(
            self.net, self.objective, self.validation, course.precision, self.group, self.learner.module
        )
        self.group.settle(self.learner.module)
        if not self._metric or self._metric not in figures:
            self._metric = self._choose_metric(figures)
        value = figures[self._metric]
        course.history.append(
            {"step": course.step, "epoch": course.epoch, "train_loss": self._recent.get("loss", 0.0), **figures}
        )
        if self.group.number == 0:
            for name, each in figures.items():
                self.desk.metric(f"validation.{name}", each, course.step)
        if len(self.learner.optimisers) > 1 and not self.plan.metric:
            return  # halves that work against each other: neither's loss says which moment was best
        equal = value == course.best and better("loss", figures["loss"], course.best_loss)
        if equal or better(self._metric, value, course.best):
            course.best, course.best_loss, course.best_step, course.stale = value, figures["loss"], course.step, 0
            self.learner.settle()
            checkpoints.save_weights(self._best_file(course.step), self.net)
        else:
            course.stale += 1
            if self.plan.patience and course.stale >= self.plan.patience:
                course.ended = "early"
                if self.group.number == 0:
                    self.desk.note(
                        say(
                            "train.early",
                            "Stopped early at step {step}: {metric} has not improved since step {best_step} ({best}).",
                            step=course.step,
                            metric=str(self._metric),
                            best_step=course.best_step,
                            best=f"{course.best:.4g}",
                        )
                    )

    def _choose_metric(self, figures: dict[str, float]) -> str:
        if self._metric:
            raise Conflict(
                say("train.not_measured", "early_stopping.metric = {metric} is not measured here; there are {these}.",
                    metric=repr(self._metric), these=", ".join(sorted(figures))),
                param="train.early_stopping.metric",
                hint=say("train.take_one", "Take one of these."),
            )
        return "accuracy" if "accuracy" in figures else "loss"

    def _best_file(self, step: int) -> Path:
        return self.work / "best" / f"step-{step:09d}-rank-{self.group.number}.safetensors"

    def _keep_best(self) -> None:
        if self.course.best is None or self.course.best_step == self.course.step:
            return
        checkpoints.load_weights(self._best_file(self.course.best_step), self.net)

    def _resume(self) -> None:
        """Everything back to the last checkpoint, if there is one."""
        newest = self.shelf.newest()
        if newest is None:
            return
        saved = self.shelf.load(newest, self.net, self.learner.optimisers)
        if saved["total"] != self.course.total:
            raise Conflict(
                say("train.other_steps", "The checkpoint is of a run with another number of steps."),
                hint=say("train.delete_work", "Delete the run's work folder."),
            )
        self._metric, self._recent = saved.pop("metric"), saved.pop("recent")
        self.course = Course(**saved)
        self.learner.precision = self.course.precision
        self._spent = self.course.seconds
        if self.group.number == 0 and self.course.step:
            done, total = self.course.step, self.course.total
            self.desk.note(say("train.goes_on", "Goes on at step {step} of {total}.", step=done, total=total))

    def _pause_if_asked(self) -> None:
        if self.course.step % _ASK_EVERY and self.group.size > 1:
            return
        if self.group.agree(bool(self.desk.stopped())):
            self._save()
            raise Stopped(
                say("train.stopped", "Training was stopped at step {step} of {total}; a checkpoint is kept.",
                    step=self.course.step, total=self.course.total),
                hint=say("train.goes_on_there", "Start the same recipe again: it goes on from there."),
            )  # fmt: skip

    def _save_if_due(self) -> None:
        plan, course = self.plan, self.course
        if plan.checkpoint_every_steps:
            due = course.step % plan.checkpoint_every_steps == 0
        elif self.group.size > 1 and course.step % _ASK_EVERY and not course.ended:
            due = False
        else:
            due = self.group.agree(time.monotonic() - self._saved >= plan.checkpoint_every_s)
        if due or course.ended:
            self._save()

    def _save(self) -> None:
        self.course.seconds = self._seconds()
        state = {**asdict(self.course), "metric": self._metric, "recent": self._recent}
        self.shelf.save(self.course.step, self.net, self.learner.optimisers, state)
        self._saved = time.monotonic()
        self._forget_old_best()

    def _forget_old_best(self) -> None:
        """Best weights that no kept checkpoint points at go; one that a kept one may still need stays."""
        if not (self.work / "best").is_dir():
            return
        needed = {self.course.best_step}
        for checkpoint in (self.work / "checkpoints").glob("step-*/course.json"):
            needed.add(_best_step_of(checkpoint))
        for file in (self.work / "best").glob(f"step-*-rank-{self.group.number}.safetensors"):
            if int(file.name.split("-")[1]) not in needed:
                file.unlink(missing_ok=True)

    def _seconds(self) -> float:
        return self._spent + time.monotonic() - self._began


def _seed(number: int) -> None:
    """Every generator that a net or an objective may draw from."""
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)


def _best_step_of(course: Path) -> int:
    return int(json.loads(course.read_text(encoding="utf-8"))["best_step"])
