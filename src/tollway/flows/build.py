"""The factory line: data -> train -> compress -> convert -> evaluate -> explain -> signed model package.

Read `make` down: every line is a step, cached by what goes into it. A recipe that was run before takes a second; a run
that was killed goes on where it was; a model that misses its gates never reaches the shelf.
"""

import contextlib
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tollway.flows import workshop
from tollway.flows.registering import register
from tollway.forge import recipe as recipes
from tollway.forge.desk import Desk, Sink, Stopped
from tollway.forge.digests import stamp
from tollway.forge.recipe import Evaluate, Recipe
from tollway.forge.steps import Cost, Record, Run
from tollway.insight import economics
from tollway.kit.errors import BadRequest, TollwayError
from tollway.kit.said import say
from tollway.shop import Shop

_AGAIN: Final = say("run.start_again", "Start the same recipe again: it goes on where it was.")


def build(shop: Shop, path: Path, *, sink: Sink | None = None, stop_asked: Callable[[], bool] = lambda: False) -> Run:
    """Make what a recipe describes, from its data to a package on the shelf. Raises what stopped it."""
    return run_recipe(shop, read(shop, path), path.read_text(encoding="utf-8"), sink=sink, stop_asked=stop_asked)


def run_recipe(
    shop: Shop, recipe: Recipe, text: str, *, sink: Sink | None = None, stop_asked: Callable[[], bool] = lambda: False
) -> Run:
    """The same for a recipe in hand: adaptation writes its own."""
    run = workshop.runs(shop.settings.home, shop.clock).begin(
        text, recipe.recipe.name, recipe.recipe.task, cost_of(shop), sink=sink
    )
    run.seed, run.stop_asked = recipe.recipe.seed, stop_asked
    run.threads = recipe.train.threads or _threads()
    run.store = shop.store
    try:
        make(shop, recipe, run, text)
    except ModuleNotFoundError as error:  # the command line says what brings it
        run.finish("failed", TollwayError(f"{error.name} is not installed."))
        raise
    except TollwayError as error:
        run.finish("stopped" if isinstance(error, Stopped) else "failed", error)
        raise
    except KeyboardInterrupt:
        run.finish("stopped", Stopped(say("run.interrupted", "The run was interrupted."), hint=_AGAIN))
        raise
    except Exception as error:
        known = _unexpected(run, error)
        run.finish("failed", known)
        raise known from error
    run.finish("done")
    return run


def _unexpected(run: Run, error: Exception) -> TollwayError:
    """An error nobody foresaw: a sentence for people, the traceback in a file for whoever mends it."""
    path = run.folder / "traceback.txt"
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    said = str(error).strip().splitlines() or [""]
    return TollwayError(
        say("run.step_failed", "The step {step} failed: {name}: {failure}", step=run.record.step, name=type(error).__name__,
            failure=said[0][:300]),
        code="step_failed",
        hint=say("run.details", "{path} has the details; the steps before it are kept.", path=str(path)),
    )  # fmt: skip


def read(shop: Shop, path: Path) -> Recipe:
    """A recipe's file. Raises BadRequest naming what is written wrongly, and what of the rest cannot work."""
    try:
        return recipes.load(path)
    except recipes.Faulty as error:
        more = _troubles(shop, error.rest, error.gone) if error.rest is not None else []
        if not more:
            raise
        raise BadRequest(f"{error.message}\nand what is left cannot work:\n  {_told(more)}",
                         code="invalid_recipe", hint=error.hint) from None  # fmt: skip


def check(shop: Shop, recipe: Recipe) -> None:
    """Everything that can be known to go wrong before the first step runs, all at once. Raises BadRequest."""
    errors = _troubles(shop, recipe)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BadRequest(
            f"This recipe cannot work:\n  {_told(errors)}", code="invalid_recipe", hint="Change the recipe."
        )


def _told(errors: Sequence[TollwayError]) -> str:
    told = (f"{error.message.rstrip('.')}. {error.hint}".strip() for error in errors)  # a list may end without a full stop
    return "\n".join(told).replace("\n", "\n  ")


def _troubles(shop: Shop, recipe: Recipe, gone: frozenset[str] = frozenset()) -> list[TollwayError]:
    """What each room has against its part; parts that are gone are not asked."""
    from tollway.forge import data, evaluate, explain, models, train
    from tollway.forge.compress import outline
    from tollway.forge.compress import plan as compressing
    from tollway.forge.convert import plan as converting
    from tollway.forge.data import augment, clean

    task, home = recipe.recipe.task, shop.settings.home
    shelf = workshop.datasets(home, shop.clock)

    def columns() -> set[str] | None:
        with contextlib.suppress(TollwayError):  # the look at the data tells
            return data.known_columns(recipe.data, task, shelf.get(recipe.data.dataset))
        return None

    known = outline.Outline()
    with contextlib.suppress(TollwayError):  # the look at the model tells
        if "model" not in gone:
            known = outline.of(recipe.model, task, home, read_base=recipe.compress is not None)
    members = 1 if recipe.train.soup else recipe.train.members

    looks: list[tuple[str, Callable[[], object]]] = [
        ("data", lambda: data.check(recipe.data, task, shelf.get(recipe.data.dataset), recipe.evaluate.slices)),
        ("data", lambda: clean.check(recipe.data.clean)),
        ("data", lambda: augment.check(recipe.data.augment, task)),
        ("model", lambda: models.check(recipe.model, task, home)),
        ("train", lambda: train.check(recipe.train, recipe.model, task)),
        ("evaluate", lambda: evaluate.check(judged(recipe), task, columns(), _others(recipe))),
    ]
    if recipe.compress is not None:
        looks.append(("compress", lambda: compressing.check(recipe.compress, task, known, members)))
    if recipe.convert is not None:
        made, method = outline.converted(known, recipe.compress), "" if "train" in gone else recipe.train.method
        looks.append(("convert", lambda: converting.check(recipe.convert, task, made, method)))
    if recipe.explain is not None and recipe.explain.methods:
        looks.append(("explain", lambda: explain.check(recipe.explain)))
    if recipe.package.parent:
        looks.append(("package", lambda: shop.store.get(*recipe.package.parent.split("@", 1))))
    return [error for error in (_trouble(look) for part, look in looks if part not in gone) if error is not None]


def judged(recipe: Recipe) -> Evaluate:
    """What is asked of it: a model pre-trained to be a base is not held against simple ones."""
    from tollway.forge import train

    if not train.makes_a_base(recipe.train):
        return recipe.evaluate
    return recipe.evaluate.model_copy(update={"baseline": False})


def _others(recipe: Recipe) -> list[str]:
    """Whom the model is held against besides baselines."""
    based = recipe.model.base and recipe.recipe.task in ("language-modeling", "chat", "preference")
    return [*(["parent"] if recipe.package.parent else []), *(["base"] if based and recipe.evaluate.baseline else [])]


def _trouble(look: Callable[[], object]) -> TollwayError | None:
    try:
        look()
    except TollwayError as error:
        return error
    return None


def make(shop: Shop, recipe: Recipe, run: Run, text: str) -> None:
    """The line itself."""
    check(shop, recipe)
    asked, recipe = recipe, able_to_look_inside(recipe, shop.settings.home)
    if recipe is not asked:
        note = say("convert.pt2_too", "pt2 is made too: a version in service needs it for the methods of [explain] that look inside.")
        run.emit({"kind": "note", "step": "convert", "text": str(note), "said": note.coded()})
    prepared = prepare(shop, recipe, run)
    trained = train(recipe, run, prepared)
    model = compress(recipe, run, trained, prepared)
    files = convert(recipe, run, model, prepared)
    evaluate(shop, recipe, run, files, model, prepared)
    explain(recipe, run, files, model, prepared)
    report(shop, run)
    gates(run)
    register(shop, recipe, run, files, text)


def able_to_look_inside(recipe: Recipe, home: Path) -> Recipe:
    """The recipe with pt2 among its formats, where [explain] names methods that look inside and the model can be written so:
    else the report could explain by them, and `/v1/explain` of what was made could not."""
    if recipe.convert is None or recipe.explain is None or "pt2" in recipe.convert.formats or not recipe.explain.methods:
        return recipe
    from tollway.forge import explain
    from tollway.forge.compress import outline
    from tollway.forge.convert import plan as converting

    if not set(recipe.explain.methods) & set(explain.INSIDE):
        return recipe
    known = outline.of(recipe.model, recipe.recipe.task, home, read_base=False)
    part = recipe.convert.model_copy(update={"formats": [*recipe.convert.formats, "pt2"]})
    try:
        converting.check(part, recipe.recipe.task, outline.converted(known, recipe.compress), recipe.train.method)
    except BadRequest:
        return recipe  # a recurrent network, say: it is explained in the report
    return recipe.model_copy(update={"convert": part})


def prepare(shop: Shop, recipe: Recipe, run: Run) -> Path:
    """Rows as the task needs them: selected, cleaned, masked, split, augmented."""
    from tollway.forge import data

    run.shelf = shelf = workshop.datasets(shop.settings.home, shop.clock)
    version = shelf.get(recipe.data.dataset)
    run.record.dataset, run.record.dataset_digest = version.ref, version.digest

    def work(desk: Desk) -> Any:
        from tollway.flows import translating

        desk.translators = translating.opener(shop)
        return data.prepare(recipe.data, recipe.recipe.task, shelf, desk)

    inputs = {"data": recipe.data, "task": recipe.recipe.task, "dataset": version.digest}
    return run.step("prepare", inputs, ("forge/data", "guard"), _work(work))


def train(recipe: Recipe, run: Run, prepared: Path) -> Path:
    """A trained model folder."""
    from tollway.forge import models

    def work(desk: Desk) -> Any:
        from tollway.forge import evaluate as evaluator
        from tollway.forge import train as trainer

        evaluator.refuse_part(recipe.evaluate, _prepared(prepared))  # a gate misspelt is told before the work
        return trainer.fit(recipe.train, recipe.model, recipe.recipe.task, _prepared(prepared), desk)

    start = models.origins(recipe.model, run.runs.root.parent)
    inputs = {"train": recipe.train, "model": recipe.model, "task": recipe.recipe.task, "after": prepared.name, "start": start}
    return run.step("train", inputs, ("forge/train", "forge/models", "inference"), _work(work))


def compress(recipe: Recipe, run: Run, model: Path, prepared: Path) -> Path:
    """The same model, smaller or faster; the model itself when the recipe asks for nothing."""
    part = recipe.compress
    if part is None:
        return model

    def work(desk: Desk) -> Any:
        from tollway.forge import compress as compressor

        return compressor.shrink(part, model, _prepared(prepared), desk)

    teacher = stamp(Path(str(part.options["teacher"]))) if part.options.get("teacher") else None
    inputs = {"compress": part, "after": [model.name, prepared.name], "teacher": teacher}
    return run.step("compress", inputs, ("forge/compress", "forge/train", "forge/models", "inference"), _work(work))


def convert(recipe: Recipe, run: Run, model: Path, prepared: Path) -> Path:
    """The files that are packaged, each checked against the source; the model's own when nothing is asked."""
    part = recipe.convert
    if part is None:
        return model

    def work(desk: Desk) -> Any:
        from tollway.forge import convert as converter

        return converter.export(part, model, _prepared(prepared), desk)

    inputs = {"convert": part, "after": [model.name, prepared.name]}
    return run.step("convert", inputs, ("forge/convert", "forge/models", "inference"), _work(work))


def evaluate(shop: Shop, recipe: Recipe, run: Run, files: Path, model: Path, prepared: Path) -> None:
    """What it is worth, on rows it has not seen, beside simple baselines and its parent."""
    from tollway.forge import train as trainer

    parent = shop.store.get(*recipe.package.parent.split("@", 1)).folder if recipe.package.parent else None
    base, part = trainer.makes_a_base(recipe.train), judged(recipe)

    def work(desk: Desk) -> Any:
        from tollway.forge import evaluate as evaluator

        if base:
            desk.note(
                say(
                    "evaluate.base",
                    "It was pre-trained to be a base: it is not held against simple models, and knows no label yet.",
                )
            )
        return evaluator.run(part, files, _prepared(prepared), desk, parent, source=model)

    inputs = {"evaluate": part, "after": [files.name, model.name, prepared.name], "parent": parent}
    run.step("evaluate", inputs, ("forge/evaluate", "forge/models", "inference"), _work(work))
    run.record.metrics = run.figures("evaluate")


def explain(recipe: Recipe, run: Run, files: Path, model: Path, prepared: Path) -> None:
    """Why it answers what it answers, for some rows."""
    part = recipe.explain
    if part is None:
        return

    def work(desk: Desk) -> Any:
        from tollway.forge import explain as explainer

        return explainer.report(part, files, _prepared(prepared), desk, source=model)

    inputs = {"explain": part, "after": [files.name, prepared.name]}
    run.step("explain", inputs, ("forge/explain", "forge/models", "inference"), _work(work))


def report(shop: Shop, run: Run) -> None:
    """The page people look at: `report.html`, and the card that travels with the package."""
    for lang in ("zh", "en"):  # the card beside them is the last one's
        write_report(shop, run.record, lang)


def gates(run: Run) -> None:
    """After the report, so that a model that is not good enough can be looked at. Raises Conflict naming every gate missed."""
    from tollway.forge.evaluate import enforce_figures

    enforce_figures(run.figures("evaluate"), run.record.task, f"`tollway run report {run.id}`")


def write_report(shop: Shop, record: Record, lang: str = "en") -> Path:
    """Write a run's report (again, or in another language) and say where it is."""
    from tollway.forge import report as reporter

    return reporter.write(workshop.runs(shop.settings.home, shop.clock), record, lang)


def compare(shop: Shop, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Several runs side by side."""
    from tollway.forge import report as reporter

    return reporter.compare(workshop.runs(shop.settings.home, shop.clock), records)


def _prepared(folder: Path) -> Any:
    from tollway.forge import data

    return data.Prepared(folder)


def _work(function: Callable[[Desk], Any]) -> Callable[[Desk], Mapping[str, Any]]:
    """A step's function may hand back figures or an object that carries them."""

    def work(desk: Desk) -> Mapping[str, Any]:
        made = function(desk)
        return made if isinstance(made, Mapping) else getattr(made, "figures", None) or {}

    return work


def _threads() -> int:
    """What OMP_NUM_THREADS says, as every library here does; else all cores."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) > 0 else os.cpu_count() or 1


def cost_of(shop: Shop) -> Cost:
    """What this machine costs while it trains: the price that its serving is charged at, and its power."""
    price = economics.machine_price(shop.settings)
    watts = shop.settings.machine_watts or 3.5 * (os.cpu_count() or 1)  # a busy vCPU: Cloud Carbon Footprint's average
    return Cost(price.micros_per_hour, price.currency, watts)
