"""`tollway run …`: execute recipes, follow them, compare what came out."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tollway.faces.cli import next_step, tables
from tollway.faces.cli.desk import Desk, Yes, command, group, nearest, quoted
from tollway.faces.cli.recipe import recipe_path
from tollway.faces.cli.run_view import RunView
from tollway.flows import workshop
from tollway.kit.errors import Conflict, NotFound
from tollway.kit.formats import FORMATS

app = group("Execute recipes: start, watch, compare, report.")
RunId = Annotated[
    str, typer.Argument(help="A run's id, its last letters, or a recipe's name (its newest run).", metavar="RUN")
]


@command(app, "start")
def start(
    desk: Desk,
    recipe: Annotated[str, typer.Argument(help="A recipe's file, or its name in this home.", metavar="RECIPE")],
) -> None:
    """Make a model: data, training, compression, conversion, evaluation, explanation, package.

    Steps done before come from the cache. Ctrl-C saves a checkpoint and stops; the same command goes on from there.
    """
    from tollway.flows import build

    path = recipe_path(desk, recipe)
    cost = build.cost_of(desk.shop)
    with RunView(cost.micros_per_hour, cost.currency) as view, _stoppable(desk) as stop_asked:
        run = build.build(desk.shop, path, sink=view.show, stop_asked=stop_asked)
    record = run.record
    data = _row(record) | {"folder": str(run.folder), "report": str(run.folder / "report.html"), "steps": record.steps}
    desk.answer(data, lambda: _card(record, run.folder))
    name, _, version = record.package.partition("@")
    beaten = record.metrics.get("not_better_than")
    served = bool(name) and _served(desk, name, version)
    if served and not beaten:
        desk.then(f"tollway deploy {name}", "sells it")
    elif beaten:
        desk.then(f"tollway run report {record.id}", f"where it is not better than {beaten}")
    else:
        desk.then(f"tollway run report {record.id}", "" if served else "to sell it, [convert] formats has to name one that is served")


def _served(desk: Desk, name: str, version: str) -> bool:
    """Whether an engine has a format that the package is in."""
    formats = desk.shop.store.get(name, version).manifest.formats
    return any(FORMATS[one].served for one in formats if one in FORMATS)


@command(app, "list")
def list_(desk: Desk) -> None:
    """All runs, newest first."""
    now_ms = desk.shop.clock.now_ms()
    rows = [_row(record, now_ms) for record in reversed(_runs(desk).list())]
    columns = {"id": "run", "recipe": "recipe", "task": "task", "state": "state", "step": "step", "seconds": "seconds",
               "cost": "cost", "package": "package"}  # fmt: skip
    desk.answer(rows, lambda: tables.table(rows, columns, empty="No runs yet."))
    if rows:
        desk.then(f"tollway run show {rows[0]['id']}")
    else:
        desk.then(*next_step.draft_recipe(desk))


@command(app, "show")
def show(desk: Desk, run: RunId) -> None:
    """One run: how far it got, what it made, what it measured, what it cost."""
    record = _find(desk, run)
    folder, now_ms = _runs(desk).folder(record), desk.shop.clock.now_ms()
    desk.answer(_row(record, now_ms) | {"folder": str(folder), "steps": record.steps}, lambda: _card(record, folder, now_ms))
    if record.alive_state == "failed" and record.metrics.get("passed") is False:
        desk.then(f"tollway run report {record.id}", "where it errs: it missed its gates")
    elif record.alive_state in ("interrupted", "stopped", "failed"):
        desk.then(f"tollway run start {quoted(str(folder / 'recipe.toml'))}", "goes on where it was")
    else:
        desk.then(f"tollway run report {record.id}")


@command(app, "watch")
def watch(desk: Desk, run: RunId) -> None:
    """Follow a run from another terminal until it ends."""
    from tollway.flows import build

    runs = _runs(desk)
    record = _find(desk, run)
    cost = build.cost_of(desk.shop)
    with RunView(cost.micros_per_hour, cost.currency, quiet=desk.as_json) as view:
        for event in _follow(
            runs.folder(record) / "events.jsonl", lambda: _find(desk, record.id).alive_state == "running"
        ):
            view.show(event)
    record = _find(desk, record.id)
    desk.answer(_row(record), lambda: _card(record, runs.folder(record)))
    desk.then(f"tollway run report {record.id}")


@command(app, "stop")
def stop(desk: Desk, run: RunId) -> None:
    """Ask a run to save a checkpoint and stop."""
    record = _find(desk, run)
    if record.alive_state != "running":
        raise Conflict(f"Run {record.id} is not running: it is {record.alive_state}.")
    os.kill(record.pid, signal.SIGINT)
    desk.answer({"id": record.id, "asked": True}, lambda: f"Asked {record.id} to stop.")
    desk.then(f"tollway run watch {record.id}")


@command(app, "report")
def report(desk: Desk, run: RunId, lang: Annotated[str, typer.Option("--lang", help="en or zh.")] = "en") -> None:
    """Write the HTML report of a run (again) and print where it is."""
    from tollway.flows import build

    record = _find(desk, run)
    path = build.write_report(desk.shop, record, lang)
    desk.answer({"id": record.id, "report": str(path)}, lambda: str(path))
    desk.then(f"python3 -m webbrowser {quoted(str(path))}", "opens it")


@command(app, "compare")
def compare(
    desk: Desk,
    runs: Annotated[list[str], typer.Argument(help="Two or more runs or recipes.", metavar="RUN RUN...")],
) -> None:
    """Figures, time and cost of several runs side by side."""
    from tollway.flows import build

    table = build.compare(desk.shop, [_find(desk, one) for one in runs])
    columns = {name: name for row in table for name in row}
    desk.answer(table, lambda: tables.table(table, columns))
    desk.then(f"tollway run report {runs[-1]}")


@command(app, "clean")
def clean(desk: Desk, yes: Yes = False) -> None:
    """Remove cached step outputs. Runs, reports and packages stay; the next run of a recipe takes its full time."""
    import shutil

    steps = _runs(desk).steps
    size = sum(path.stat().st_size for path in steps.rglob("*") if path.is_file()) if steps.is_dir() else 0
    desk.confirm(f"This removes {size / 1e6:,.0f} MB of cached steps and of checkpoints of interrupted runs.", yes)
    shutil.rmtree(steps, ignore_errors=True)
    desk.answer({"bytes": size}, lambda: f"{size / 1e6:,.0f} MB freed.")
    desk.then("tollway run list")


@contextmanager
def _stoppable(desk: Desk) -> "Iterator[Callable[[], bool]]":
    """The first Ctrl-C asks for a checkpoint, the second ends at once."""
    asked = threading.Event()

    def on_signal(*_: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        desk.say("Stopping at the next checkpoint; Ctrl-C again ends at once.")

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _follow(path: Path, running: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        rest = ""
        while True:
            alive = running()
            for line in file.readlines():
                rest += line
                if rest.endswith("\n"):
                    event, rest = json.loads(rest), ""
                    yield event
                    if event["kind"] == "run_done":
                        return
            if not alive:
                return
            time.sleep(0.3)


def _runs(desk: Desk) -> Any:
    return workshop.runs(desk.shop.settings.home, desk.shop.clock)


def _find(desk: Desk, run: str) -> Any:
    runs = _runs(desk)
    try:
        return runs.get(run)
    except NotFound as error:
        error.message += nearest(run, {record.recipe for record in runs.list()})
        raise


def _row(record: Any, now_ms: int = 0) -> dict[str, Any]:
    """`now_ms`: with what the step in work took until then."""
    plain: dict[str, Any] = msgspec.to_builtins(record)
    seconds, cost_micros, _ = record.so_far(now_ms)
    plain |= {"state": record.alive_state, "seconds": round(seconds, 1), "cost_micros": cost_micros}
    return plain | {"cost": f"{cost_micros / 1e6:.4f} {record.currency}"}


def _card(record: Any, folder: Path, now_ms: int = 0) -> Any:
    seconds, cost_micros, energy_wh = record.so_far(now_ms)
    figures = {name: value for name, value in record.metrics.items() if isinstance(value, (int, float, str))}
    beaten = figures.pop("not_better_than", "")
    return tables.record(
        {
            "run": record.id,
            "recipe": f"{record.recipe} ({record.task})",
            "state": record.alive_state,
            **({"why": record.error, "do this": record.hint} if record.error else {}),
            **({"WARNING": f"not better than {beaten} on the same rows"} if beaten else {}),
            "package": record.package or None,
            **{name: f"{value:.4g}" if isinstance(value, float) else value for name, value in figures.items()},
            "time": f"{seconds:,.1f} s, {record.cpu_seconds:,.1f} s of processor time",
            "cost": f"{cost_micros / 1e6:.4f} {record.currency}, about {energy_wh:.2f} Wh",
            "report": str(folder / "report.html"),
        }
    )
