"""`tollway economics`: what a million tokens cost here, what they earned, and what the machine did the rest of the time."""

from datetime import timedelta
from typing import Annotated, Any

import msgspec
import typer

from tollway.faces.cli import find, tables
from tollway.faces.cli.desk import AsJson, Desk, Home, command, day
from tollway.insight import economics
from tollway.kit.clock import from_ms, to_ms

app = typer.Typer(add_completion=False, invoke_without_command=True)
Days = Annotated[int, typer.Option("--days", min=1, max=3660, help="How many days back.")]
From = Annotated[str | None, typer.Option("--from", help="First day, UTC, instead of --days.")]
To = Annotated[str | None, typer.Option("--to", help="Last day, UTC; today by default.")]
_ROW = {"requests": "requests", "tokens": "tokens", "cost": "cost", "revenue": "revenue", "margin": "margin",
        "share": "of revenue", "unit": "cost per 1M"}  # fmt: skip


@app.callback()
def start(context: typer.Context, home: Home = None, as_json: AsJson = False, days: Days = 30) -> None:
    """Unit cost and margin; what the machine cost and earned."""
    if context.invoked_subcommand is None:
        desk = Desk(home, as_json)
        try:
            _report(desk, days, None, None)
        finally:
            desk.close()


@command(app, "report")
def report(desk: Desk, days: Days = 30, from_day: From = None, to_day: To = None) -> None:
    """Unit cost and margin by model and organization; idle on its own line."""
    _report(desk, days, from_day, to_day)


@command(app, "books")
def books(desk: Desk, days: Days = 30, from_day: From = None, to_day: To = None) -> None:
    """Where the machine's money went: attributed + idle + failed = hardware, to the micro."""
    found = _read(desk, days, from_day, to_day)
    data = _books(found)
    desk.answer(data, lambda: tables.record({k.removesuffix("_micros"): tables.money(v, data["currency"]) if k.endswith("_micros") else v
                                             for k, v in data.items()}))  # fmt: skip
    desk.then("tollway economics report")
