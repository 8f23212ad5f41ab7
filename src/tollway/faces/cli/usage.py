"""`tollway usage`: what was used, by day, model, key or organization, or call by call."""

import sys
from datetime import timedelta
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
import typer

from tollway.faces.cli import find, tables
from tollway.faces.cli.desk import Desk, command, day
from tollway.guard import spreadsheet
from tollway.kit.clock import day_of, from_ms
from tollway.kit.errors import BadRequest
from tollway.sell import usage as reading
from tollway.sell.catalog import COUNTED

app = typer.Typer(add_completion=False)
_TOKENS = {"input_tokens": "input", "cached_tokens": "cached", "output_tokens": "output"}
_METERS = _TOKENS | {name: name.replace("_", " ") for name in COUNTED}
_FIRST = {
    "day": {"day": "day"},
    "model": {"model": "model"},
    "key": {"key_id": "key"},
    "org": {"organization": "organization"},
    "event": {"at": "at", "request_id": "request", "model": "model", "status": "status"},
}


@command(app)
def usage(
    desk: Desk,
    org: Annotated[str | None, typer.Argument(help="Only this organization's.", metavar="ORG")] = None,
    by: Annotated[str, typer.Option("--by", help="day, model, key, org or event (single calls).")] = "day",
    from_day: Annotated[str | None, typer.Option("--from", help="First day, UTC; 30 days ago by default.")] = None,
    to_day: Annotated[str | None, typer.Option("--to", help="Last day, UTC; today by default.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Only this model.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Only this key's id.")] = None,
    request: Annotated[str | None, typer.Option("--request", help="The one call with this x-request-id.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many calls (with --by event).")] = 50,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV for a spreadsheet instead of a table.")] = False,
) -> None:
    """What was used, on every meter, and what it was worth. Prices are rated, before an invoice rounds."""
    if by not in _FIRST:
        raise BadRequest(f"{by!r} is no way to group usage.", hint=f"Use one of: {', '.join(_FIRST)}.")
    now_ms = desk.now_ms
    last = day(to_day) if to_day else day_of(now_ms)
    first = day(from_day) if from_day else (from_ms(now_ms) - timedelta(days=29)).strftime("%Y-%m-%d")
    if first > last:
        raise BadRequest(f"{first} comes after {last}.", hint="Swap --from and --to.")
    with desk.shop.db.read() as conn:
        org_id = find.organization(conn, org).id if org else None
        names = find.names(conn)
        if request:
            rows, by = [_plain(reading.find_event(conn, request, org_id))], "event"
        else:
            rows = _rows(conn, by, org_id, first, last, model, key, limit)
    currency = desk.settings.currency
    shown = [_shown(row, names, currency) for row in rows if by != "day" or row["requests"]]
    if as_csv and not desk.as_json:
        _print_csv(rows)
    else:
        desk.answer(rows, lambda: tables.table(shown, _columns(by, shown), empty="No calls in this time."))
    desk.then("tollway economics", "shows what it cost and what is left")


def _rows(
    conn: sa.Connection,
    by: str,
    org_id: str | None,
    first: str,
    last: str,
    model: str | None,
    key: str | None,
    limit: int,
) -> list[dict[str, Any]]:
    if by == "event":
        return [_plain(row) for row in reading.recent_events(conn, org_id, limit)]
    read: Any = {"day": reading.by_day, "model": reading.by_model, "key": reading.by_key, "org": reading.by_org}[by]
    return [_plain(row) for row in read(conn, org_id, first, last, model, key)]


def _columns(by: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    """What is shown: each meter that was used, tokens where nothing was."""
    used = {name: heading for name, heading in _METERS.items() if any(row.get(name) for row in rows)} or _TOKENS
    return _FIRST[by] | ({} if by == "event" else {"requests": "requests"}) | used | {"price": "price"}


def _print_csv(rows: list[dict[str, Any]]) -> None:
    """Every field of every row, under its name."""
    if rows:
        spreadsheet.write(sys.stdout, [rows[0], *(row.values() for row in rows)])


def _plain(row: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(row)
    return plain


def _shown(row: dict[str, Any], names: dict[str, str], currency: str) -> dict[str, Any]:
    extra: dict[str, Any] = {"price": tables.money_of_picos(row["price_picos"], currency)}
    if row.get("meter"):
        extra[row["meter"]] = row["units"]
    if "org_id" in row:
        extra["organization"] = names.get(row["org_id"], row["org_id"])
    if "at_ms" in row:
        extra["at"] = tables.moment(row["at_ms"])
    return row | extra
