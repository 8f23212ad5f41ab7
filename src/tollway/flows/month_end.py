"""The end of a month: every subscription's invoice is drafted and, when asked for, made final. Safe to run again.

Each invoice is its own transaction, so a failure stops at one and the next run picks up where it ended. Invoices of
nothing at all (no fee, no use) stay drafts.
"""

from typing import Protocol

import msgspec

from tollway.kit.clock import Clock
from tollway.kit.db import Database
from tollway.kit.errors import Conflict, NotFound
from tollway.sell import accounts, billing, catalog
from tollway.sell.billing import Invoice


class Books(Protocol):
    """What of a shop this flow needs."""

    @property
    def db(self) -> Database: ...
    @property
    def clock(self) -> Clock: ...


class MonthEnd(msgspec.Struct, frozen=True):
    """What a run came to. `waiting` are the drafts that could not be made final yet, each with the reason."""

    period: str
    drafted: list[Invoice]
    finalised: list[Invoice]
    waiting: dict[str, str]


def draft(shop: Books, org_id: str, period: str) -> Invoice:
    """The month's invoice of one organization, for what it was subscribed to last. Raises NotFound."""
    with shop.db.write() as conn:
        known = catalog.list_subscriptions(conn, org_id)
        if not known:
            raise NotFound(
                f"The organization {accounts.get_organization(conn, org_id).name} was never subscribed.",
                hint="`tollway plan list` shows what it can be put on; then: tollway subscription start.",
            )
        return billing.draft(conn, shop.clock.now_ms(), known[-1].id, period)


def run(shop: Books, period: str, *, finalise: bool = False) -> MonthEnd:
    """Draft all invoices of a month ("2026-01"); with `finalise`, number and book those whose time is over."""
    with shop.db.read() as conn:
        subscriptions = billing.due_subscriptions(conn, period)
    done = MonthEnd(period, [], [], {})
    for subscription in subscriptions:
        with shop.db.write() as conn:
            invoice = billing.draft(conn, shop.clock.now_ms(), subscription.id, period)
        if invoice.status == "draft" and invoice.lines and finalise:
            try:
                with shop.db.write() as conn:
                    done.finalised.append(billing.finalise(conn, shop.clock.now_ms(), invoice.id))
                continue
            except Conflict as reason:
                done.waiting[invoice.id] = str(reason)
        done.drafted.append(invoice)
    return done
