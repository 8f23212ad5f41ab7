"""`tollway doctor`: look at this machine and say how to fix what is wrong. Exit code 1 when something fails."""

from pathlib import Path

import msgspec
import typer

from tollway.faces.cli import tables
from tollway.faces.cli.desk import Desk, command
from tollway.flows import versions
from tollway.forge.convert import starter
from tollway.watch import doctor

app = typer.Typer(add_completion=False)
_MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]"}


@command(app)
def look(desk: Desk) -> None:
    """Check this machine and say how to fix what is wrong."""
    from tollway.serve.engines import fence  # lazy: the command line must be quick to say --help

    more = [
        doctor.fence(fence.version()),
        doctor.weights(starter.SMOLLM2.name, starter.locate_smollm2, starter.SMOLLM2.sha256),
        doctor.weights(starter.MINILM.name, _minilm_weights, starter.MINILM.sha256),
    ]
    running = doctor.running_pid(desk.home) is not None
    if running:  # what the gateway noted; else there is nothing to come up
        more.append(doctor.models(versions.not_up(desk.shop)))
        more.append(doctor.room(desk.url))
    checks = doctor.examine(desk.settings, more)
    failed = [check for check in checks if check.state == "fail"]
    rows = [msgspec.structs.asdict(check) for check in checks]
    columns = {"name": "check", "state": "", "found": "found"}
    if any(check.state != "ok" for check in checks):
        columns |= {"why": "why it matters", "fix": "do this"}
    desk.answer({"ok": not failed, "checks": rows}, lambda: tables.table(rows, columns, marks=_MARKS))
    if failed:
        desk.then(failed[0].fix or "tollway version", f"{len(failed)} of {len(checks)} checks failed")
        raise typer.Exit(1)
    desk.then("tollway status" if running else "tollway up", "" if running else "all is well")


def _minilm_weights() -> Path | None:
    folder = starter.locate_minilm()
    return folder / "model.safetensors" if folder else None
