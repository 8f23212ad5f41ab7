"""`tollway model tune NAME`: measure which engine, format and threads serve a model cheapest here, and serve it that way."""

from typing import Annotated, Any

import msgspec
import typer

from tollway.faces.cli import tables
from tollway.faces.cli.desk import Desk, command
from tollway.faces.cli.progress import Progress
from tollway.kit.errors import BadRequest


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "tune")(tune)


def tune(
    desk: Desk,
    name: Annotated[str, typer.Argument(help="A model, or NAME@VERSION.", metavar="NAME[@VERSION]")],
    agreement: Annotated[
        float | None,
        typer.Option(
            "--agreement", help="Least agreement with the float model, 0 to 1.", show_default="0.4; rows 0.98"
        ),
    ] = None,
    first_token_ms: Annotated[
        float, typer.Option("--first-token-ms", help="Promise for the first token of 8 callers at once; 0: none.")
    ] = 0.0,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer candidates: the usual winners only.")] = False,
    lose_nothing: Annotated[
        bool, typer.Option("--lose-nothing", help="Only engines that refuse no call which its own answers.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only measure and show.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Serve it as its package says again.")] = False,
) -> None:
    """Try engines, formats and threads on this machine; keep the cheapest that answers like the float model. A running
    gateway moves over without losing a call; --undo takes it back."""
    from tollway.flows import tune as flow  # lazy: opens the engines' side

    wanted, _, version = name.partition("@")
    if undo:
        had = flow.undo(desk.shop, wanted, version or None)
        desk.until_noticed()
        said = f"{wanted} is served as its package says again." if had else f"{wanted} was not tuned."
        desk.answer({"name": wanted, "undone": had}, lambda: said)
        desk.then(f"tollway model tune {wanted}", "measures again")
        return
    if agreement is not None and not 0 <= agreement <= 1:
        raise BadRequest("The agreement is a share.", hint="Give a number from 0 to 1, such as --agreement 0.6.")
    with Progress(f"Tuning {wanted}") as progress:

        def tell(what: str, done: int, total: int) -> None:
            progress.what = f"Tuning {wanted}: {what}"
            progress.count(done, total)

        made = flow.tune(
            desk.shop, wanted, version or None, agreement=agreement, first_token_ms=first_token_ms, keep=not dry_run,
            quick=quick, lose_nothing=lose_nothing, tell=tell,
        )  # fmt: skip
    desk.until_noticed()
    desk.answer(msgspec.to_builtins(made), lambda: shown(made))
    desk.then(f"tollway model tune {wanted} --undo" if made.choice is not None else f"tollway model show {wanted}",
              "serves it as before" if made.choice is not None else "")  # fmt: skip


def shown(made: Any) -> Any:
    """The table, and in a sentence what changes."""
    from rich.console import Group
    from rich.text import Text

    per = "1M tokens" if made.unit == "tokens" else "1k calls"
    rows = [
        {
            "way": f"{row.engine} {row.format}" + "".join(f" {value}" for value in row.options.values()),
            "threads": row.threads,
            "agreement": f"{row.agreement:.2f}",
            "alone": f"{row.per_second_1:,.0f}" if row.per_second else "",
            "together": f"{row.per_second:,.0f}" if row.per_second else "",
            "first": f"{row.first_ms:,.0f} ms" if row.per_second else "",
            "memory": f"{row.memory_bytes / 1e6:,.0f} MB" if row.per_second else "",
            "cost": f"{row.cost_micros / 1e6:,.6f} {made.currency}" if row.per_second else "",
            "verdict": row.verdict,
        }
        for row in made.rows
    ]
    columns = {
        "way": "engine and format", "threads": "threads", "agreement": "agreement", "alone": f"{made.unit}/s alone",
        "together": f"{made.unit}/s of 8", "first": "first" if made.unit == "tokens" else "slowest", "memory": "memory",
        "cost": f"per {per}", "verdict": "verdict",
    }  # fmt: skip
    failed = [
        f"{row['way']} with {_threads(one.threads)} failed. {one.why}" for row, one in zip(rows, made.rows, strict=True) if one.why
    ]
    told = (_sentence(made), _lost(made), made.left_out, *failed)
    said = [Text(line) for line in told if line]  # not markup: 'tollway[openvino]'
    return Group(tables.table(rows, columns), *said)


def _lost(made: Any) -> str:
    first = made.rows[0] if made.rows else None
    if first is None or first.verdict != "chosen" or not first.lost:
        return ""
    back = f"`tollway model tune {made.name} --undo` gives them back, " if made.choice is not None else ""
    return f"{first.engine} refuses calls with {', '.join(first.lost)}: {back}`--lose-nothing` tries only what keeps them."


def _sentence(made: Any) -> str:
    first = made.rows[0] if made.rows else None
    if first is None or first.verdict not in ("chosen", "as it was"):
        return f"Nothing passed (agreement at least {made.agreement:g}): {made.name} is served as before."
    if first.own:
        return f"{made.name} is best served as it is."
    kept = "is served" if made.choice is not None else "would be served"
    return f"{made.name} {kept} by {first.engine} as {first.format} with {_threads(first.threads)}: {made.gain:.2f} times as fast."


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
