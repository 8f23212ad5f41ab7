"""Hyper-parameter search (Optuna's TPE) with a budget of trials and minutes; every trial is shown and written down.

For `train.fit` when the recipe has `search`. A trial is a whole training with some settings changed; the best one's model
is kept (it is not trained again) and its settings are written to best.toml. A killed search goes on after its last trial:
each trial draws from its own seed and from the trials before it, so it proposes what it would have proposed.
"""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tollway.forge.desk import Stopped
from tollway.forge.train.plan import LOWER_IS_BETTER, METHODS, Plan
from tollway.kit.errors import BadRequest, Conflict
from tollway.kit.said import say

_NEVER = ("search", "members", "soup", "processes", "distributed", "threads", "checkpoint_every_s", "early_stopping", "adversarial")


@dataclass(frozen=True)
class Setting:
    """One thing that varies: [low, high], [low, high, "log"], or choices."""

    name: str
    values: tuple[Any, ...]

    @property
    def is_range(self) -> bool:
        numbers = [each for each in self.values if isinstance(each, (int, float)) and not isinstance(each, bool)]
        return len(numbers) == 2 and (len(self.values) == 2 or (len(self.values) == 3 and self.values[2] == "log"))

    def suggest(self, trial: Any) -> Any:
        """The trial's value."""
        if not self.is_range:
            return json.loads(trial.suggest_categorical(self.name, self._choices()))
        low, high, log = self.values[0], self.values[1], len(self.values) == 3
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(self.name, low, high, log=log)
        return trial.suggest_float(self.name, float(low), float(high), log=log)

    def _choices(self) -> list[str]:
        """As text: a choice may be a list."""
        return [json.dumps(each) for each in self.values]

    def remembered(self, value: Any) -> Any:
        """A trial's value as Optuna keeps it."""
        return value if self.is_range else json.dumps(value)

    def distribution(self) -> Any:
        """The same for Optuna's memory."""
        from optuna import distributions

        if not self.is_range:
            return distributions.CategoricalDistribution(self._choices())
        low, high, log = self.values[0], self.values[1], len(self.values) == 3
        if isinstance(low, int) and isinstance(high, int):
            return distributions.IntDistribution(low, high, log=log)
        return distributions.FloatDistribution(float(low), float(high), log=log)


def fit(train: Any, model: Any, task: str, prepared: Any, desk: Any) -> dict[str, Any]:
    """Runs the search and leaves the best trial's model in `desk.out`; its figures, with all trials."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not prepared.rows("validation"):
        raise BadRequest("A search compares trials on validation rows, and there are none.", param="train.search",
                         hint="Give [data] split a validation share.")  # fmt: skip
    wish, base = train.search, train.model_copy(update={"search": None})
    space = read_space(wish.space, train, model)
    plan = Plan.of(base, seed=desk.seed, threads=desk.threads)
    log = Trials(Path(desk.work) / "trials.jsonl")
    rows = log.read()
    while len(rows) < wish.trials and (not rows or sum(row["seconds"] for row in rows) < wish.minutes * 60):
        if desk.stopped():
            raise Stopped(
                say("train.search_stopped", "The search was stopped after {count} trials; they are kept.", count=len(rows)),
                hint=say("train.search_again", "Start the same recipe again."),
            )
        number = len(rows)
        settings = propose(space, rows, plan.seed + number)
        row = _trial(number, settings, base, model, task, prepared, desk)
        rows.append(row)
        log.add(row)
        shutil.rmtree(Path(desk.work) / f"trial-{number}", ignore_errors=True)  # not before: half of it is no checkpoint
        _show(row, rows, wish.trials, desk)
        _keep_best(rows, desk)
    return _finish(rows, base, model, desk)


def read_space(space: Mapping[str, list[Any]], train: Any, model: Any) -> list[Setting]:
    """What varies, checked: names of [train], options.X of [train], model.X of [model]'s options. Lists every problem."""
    problems, found = [], []
    for name, values in space.items():
        if not isinstance(values, (list, tuple)) or len(values) < 2:
            problems.append(f"{name} = {values!r}: give [low, high], [low, high, \"log\"] or two choices and more.")
            continue
        setting = Setting(name, tuple(values))
        head = name.split(".", 1)[0]
        if head not in ("options", "model") and (name not in type(train).model_fields or name in _NEVER):
            problems.append(f"{name} is no setting of [train] that can be searched.")
        elif setting.is_range and not values[0] < values[1]:
            problems.append(f"{name} = {list(values)}: the first number must be the smaller one.")
        elif setting.is_range and len(values) == 3 and values[0] <= 0:
            problems.append(f"{name} = {list(values)}: a logarithmic range begins above 0.")
        elif not setting.is_range:
            problems += _impossible(setting, train)
        found.append(setting)
    if not space:
        problems.append("the space is empty.")
    if problems:
        raise BadRequest("[train] search: " + " ".join(problems), param="train.search.space", code="recipe_invalid",
                         hint='For example space = { learning_rate = [1e-5, 1e-3, "log"], batch_rows = [16, 32, 64] }.')  # fmt: skip
    return found


def _impossible(setting: Setting, train: Any) -> list[str]:
    """Choices that the recipe would refuse."""
    if setting.name == "method":
        return [f"method = {each!r} is none of {', '.join(METHODS)}." for each in setting.values
                if each not in METHODS and not str(each).startswith("top:")]  # fmt: skip
    if "." in setting.name:
        return []
    problems = []
    for each in setting.values:
        try:
            type(train).model_validate({setting.name: each})
        except ValueError:
            problems.append(f"{setting.name} = {each!r} is not allowed.")
    return problems


def propose(space: list[Setting], rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The next trial's settings, from all trials before it."""
    import optuna

    lower = not rows or rows[0]["metric"] in LOWER_IS_BETTER
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
    study = optuna.create_study(direction="minimize" if lower else "maximize", sampler=sampler)
    distributions = {each.name: each.distribution() for each in space}
    for row in rows:
        if row["value"] is not None:
            params = {each.name: each.remembered(row["settings"][each.name]) for each in space}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=row["value"]))
    trial = study.ask()
    return {each.name: each.suggest(trial) for each in space}


def changed(train: Any, model: Any, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """The recipe's parts with the trial's settings."""
    own = {name: value for name, value in settings.items() if "." not in name}
    if "batch_rows" in own:
        own["batch_tokens"] = None
    if "batch_tokens" in own:
        own["batch_rows"] = None
    if "epochs" in own:
        own["steps"] = None
    if "steps" in own:
        own["epochs"] = None
    options = {**train.options, **_under("options", settings)}
    whole = type(train).model_validate({**train.model_dump(), **own, "options": options})
    return whole, type(model).model_validate({**model.model_dump(), "options": {**model.options, **_under("model", settings)}})


def _under(head: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name[len(head) + 1 :]: value for name, value in settings.items() if name.startswith(head + ".")}


def _trial(number: int, settings: dict[str, Any], base: Any, model: Any, task: str, prepared: Any, desk: Any) -> dict[str, Any]:
    """One whole training; one that diverges is a trial without a value, not the end of the search."""
    from tollway.forge.train.local import fit_here
    from tollway.forge.train.single import sub_desk

    out = Path(desk.work) / f"trial-{number}-model"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    own = sub_desk(desk, f"trial-{number}", out=out)
    began = time.monotonic()
    train, part = changed(base, model, settings)
    plan = Plan.of(train, seed=desk.seed, threads=desk.threads)
    row: dict[str, Any] = {"number": number, "settings": settings, "value": None, "metric": "", "figures": {}, "problem": ""}
    try:
        figures = fit_here(plan, train, part, task, prepared, own)
        row |= {"value": figures["best"], "metric": figures["metric"], "figures": figures}
    except Conflict as error:
        if error.code != "training_diverged":
            raise
        row["problem"] = error.message
    row["seconds"] = round(time.monotonic() - began, 3)
    return row


def best_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The best trial. Raises Conflict when none has a value."""
    ended = [row for row in rows if row["value"] is not None]
    if not ended:
        raise Conflict(
            say("train.all_diverged", "Every trial of the search diverged."), code="training_diverged",
            hint=say("train.search_smaller", 'Search smaller learning rates: learning_rate = [1e-6, 1e-4, "log"].'),
        )  # fmt: skip
    sign = 1 if ended[0]["metric"] in LOWER_IS_BETTER else -1
    return min(ended, key=lambda row: (sign * row["value"], row["number"]))


def _show(row: dict[str, Any], rows: list[dict[str, Any]], trials: int, desk: Any) -> None:
    settings = ", ".join(f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
                         for name, value in row["settings"].items())  # fmt: skip
    result = row["problem"] or f"{row['metric']} {row['value']:.4f}"
    desk.note(say("train.trial", "Trial {number} of {count}: {settings}: {result} ({took_s}).", number=row["number"] + 1,
                  count=trials, settings=settings, result=result, took_s=row["seconds"]))  # fmt: skip
    if row["value"] is not None:
        desk.metric(f"search.{row['metric']}", row["value"], row["number"] + 1)
        desk.metric("search.best", best_of(rows)["value"], row["number"] + 1)


def _keep_best(rows: list[dict[str, Any]], desk: Any) -> None:
    """Only the best trial's model stays on disk."""
    ended = [row for row in rows if row["value"] is not None]
    best = best_of(rows)["number"] if ended else -1
    for folder in Path(desk.work).glob("trial-*-model"):
        if int(folder.name.split("-")[1]) != best:
            shutil.rmtree(folder, ignore_errors=True)


def _finish(rows: list[dict[str, Any]], train: Any, model: Any, desk: Any) -> dict[str, Any]:
    best = best_of(rows)
    out = Path(desk.out)
    shutil.copytree(Path(desk.work) / f"trial-{best['number']}-model", out, dirs_exist_ok=True)
    chosen, part = changed(train, model, best["settings"])
    (out / "best.toml").write_text(as_toml(chosen, part), encoding="utf-8")
    trials = [
        {name: row[name] for name in ("number", "settings", "value", "metric", "seconds", "problem")} for row in rows
    ]
    desk.note(say("train.best", "Best of {count} trials: number {number}, {metric} {value}.", count=len(rows),
                  number=best["number"] + 1, metric=best["metric"], value=f"{best['value']:.4f}"))  # fmt: skip
    totals = {name: sum(row["figures"].get(name, 0) for row in rows) for name in ("tokens", "seconds")}
    return {**best["figures"], **totals, "search": {"trials": trials, "best": best["number"], "settings": best["settings"]}}


def as_toml(train: Any, model: Any) -> str:
    """[model] and [train] of the best recipe, without what is at its default."""
    lines = ["# The best settings found; put them into the recipe to train without a search.", ""]
    for name, part in (("model", model), ("train", train)):
        lines.append(f"[{name}]")
        for key, value in part.model_dump(exclude_defaults=True, exclude_none=True).items():
            lines.append(f"{key} = {_toml(value)}")
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(str(key))} = {_toml(each)}" for key, each in value.items() if each is not None) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False)


class Trials:
    """The trials that ended, one JSON line each: what a killed search goes on from."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> list[dict[str, Any]]:
        rows = []
        for line in self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break  # cut by a crash: that trial is done again
        return rows

    def add(self, row: dict[str, Any]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        kept = [json.dumps(each, default=str) for each in self.read()]
        aside = self.file.with_suffix(".new")
        aside.write_text("\n".join([*kept, json.dumps(row, default=str)]) + "\n", encoding="utf-8")
        aside.replace(self.file)
