"""`tollway wallet …`: prepaid money of the organizations, on the double-entry ledger."""

from typing import Annotated, Any

import msgspec
import typer

from tollway.faces.cli import find, tables
from tollway.faces.cli.desk import Desk, amount, command, group, quoted
from tollway.flows import wallets
from tollway.kit.errors import BadRequest
from tollway.kit.ids import new_id
from tollway.sell import ledger

app = group("Prepaid money: balance, top-up, grant.")
Org = Annotated[str, typer.Argument(help="Name or id of the organization.", metavar="ORG")]
Sum = Annotated[str, typer.Argument(help="For example 10 or 12.50.", metavar="AMOUNT")]
Reference = Annotated[str | None, typer.Option("--reference", help="Why; the same reference moves money once.")]


@command(app, "show")
def show(desk: Desk, org: Org) -> None:
    """What an organization can spend."""
    with desk.shop.db.read() as conn:
        one = find.organization(conn, org)
        wallet = wallets.wallet_of(conn, one.id, desk.settings.currency)
    data = {"org_id": one.id, "organization": one.name, "currency": wallet.currency, "balance_micros": wallet.micros}
    desk.answer(data, lambda: f"{one.name}: {tables.money(wallet.micros, wallet.currency)}")
    desk.then(f"tollway wallet top-up {quoted(one.name)} 10")


@command(app, "top-up")
def top_up(desk: Desk, org: Org, sum_: Sum, reference: Reference = None) -> None:
    """Book money an organization paid in."""
    _move(desk, org, sum_, reference, "top_up")


@command(app, "grant")
def grant(desk: Desk, org: Org, sum_: Sum, reference: Reference = None) -> None:
    """Give credit away: it spends like money and is booked as our expense."""
    _move(desk, org, sum_, reference, "grant")


@command(app, "entries")
def entries(
    desk: Desk,
    org: Org,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many, newest first.")] = 50,
) -> None:
    """Every movement of an organization's money; first what usage has accrued and is not posted yet."""
    with desk.shop.db.read() as conn:
        one = find.organization(conn, org)
        rows = [msgspec.to_builtins(entry) for entry in ledger.entries(conn, one.id, limit)]
    shown = [
        # The books credit a wallet (minus) when its owner has more; people read it from the owner's side.
        row | {"at": tables.moment(row["at_ms"]), "change": tables.money(-row["amount_micros"], row["currency"])}
        for row in rows
    ]
    columns = {
        "at": "at",
        "kind": "kind",
        "account": "account",
        "change": "change",
        "cause": "cause",
        "memo": "memo",
    }
    desk.answer(rows, lambda: tables.table(shown, columns))
    desk.then("tollway audit", "proves that the books balance")


def _move(desk: Desk, org: str, sum_: str, reference: str | None, kind: wallets.Kind) -> None:
    micros = amount(sum_)
    if micros <= 0:
        raise BadRequest("The amount must be more than zero.", hint="For example: tollway wallet top-up ORG 10.")
    cause = f"{kind}:{reference or new_id('ref', desk.now_ms)}"
    with desk.shop.db.read() as conn:
        one = find.organization(conn, org)
    done = wallets.fill(desk.shop, one.id, kind, micros, cause)
    desk.until_noticed()
    currency, balance = done.wallet.currency, done.wallet.micros
    data: dict[str, Any] = {
        "org_id": one.id, "currency": currency, "amount_micros": micros, "cause": cause, "moved": done.moved,
        "balance_micros": balance,
    }  # fmt: skip
    line = "This reference was booked before; nothing moved"
    if done.moved:
        line = f"{tables.money(micros, currency)} booked"
    desk.answer(data, lambda: f"{line}. {one.name} can spend {tables.money(balance, currency)}.")
    desk.then(f"tollway wallet entries {quoted(one.name)}")
