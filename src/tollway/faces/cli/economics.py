"""`tollway economics`: what a million tokens cost here, what they earned, and what the idle machine cost."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Group

from tollway.faces.cli import tables
from tollway.faces.cli.desk import AsJson, Desk, Home, command, day
from tollway.insight import economics
from tollway.kit.clock import from_ms, to_ms

app = typer.Typer(add_completion=False, invoke_without_command=True)
Days = Annotated[int, typer.Option("--days", min=1, max=3660, help="How many days back.")]
From = Annotated[str | None, typer.Option("--from", help="First day, UTC, instead of --days.")]
To = Annotated[str | None, typer.Option("--to", help="Last day, UTC; today by default.")]
_SHARE = {"requests": "requests", "tokens": "tokens", "cost": "cost", "revenue": "revenue", "margin": "margin",
          "margin_share": "of revenue"}  # fmt: skip
_UNIT = {"input": "input cost / 1M", "output": "output cost / 1M", "total": "cost / 1M"}


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
    """Where the machine's money went: attributed + idle + failed + shadow = hardware, to the micro."""
    found = _read(desk, days, from_day, to_day)
    sums = _sums(found)
    data = {"currency": found.price.currency, **sums}
    shown = {name.removesuffix("_micros"): tables.money(value, found.price.currency) for name, value in sums.items()}
    desk.answer(data, lambda: tables.record(shown))
    desk.then("tollway economics report")


def _report(desk: Desk, days: int, from_day: str | None, to_day: str | None) -> None:
    found = _read(desk, days, from_day, to_day)
    desk.answer(found, lambda: _drawn(found))
    desk.then("tollway price list", "what buyers pay; `tollway price set` changes it")


def _read(desk: Desk, days: int, from_day: str | None, to_day: str | None) -> economics.Report:
    end_ms = _start_of(to_day) + 86_400_000 if to_day else desk.now_ms
    start_ms = _start_of(from_day) if from_day else to_ms(from_ms(end_ms) - timedelta(days=days))
    with desk.shop.db.read() as conn:
        return economics.of_shop(desk.shop, conn, start_ms, end_ms)


def _start_of(text: str) -> int:
    return to_ms(datetime.fromisoformat(day(text)).replace(tzinfo=UTC))


def _sums(found: economics.Report) -> dict[str, int]:
    return {
        "attributed_micros": found.attributed_micros,
        "idle_micros": found.idle.cost_micros,
        "failed_micros": found.failed.cost_micros,
        "shadow_micros": found.shadow.cost_micros,
        "hardware_micros": found.hardware_micros,
        "training_micros": found.training_micros,
        "bought_micros": found.bought_micros,
        "revenue_micros": found.revenue_micros,
        "margin_micros": found.margin_micros,
    }


def _drawn(found: economics.Report) -> Any:
    price = found.price
    rows = [
        _row(row, price.currency)
        | {"model": f"{row.model} v{row.version}", "training": tables.money(row.training_micros, price.currency)}
        for row in found.rows
    ]
    units = [
        {"model": f"{row.model} v{row.version}", "units": one.meter, "count": one.units,
         "cost": tables.money(one.cost_per_1k_micros, price.currency)}
        for row in found.rows for one in row.unit_costs
    ]  # fmt: skip
    buyers = [_row(row, price.currency) | {"name": row.name or "(not recorded)"} for row in found.organizations]
    sums = {name.removesuffix("_micros"): tables.money(value, price.currency) for name, value in _sums(found).items()}
    loaded = tables.money(found.loaded_cost_per_1m_tokens_micros, price.currency)
    head = tables.record(
        {
            "from": tables.moment(found.from_ms),
            "to": tables.moment(found.to_ms),
            "machine": f"{tables.money(price.micros_per_hour, price.currency)} an hour ({price.source})",
        }
    )
    return Group(
        head,
        tables.table(
            rows,
            {"model": "model"} | _SHARE | {"training": "training"} | _UNIT,
            empty="\nNo model was running in this time.",
        ),
        *(
            [
                tables.table(
                    units, {"model": "model", "units": "units", "count": "count", "cost": "cost / 1,000"}, empty=""
                )
            ]
            if units
            else []
        ),
        tables.table(buyers, {"name": "organization"} | _SHARE, empty="Nobody called in this time.\n"),
        tables.record(
            {
                "revenue": sums["revenue"],
                "- attributed": f"{sums['attributed']}   busy with calls",
                "- idle": f"{sums['idle']}   waiting for work",
                "- failed": f"{sums['failed']}   calls that were not billed",
                "- shadow": f"{sums['shadow']}   copies of calls, for shadow versions",
                "- training": f"{sums['training']}   of making the models, spread over their life",
                "= margin": sums["margin"],
                "loaded cost": f"{loaded} per 1M tokens, idle and training included",
            }
        ),
    )


def _row(row: economics.Share, currency: str) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.structs.asdict(row)
    return {
        "requests": row.requests,
        "tokens": row.input_tokens + row.cached_tokens + row.output_tokens,
        "cost": tables.money(row.cost_micros, currency),
        "revenue": tables.money(row.revenue_micros, currency),
        "margin": tables.money(row.margin_micros, currency),
        "margin_share": tables.share(row.margin_share),
    } | {name: tables.money(plain.get(f"{name}_cost_per_1m_tokens_micros"), currency) for name in _UNIT}
