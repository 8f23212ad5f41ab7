"""`tollway price …`: the prices of a plan. Changing one writes the plan's next version."""

from typing import Annotated, Any

import msgspec
import typer

from tollway.faces.cli import find, next_step, tables, unpriced
from tollway.faces.cli.desk import Desk, command, group, quoted
from tollway.faces.cli.plan import price_rows, with_charges
from tollway.sell import catalog

app = group("The prices of a plan.")
Plan = Annotated[str, typer.Argument(help="The plan's short name.", metavar="PLAN")]
_COLUMNS = {"plan": "plan", "meter": "meter", "model": "model", "per_1m": "per 1M", "included": "free a month"}


@command(app, "list")
def list_(
    desk: Desk, plan: Annotated[str | None, typer.Argument(help="Only this plan's.", metavar="PLAN")] = None
) -> None:
    """What each meter costs, plan by plan."""
    with desk.shop.db.read() as conn:
        plans = [find.plan(conn, plan)] if plan else catalog.list_plans(conn)
    rows = [{"plan": one.plan_name, "currency": one.terms.currency} | row for one in plans for row in price_rows(one)]
    desk.answer([{k: v for k, v in row.items() if k != "per_1m"} for row in rows], lambda: tables.table(rows, _COLUMNS))
    if rows:
        first = rows[0]
        of = "" if first["model"] == "*" else f" --model {quoted(first['model'])}"
        desk.then(
            f"tollway price set {first['plan']} {first['meter']} {first['price_micros'] / 1e6:g}{of}",
            "the price as it is: type another",
        )
    else:
        desk.then("tollway plan create starter --price output_tokens=2")


@command(app, "set")
def set_(
    desk: Desk,
    plan: Plan,
    meter: Annotated[str, typer.Argument(help=f"One of {', '.join(catalog.METERS)}.")],
    price: Annotated[str, typer.Argument(help="Per 1M units, for example 0.50.")],
    model: Annotated[str, typer.Option("--model", help="For this model only.")] = "*",
    included: Annotated[int | None, typer.Option("--included", help="Units free each month.")] = None,
) -> None:
    """Change one price: the plan gets a new version, running subscriptions keep theirs."""
    slot = meter if model == "*" else f"{meter}@{model}"
    free = [] if included is None else [f"{slot}={included}"]
    with desk.write() as conn:
        terms: dict[str, Any] = msgspec.to_builtins(find.plan(conn, plan).terms)
        terms["charges"] = with_charges(terms["charges"], [f"{slot}={price}"], free)
        made = catalog.revise_plan(conn, desk.now_ms, plan, catalog.parse_terms(terms))
    desk.answer(made, lambda: tables.table([{"plan": plan} | row for row in price_rows(made)], _COLUMNS))
    unpriced.warn(desk, made, unpriced.of_plan(desk, made))
    desk.then(*next_step.subscribe(desk, plan))
