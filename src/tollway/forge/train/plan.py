"""The plan: everything about HOW a net is trained, resolved from the recipe's `[train]` and checked, all problems at once.

For the loop, which reads nothing else; torch-free, and JSON both ways, so that a plan travels to other processes.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from tollway.kit.errors import BadRequest

OPTIMIZERS = ("sgd", "adagrad", "rmsprop", "adam", "adamw", "adafactor")
SCHEDULES = ("constant", "linear", "cosine", "one-cycle")
PRECISIONS = ("auto", "fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda", "mps")
DISTRIBUTED = ("ddp", "fsdp", "tensor", "ray", "ray-fsdp")
METHODS = ("full", "lora", "adapter", "prefix", "prompt", "none")  # and "top:N"
LOWER_IS_BETTER = ("loss", "rmse", "mae", "perplexity")
METRICS = ("accuracy", *LOWER_IS_BETTER)
_SPELLED = {"adam_w": "adamw", "rms_prop": "rmsprop", "ada_grad": "adagrad", "one_cycle": "one-cycle", "onecycle": "one-cycle"}

_COUNTED = 64  # epochs counted exactly; with batches by tokens an epoch's count of steps differs a little each time

# A learning rate that works for most: by optimizer for a net from scratch; a pre-trained one wants much less.
_RATES = {"sgd": 0.05, "adagrad": 0.01, "rmsprop": 1e-3, "adam": 1e-3, "adamw": 1e-3, "adafactor": 1e-2}
_PRETRAINED_RATE = 5e-5
_METHOD_RATES = {"lora": 5e-4, "adapter": 5e-4, "prefix": 1e-2, "prompt": 3e-2}


@dataclass(frozen=True)
class Plan:
    """How to train. `steps` beats `epochs`; 0 switches a regulariser off; None means: chosen from the case."""

    method: str = "full"
    objective: str | None = None
    epochs: float = 3.0
    steps: int | None = None
    learning_rate: float | None = None
    optimizer: str = "adamw"
    momentum: float = 0.9
    schedule: str = "linear"
    warmup: float = 0.06  # below 1: a share of all steps; otherwise steps
    batch_tokens: int | None = None
    batch_rows: int | None = None
    accumulate: int = 1
    precision: str = "auto"
    device: str = "auto"
    weight_decay: float = 0.01
    l1: float = 0.0
    dropout: float | None = None
    label_smoothing: float = 0.0
    clip: float = 1.0
    patience: int | None = None  # evaluations without progress before it stops
    metric: str | None = None  # what "best" means; None: accuracy where there is one, else loss
    evaluate_every: int | None = None  # steps; None: once an epoch
    adversarial_epsilon: float = 0.0
    members: int = 1  # models of different seeds; their answers are averaged
    soup: bool = False  # their weights are averaged instead
    checkpoint_every_s: float = 60.0
    checkpoint_every_steps: int | None = None
    processes: int = 1
    distributed: str = "ddp"
    threads: int = 1
    seed: int = 0

    @classmethod
    def of(cls, train: Any, *, seed: int = 0, threads: int = 1) -> "Plan":
        """The plan a recipe's `[train]` part (object or mapping) asks for. Raises BadRequest listing every problem."""
        given = _given(train)
        given.setdefault("seed", seed)
        given.setdefault("threads", threads)
        plan = cls(**given)
        problems = plan.problems()
        if problems:
            raise BadRequest(
                "The [train] part cannot be followed: " + " ".join(problems), code="recipe_invalid", param="train",
                hint="Correct the recipe and start the run again.",
            )
        return plan

    def problems(self) -> list[str]:
        """Everything wrong with this plan, one sentence each."""
        found = [
            *_one_of("optimizer", self.optimizer, OPTIMIZERS), *_one_of("schedule", self.schedule, SCHEDULES),
            *_one_of("precision", self.precision, PRECISIONS), *_one_of("distributed", self.distributed, DISTRIBUTED),
            *_one_of("device", self.device, DEVICES), *_method(self.method),
        ]
        if self.metric is not None:
            found += _one_of("early_stopping.metric", self.metric, METRICS)
        for name, low in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= low:
                found.append(f"{name} = {value} is below {low}.")
        for name in ("dropout", "label_smoothing", "momentum"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                found.append(f"{name} = {value} must be from 0 up to, not including, 1.")
        if not 0 < self.epochs < 1e6:
            found.append(f"epochs = {self.epochs} must be above 0.")
        if self.learning_rate is not None and not 0 < self.learning_rate < 100:
            found.append(f"learning_rate = {self.learning_rate} must be above 0 and below 100.")
        if self.batch_tokens is not None and self.batch_rows is not None:
            found.append("batch_tokens and batch_rows both say how large a batch is: keep one.")
        if self.soup and self.members < 2:
            found.append("a soup needs members: set members to 2 or more.")
        return found

    @property
    def top(self) -> int | None:
        """N of the method `top:N`, else None."""
        return int(self.method[4:]) if self.method.startswith("top:") else None

    def rate(self, *, pretrained: bool) -> float:
        """The learning rate: the given one, else what suits the optimizer and the method."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.method in _METHOD_RATES and self.optimizer != "sgd":
            return _METHOD_RATES[self.method]
        scratch = _RATES[self.optimizer]
        if not pretrained:
            return scratch
        return scratch * 0.1 if self.optimizer in ("sgd", "adafactor") else _PRETRAINED_RATE * (4 if self.top else 1)

    def warmup_steps(self, total: int) -> int:
        """How many steps the rate rises."""
        return round(self.warmup * total) if self.warmup < 1 else min(int(self.warmup), total)

    def total_steps(self, of_epoch: Callable[[int], int]) -> int:
        """Optimiser steps in all, given how many an epoch has."""
        if self.steps is not None:
            return self.steps
        whole, part = int(self.epochs), self.epochs - int(self.epochs)
        counted = sum(of_epoch(number) for number in range(min(whole, _COUNTED)))
        counted = counted * whole // _COUNTED if whole > _COUNTED else counted
        return max(1, counted + (math.ceil(part * of_epoch(whole)) if part else 0))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Plan":
        return cls(**document)

    def but(self, **changed: Any) -> "Plan":
        """The same plan with other values."""
        return replace(self, **changed)


_AT_LEAST: dict[str, float] = {
    "steps": 1, "warmup": 0, "batch_tokens": 1, "batch_rows": 1, "accumulate": 1, "weight_decay": 0, "l1": 0,
    "clip": 0, "patience": 1, "evaluate_every": 1, "adversarial_epsilon": 0, "members": 1,
    "checkpoint_every_s": 0, "checkpoint_every_steps": 1, "processes": 1, "threads": 1,
}


def better(metric: str, new: float, old: float | None) -> bool:
    """Is `new` progress over `old`? Not-a-number never is."""
    if new != new:
        return False
    if old is None or old != old:
        return True
    return new < old if metric in LOWER_IS_BETTER else new > old


def _given(train: Any) -> dict[str, Any]:
    """The recipe's words as this plan's fields; absent and None ones are left out."""
    if isinstance(train, Mapping):
        source = dict(train)
    elif hasattr(train, "model_dump"):
        source = train.model_dump()
    else:
        source = dict(vars(train)) if train is not None else {}
    known = {field.name for field in fields(Plan)}
    given = {name: value for name, value in source.items() if name in known and value is not None and value != ""}
    for word in ("optimizer", "schedule"):
        if isinstance(given.get(word), str):
            given[word] = _SPELLED.get(given[word].lower(), given[word].lower())
    stopping, adversarial = source.get("early_stopping"), source.get("adversarial")
    for name in ("patience", "metric"):
        value = _part(stopping, name)
        if value is not None:
            given[name] = value
    epsilon = _part(adversarial, "epsilon")
    if epsilon is not None:
        given["adversarial_epsilon"] = float(epsilon)
    return given


def _part(section: Any, name: str) -> Any:
    return section.get(name) if isinstance(section, Mapping) else getattr(section, name, None)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> list[str]:
    if value in allowed:
        return []
    close = difflib.get_close_matches(str(value), allowed, n=1)
    return [f"{name} = {value!r} is none of {', '.join(allowed)}" + (f" (did you mean {close[0]!r}?)." if close else ".")]


def _method(value: str) -> list[str]:
    if value.startswith("top:"):
        return [] if value[4:].isdigit() and int(value[4:]) > 0 else [f"method = {value!r}: top:N wants a whole number, as top:2."]
    return _one_of("method", value, METHODS)

