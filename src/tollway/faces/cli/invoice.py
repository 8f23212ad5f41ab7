"""`tollway invoice …`: draft, look, finalise, pay, void, PDF."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tollway.faces.cli import find, tables
from tollway.faces.cli.desk import Desk, Yes, command, group
from tollway.flows import month_end
from tollway.kit.clock import month_bounds_ms, month_of
from tollway.kit.errors import BadRequest
from tollway.sell import accounts, billing

app = group("Draft, finalise, pay, void, PDF.")
Invoice = Annotated[str, typer.Argument(help="Id or number (TW-2026-000001) of the invoice.", metavar="INVOICE")]
_COLUMNS = {"number": "number", "organization": "organization", "period": "period", "status": "status",
            "total": "total", "due": "due", "id": "id"}  # fmt: skip
_LINE = {
    "description": "for",
    "quantity": "quantity",
    "unit": "per",
    "price": "price",
    "included": "free",
    "amount": "amount",
}


@command(app, "draft")
def draft(
    desk: Desk,
    org: Annotated[str | None, typer.Argument(help="One organization; without it, everybody.", metavar="ORG")] = None,
    period: Annotated[str | None, typer.Option("--period", help="The month, 2026-01; this one by default.")] = None,
) -> None:
    """Compute the month's invoices from usage events and plans. Drafting again gives the same, or what changed."""
    month = _month(period, desk.now_ms)
    if org is None:
        drafts = month_end.run(desk.shop, month).drafted
    else:
        with desk.shop.db.read() as conn:
            one = find.organization(conn, org)
        drafts = [month_end.draft(desk.shop, one.id, month)]
        desk.until_noticed()
    with desk.shop.db.read() as conn:
        names = find.names(conn)
    _list(desk, drafts, names, empty=f"Nobody was subscribed in {month}.")
    desk.then(f"tollway invoice show {drafts[0].id}" if drafts else "tollway subscription list")


@command(app, "list")
def list_(
    desk: Desk,
    org: Annotated[str | None, typer.Argument(help="Only this organization's.", metavar="ORG")] = None,
    status: Annotated[str | None, typer.Option("--status", help="draft, finalised, paid or void.")] = None,
) -> None:
    """Invoices, newest first."""
    with desk.shop.db.read() as conn:
        found = billing.list_invoices(conn, find.organization(conn, org).id if org else None, status)
        names = find.names(conn)
    _list(desk, found, names, empty="No invoices yet.")
    desk.then(f"tollway invoice show {found[0].number or found[0].id}" if found else "tollway invoice draft")


@command(app, "show")
def show(desk: Desk, invoice: Invoice) -> None:
    """One invoice with every line and how it was computed."""
    with desk.shop.db.read() as conn:
        one = billing.get_invoice(conn, invoice)
        names = find.names(conn)
    desk.answer(one, lambda: _drawn(one, names))
    over = one.period < month_of(desk.now_ms)  # a running month can be printed, not closed
    desk.then(f"tollway invoice {'finalise' if one.status == 'draft' and over else 'pdf'} {one.number or one.id}")


@command(app, "finalise")
def finalise(desk: Desk, invoice: Invoice, yes: Yes = False) -> None:
    """Number it and book it: from then on it never changes."""
    with desk.shop.db.read() as conn:
        one = billing.get_invoice(conn, invoice)
    desk.confirm(f"{tables.money(one.due_micros, one.currency)} becomes due and the invoice can no longer change.", yes)
    with desk.write() as conn:
        done = billing.finalise(conn, desk.now_ms, one.id)
        names = find.names(conn)
    _list(desk, done, names)
    desk.then(f"tollway invoice pdf {done.number}")


@command(app, "pay")
def pay(
    desk: Desk,
    invoice: Invoice,
    reference: Annotated[
        str | None, typer.Option("--reference", help="The payment's own id; the same one counts once.")
    ] = None,
) -> None:
    """Book that an invoice was paid (by bank transfer, for example)."""
    with desk.write() as conn:
        one = billing.get_invoice(conn, invoice)
        done = billing.pay(conn, desk.now_ms, one.id, f"payment:{reference or one.id}")
        names = find.names(conn)
    _list(desk, done, names)
    desk.then("tollway audit")


@command(app, "void")
def void(desk: Desk, invoice: Invoice, yes: Yes = False) -> None:
    """Take an unpaid invoice back; its number stays used."""
    with desk.shop.db.read() as conn:
        one = billing.get_invoice(conn, invoice)
    desk.confirm(f"The invoice {one.number or one.id} becomes void and its booking is reversed.", yes)
    with desk.write() as conn:
        done = billing.void(conn, desk.now_ms, one.id)
        names = find.names(conn)
    _list(desk, done, names)
    desk.then("tollway invoice list")


@command(app, "pdf")
def pdf(
    desk: Desk,
    invoice: Invoice,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; NUMBER.pdf by default.")] = None,
    locale: Annotated[str, typer.Option("--locale", help="en or zh.")] = "en",
    seller: Annotated[str, typer.Option("--seller", help="The name on top.")] = "Tollway",
) -> None:
    """Write an invoice as PDF."""
    if locale not in ("en", "zh"):
        raise BadRequest(f"There is no {locale!r} invoice.", hint="Use --locale en or --locale zh.")
    with desk.shop.db.read() as conn:
        one = billing.get_invoice(conn, invoice)
        organization = accounts.get_organization(conn, one.org_id)
    path = out or Path(f"{one.number or one.id}.pdf")
    content = billing.render_pdf(one, organization, seller, locale)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise BadRequest(
            f"{path} cannot be written: {error.strerror}.", hint="Name another file with --out."
        ) from error
    desk.answer({"path": str(path.absolute()), "bytes": len(content)}, lambda: str(path))
    desk.then(f"tollway invoice {'show' if one.status == 'draft' else 'pay'} {one.number or one.id}")


def _month(text: str | None, now_ms: int) -> str:
    if text is None:
        return month_of(now_ms)
    try:
        month_bounds_ms(text)
    except ValueError as error:
        raise BadRequest(f"{text!r} is not a month.", hint="Write it as 2026-01.") from error
    return text


def _list(desk: Desk, found: Any, names: dict[str, str], empty: str = "") -> None:
    many = found if isinstance(found, list) else [found]
    rows = [
        msgspec.structs.asdict(one)
        | {
            "organization": names.get(one.org_id, one.org_id),
            "total": tables.money(one.total_micros, one.currency),
            "due": tables.money(one.due_micros, one.currency),
        }
        for one in many
    ]
    desk.answer(found, lambda: tables.table(rows, _COLUMNS, empty=empty))


def _drawn(one: Any, names: dict[str, str]) -> Any:
    from rich.console import Group

    lines = [
        msgspec.structs.asdict(line)
        | {
            "price": tables.money(line.price_micros, one.currency),
            "amount": tables.money(line.amount_micros, one.currency),
        }
        for line in one.lines
    ]
    head = tables.record(
        {
            "invoice": one.number or f"draft {one.id}",
            "organization": names.get(one.org_id, one.org_id),
            "period": one.period,
            "status": one.status,
        }
    )
    foot = tables.record(
        {"total": tables.money(one.total_micros, one.currency), "due": tables.money(one.due_micros, one.currency)}
    )
    return Group(head, tables.table(lines, _LINE, empty="No lines."), foot)
