"""What an organization deals in and has to spend, and money into its wallet: one way for command line, console and `/admin`."""

from typing import Literal

import msgspec
import sqlalchemy as sa

from tollway.sell import accounts, catalog, ledger
from tollway.sell.accounts import Organization
from tollway.shop import Shop

Kind = Literal["top_up", "grant"]


class Wallet(msgspec.Struct, frozen=True):
    """Prepaid money of an organization, in the currency of its plan; in the shop's while it is on none."""

    currency: str
    micros: int


class Filled(msgspec.Struct, frozen=True):
    """Money into a wallet. `moved` is false when its cause was booked before."""

    organization: Organization
    wallet: Wallet
    moved: bool


def wallet_of(conn: sa.Connection, org_id: str, default_currency: str) -> Wallet:
    """What an organization has to spend."""
    currency = catalog.currency_of(conn, org_id, default_currency)
    return Wallet(currency, ledger.wallet_micros(conn, org_id, currency))


def all_filled(conn: sa.Connection) -> dict[str, Wallet]:
    """By organization: of those that ever had money in it."""
    left = ledger.wallet_picos(conn)
    return {
        org_id: Wallet(currency, ledger.micros_of(left[org_id, currency])) for org_id, currency in ledger.filled(conn)
    }


def movements(conn: sa.Connection, org_id: str, limit: int) -> list[ledger.Entry]:
    """What went in and out of a wallet, newest first, from its owner's side: a top-up is positive (the ledger's credit is our
    debt)."""
    found = ledger.entries(conn, org_id, limit, account="wallet")
    return [msgspec.structs.replace(entry, amount_micros=-entry.amount_micros) for entry in found]


def fill(shop: Shop, org: str, kind: Kind, micros: int, cause: str, currency: str = "") -> Filled:
    """Book money that an organization paid in, or credit given away; the same cause moves it once. Running gateways take it
    over. Raises NotFound, BadRequest."""
    with shop.db.write() as conn:
        return fill_in(conn, shop, org, kind, micros, cause, currency)


def fill_in(
    conn: sa.Connection, shop: Shop, org: str, kind: Kind, micros: int, cause: str, currency: str = ""
) -> Filled:
    """The same in an open transaction."""
    one = accounts.get_organization(conn, org)
    currency = currency or catalog.currency_of(conn, one.id, shop.settings.currency)
    book = ledger.top_up if kind == "top_up" else ledger.grant
    moved = book(conn, shop.clock.now_ms(), one.id, currency, micros, cause)
    return Filled(one, Wallet(currency, ledger.wallet_micros(conn, one.id, currency)), moved is not None)
