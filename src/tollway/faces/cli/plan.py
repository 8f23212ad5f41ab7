"""`tollway plan …`: what is sold. A plan's version never changes; a new price is a new version."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tollway.faces.cli import find, next_step, tables, unpriced
from tollway.faces.cli.desk import Desk, Yes, amount, command, group, nearest, pairs
from tollway.kit.errors import BadRequest
from tollway.sell import catalog

app = group("Plans: what is sold, in versions.")

Name = Annotated[str, typer.Argument(help="The plan's short name.", metavar="PLAN")]
Title = Annotated[str | None, typer.Option("--title", help="What buyers see.")]
Currency = Annotated[str | None, typer.Option("--currency", help="ISO 4217 code; the shop's by default.")]
Flat = Annotated[str | None, typer.Option("--flat-fee", help="Per month, for example 9.00.")]
Price = Annotated[list[str] | None, typer.Option(
    "--price", help="METER=PRICE per 1M units, METER@MODEL=PRICE for one model; repeat. "
    f"Meters: {', '.join(catalog.METERS)}.")]  # fmt: skip
Included = Annotated[list[str] | None, typer.Option("--included", help="METER=UNITS free each month; repeat.")]
Overage = Annotated[str | None, typer.Option("--overage", help="Beyond the free quota: wallet, invoice or refuse.")]
Aborted = Annotated[str | None, typer.Option("--aborted", help="A call the client left: bill or free.")]
Model = Annotated[list[str] | None, typer.Option("--model", help="Models in the plan; all by default; repeat.")]
Rpm = Annotated[int | None, typer.Option("--rpm", help="Requests a minute.")]
Tpm = Annotated[int | None, typer.Option("--tpm", help="Tokens a minute.")]
AtOnce = Annotated[int | None, typer.Option("--concurrency", help="Calls at the same time.")]
Monthly = Annotated[int | None, typer.Option("--monthly-tokens", help="Tokens a month, then 402.")]
Weight = Annotated[int | None, typer.Option("--weight", help="Share of a model in demand, against others'.")]
Priority = Annotated[
    str | None, typer.Option("--priority", help="Calls go before the standard ones: standard or priority.")
]
Timeout = Annotated[
    int | None, typer.Option("--timeout-ms", help="What calls may take that do not say; 0: what the shop allows.")
]
Batch = Annotated[int | None, typer.Option("--batch-percent", help="What batches pay of each price; 50 by default.")]
Unpriced = Annotated[
    str | None, typer.Option("--unpriced", help="Calls that no price covers: refuse (unless said otherwise) or free.")
]
File = Annotated[Path | None, typer.Option("--file", help="Whole terms as JSON, instead of the options above.")]


@command(app, "create")
def create(
    desk: Desk, name: Name, title: Title = None, currency: Currency = None, flat_fee: Flat = None, price: Price = None,
    included: Included = None, overage: Overage = None, aborted: Aborted = None, model: Model = None, rpm: Rpm = None,
    tpm: Tpm = None, concurrency: AtOnce = None, monthly_tokens: Monthly = None, weight: Weight = None, priority: Priority = None,
    timeout_ms: Timeout = None, batch_percent: Batch = None, no_price: Unpriced = None, file: File = None,
) -> None:  # fmt: skip
    """Make a plan, version 1."""
    base = {
        "currency": desk.settings.currency,
        "flat_fee_micros": 0,
        "overage": "wallet",
        "charges": [],
        "limits": _NO_LIMITS,
    }
    given = _changes(
        currency, flat_fee, price, included, overage, aborted, model, rpm, tpm, concurrency, monthly_tokens, base
    ) | _service(weight, priority, timeout_ms, batch_percent, no_price)
    terms = read_terms(file) if file else catalog.parse_terms(base | given)
    with desk.write() as conn:
        made = catalog.create_plan(conn, desk.now_ms, name, title or name, terms)
    show_plan(desk, made)
    desk.then(*next_step.subscribe(desk, made.plan_name))


@command(app, "revise")
def revise(
    desk: Desk, name: Name, currency: Currency = None, flat_fee: Flat = None, price: Price = None,
    included: Included = None, overage: Overage = None, aborted: Aborted = None, model: Model = None, rpm: Rpm = None,
    tpm: Tpm = None, concurrency: AtOnce = None, monthly_tokens: Monthly = None, weight: Weight = None, priority: Priority = None,
    timeout_ms: Timeout = None, batch_percent: Batch = None, no_price: Unpriced = None, file: File = None,
) -> None:  # fmt: skip
    """Write the next version: what you name changes, the rest stays. Running subscriptions keep their version."""
    with desk.write() as conn:
        base: dict[str, Any] = msgspec.to_builtins(find.plan(conn, name).terms)
        given = _changes(
            currency, flat_fee, price, included, overage, aborted, model, rpm, tpm, concurrency, monthly_tokens, base
        ) | _service(weight, priority, timeout_ms, batch_percent, no_price)
        made = catalog.revise_plan(
            conn, desk.now_ms, name, read_terms(file) if file else catalog.parse_terms(base | given)
        )
    show_plan(desk, made)
    desk.then(*next_step.subscribe(desk, name))


@command(app, "list")
def list_(desk: Desk) -> None:
    """The newest version of each plan."""
    with desk.shop.db.read() as conn:
        plans = catalog.list_plans(conn)
    rows = [
        {"name": one.plan_name, "title": one.title, "version": one.version, "overage": one.terms.overage,
         "fee": f"{tables.money(one.terms.flat_fee_micros, one.terms.currency)} a month",
         "prices": "; ".join(f"{_named(row)} {row['per_1m']}" for row in price_rows(one))}
        for one in plans
    ]  # fmt: skip
    columns = {
        "name": "plan",
        "title": "title",
        "version": "version",
        "fee": "fee",
        "prices": "per 1M",
        "overage": "beyond quota",
    }
    desk.answer(plans, lambda: tables.table(rows, columns))
    desk.then(
        f"tollway plan show {plans[0].plan_name}" if plans else "tollway plan create starter --price output_tokens=2"
    )


@command(app, "show")
def show(
    desk: Desk,
    name: Name,
    version: Annotated[int | None, typer.Option("--version", help="The newest by default.")] = None,
) -> None:
    """One plan with its prices and limits."""
    with desk.shop.db.read() as conn:
        one = find.plan(conn, name, version)
    show_plan(desk, one)
    desk.then(f"tollway plan revise {name} --price output_tokens=2.50")


@command(app, "archive")
def archive(desk: Desk, name: Name, yes: Yes = False) -> None:
    """Stop offering a plan; running subscriptions go on."""
    desk.confirm(f"The plan {name} can no longer be subscribed to; running subscriptions go on.", yes)
    with desk.write() as conn:
        find.plan(conn, name)
        catalog.archive_plan(conn, desk.now_ms, name)
    desk.answer({"name": name, "archived": True}, lambda: f"{name} is archived.")
    desk.then("tollway plan list")


def show_plan(desk: Desk, one: catalog.PlanVersion) -> None:
    """A plan version as the command's answer, with what it has no price for."""
    gaps = unpriced.of_plan(desk, one)
    desk.answer(msgspec.to_builtins(one) | {"unpriced": gaps}, lambda: _drawn(one))
    unpriced.warn(desk, one, gaps)


def price_rows(one: catalog.PlanVersion) -> list[dict[str, Any]]:
    """The charges of a plan, one row each."""
    return [
        {"meter": charge.meter, "model": charge.model, "price_micros": charge.price_micros, "included": charge.included,
         "per_1m": tables.money(charge.price_micros, one.terms.currency)}
        for charge in one.terms.charges
    ]  # fmt: skip


def read_terms(path: Path) -> catalog.Terms:
    """Terms from a JSON file."""
    try:
        plain = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise BadRequest(
            f"{path} cannot be read as JSON: {error}.", hint="`tollway plan show starter --json` shows the shape."
        ) from error
    return catalog.parse_terms(plain["terms"] if isinstance(plain, dict) and "terms" in plain else plain)


def _named(row: dict[str, Any]) -> str:
    """A price's meter as `--price` takes it."""
    return str(row["meter"]) if row["model"] == "*" else f"{row['meter']}@{row['model']}"


def with_charges(old: list[dict[str, Any]], prices: list[str], included: list[str]) -> list[dict[str, Any]]:
    """The old charges with the given prices and free units put in; `METER@MODEL` names one model's charge."""
    charges = {(charge["meter"], charge["model"]): dict(charge) for charge in old}

    def slot(name: str) -> dict[str, Any]:
        meter, _, model = name.partition("@")
        if meter not in catalog.METERS:
            raise BadRequest(
                f"There is no meter {meter!r}.{nearest(meter, catalog.METERS)}",
                hint=f"Use one of: {', '.join(catalog.METERS)}.",
            )
        key = (meter, model or "*")
        return charges.setdefault(key, {"meter": meter, "model": model or "*", "price_micros": 0, "included": 0})

    for name, text in pairs(prices, "--price"):
        slot(name)["price_micros"] = amount(text)
    for name, text in pairs(included, "--included"):
        digits = text.replace("_", "").replace(",", "")
        if not digits.isdigit():
            raise BadRequest(f"{text!r} is not a number of units.", hint="For example --included output_tokens=100000.")
        slot(name)["included"] = int(digits)
    return list(charges.values())


_NO_LIMITS = {"rpm": None, "tpm": None, "concurrency": None, "monthly_tokens": None}


def _changes(
    currency: str | None, flat_fee: str | None, price: list[str] | None, included: list[str] | None,
    overage: str | None, aborted: str | None, model: list[str] | None, rpm: int | None, tpm: int | None, concurrency: int | None,
    monthly_tokens: int | None, base: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    limits = {"rpm": rpm, "tpm": tpm, "concurrency": concurrency, "monthly_tokens": monthly_tokens}
    named = {
        "currency": currency.upper() if currency else None,
        "flat_fee_micros": amount(flat_fee) if flat_fee is not None else None,
        "overage": overage,
        "aborted": aborted,
        "models": model,
    }
    return {name: value for name, value in named.items() if value is not None} | {
        "charges": with_charges(base["charges"], price or [], included or []),
        "limits": base["limits"] | {name: value for name, value in limits.items() if value is not None},
    }


def _service(
    weight: int | None, priority: str | None, timeout_ms: int | None, batch_percent: int | None, no_price: str | None
) -> dict[str, Any]:
    """How its calls are served, as far as it was said."""
    named = {"weight": weight, "priority": priority, "timeout_ms": timeout_ms, "batch_percent": batch_percent}
    named["unpriced"] = no_price
    return {name: value for name, value in named.items() if value is not None}


def _drawn(one: catalog.PlanVersion) -> Any:
    from rich.console import Group

    limits = {name.replace("_", " "): value for name, value in msgspec.to_builtins(one.terms.limits).items() if value}
    head = tables.record(
        {
            "plan": f"{one.plan_name}, version {one.version}",
            "title": one.title,
            "fee": f"{tables.money(one.terms.flat_fee_micros, one.terms.currency)} a month",
            "beyond quota": one.terms.overage,
            "aborted calls": one.terms.aborted,
            "without a price": "refused" if one.terms.unpriced == "refuse" else "free",
            "service": f"{one.terms.priority}, weight {one.terms.weight}"
            + (f", {one.terms.timeout_ms:,} ms" if one.terms.timeout_ms else ""),
            "models": one.terms.models,
            "limits": [f"{value:,} {name}" for name, value in limits.items()] or "none",
        }
    )
    columns = {"meter": "meter", "model": "model", "per_1m": "per 1M", "included": "free a month"}
    return Group(head, tables.table(price_rows(one), columns, empty="No prices."))
