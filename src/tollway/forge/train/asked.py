"""What a recipe's `[train]` asks, held against what there is, all at once and without torch: before the first step runs.

For `flows.build`. A misspelt option would otherwise be found after an hour, or never: the model would train without it.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from tollway.forge.models import options as models
from tollway.forge.train import objectives
from tollway.forge.train.plan import Plan
from tollway.kit.errors import BadRequest, TollwayError

_ADAPTERS = ("lora", "adapter", "prefix", "prompt")
_HIDDEN = ("masked", "next-sentence")


def check(train: Any, model: Any, task: str) -> None:
    """Raises BadRequest naming every objective, option, metric and searched setting that means nothing."""
    problems: list[str] = []
    looks = (lambda: Plan.of(train), lambda: _options(train, task), lambda: _space(train, model), lambda: _members(train, task),
             lambda: _goal(train, model, task))  # fmt: skip
    for look in looks:
        try:
            look()
        except TollwayError as error:
            problems.append(str(error))
    if problems:
        raise BadRequest("\n".join(problems), code="invalid_recipe", param="train")


def makes_a_base(train: Any) -> bool:
    """Whether the net learns what nobody asks for (hidden words, turned pictures), to be the base of another."""
    return train.objective in objectives.OF_A_BASE


def _options(train: Any, task: str) -> None:
    """The options of the method and of the objective, by name and value."""
    objective = objectives.named(train.objective or None, task)
    adapter = models.AdapterOptions.model_fields if train.method in _ADAPTERS or _searched(train, "method") else {}
    known = [*adapter, *objectives.OPTIONS.get(objective, ())]
    asked: Mapping[str, Any] = train.options
    searched = [name.removeprefix("options.") for name in _searched(train, "options.")]
    problems = []
    for name in dict.fromkeys([*asked, *searched]):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            problems.append(f"there is no {name}" + (f"; did you mean {close[0]}?" if close else ""))
    if problems:
        what = f"the method {train.method} and the objective {objective}"
        raise BadRequest(
            f"[train] options: {'; '.join(problems)}.",
            hint=f"For {what} there are: {', '.join(known)}." if known else f"For {what} there are none.",
        )
    models.parse(models.AdapterOptions, {name: value for name, value in asked.items() if name in adapter}, "[train]")


def _goal(train: Any, model: Any, task: str) -> None:
    """A net that finds hidden words is none that writes on, and the other way round."""
    if task != "language-modeling" or train.objective not in ("", "causal", *_HIDDEN):
        return
    hides = train.objective in _HIDDEN
    if (model.architecture == "bert" or model.base == "minilm") and not hides:
        raise BadRequest(
            f"[train] objective: {model.architecture or model.base} finds hidden words; it cannot write on.",
            hint='Set objective = "masked" or "next-sentence".',
        )
    if model.architecture == "llama" and hides:
        raise BadRequest(
            "[train] objective: llama writes on; it has no hidden words to find.",
            hint='Leave objective out, or take architecture = "bert".',
        )


def _members(train: Any, task: str) -> None:
    """Answers that are written or drawn have no mean."""
    if train.members > 1 and not train.soup and task in models.SINGLE:
        raise BadRequest(
            f"[train] members: models for {task} write their answer step by step or draw it; such answers have no mean.",
            hint="Set soup = true, which averages the weights instead, or members = 1.",
        )


def _searched(train: Any, head: str) -> list[str]:
    return [name for name in train.search.space if name.startswith(head)] if train.search is not None else []


def _space(train: Any, model: Any) -> None:
    if train.search is not None:
        from tollway.forge.train import search

        search.read_space(train.search.space, train, model)
