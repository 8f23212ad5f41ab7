"""The month's end: everyone is drafted, what is over becomes final once, and running it again changes nothing."""

from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from tollway.flows import month_end
from tollway.kit.clock import ManualClock, to_ms
from tollway.kit.db import Database
from tollway.kit.errors import BadRequest
from tollway.sell import accounts, billing, catalog, ledger
from tollway.sell.catalog import Charge, Terms

OUT = Charge(meter="output_tokens", price_micros=600_000)


def at(month: int, day: int) -> int:
    return to_ms(datetime(2026, month, day, tzinfo=UTC))


def test_a_month_is_drafted_and_made_final_once(
    db: Database, clock: ManualClock, record_use: Callable[..., str]
) -> None:
    shop = SimpleNamespace(db=db, clock=clock)
    with db.write() as conn:
        for name, fee, started in (("fee", 10_000_000, 1), ("use", 0, 1), ("idle", 0, 1), ("later", 10_000_000, 32)):
            plan = catalog.create_plan(conn, 0, name, "", Terms(flat_fee_micros=fee, overage="invoice", charges=(OUT,)))
            org = accounts.create_organization(conn, 0, name)
            subscription = catalog.subscribe(conn, at(1, 1) + (started - 1) * 86_400_000, org.id, plan.id)
            if name == "use":
                record_use(conn, subscription, at_ms=at(1, 20), output_tokens=5_000_000)
    clock.advance(days=20)
    early = month_end.run(shop, "2026-01", finalise=True)
    assert (len(early.drafted), early.finalised, len(early.waiting)) == (3, [], 2)
    clock.advance(days=11, hours=1)
    done = month_end.run(shop, "2026-01", finalise=True)
    assert sorted(one.total_micros for one in done.finalised) == [3_000_000, 10_000_000]
    assert sorted(one.number or "" for one in done.finalised) == ["TW-2026-000001", "TW-2026-000002"]
    assert [one.status for one in done.drafted] == ["draft"]  # nothing was used, nothing is asked
    again = month_end.run(shop, "2026-01", finalise=True)
    assert (len(again.drafted), again.finalised) == (3, [])
    with db.read() as conn:
        assert ledger.audit(conn) == [] == billing.audit(conn)
        assert ledger.balance(conn, "revenue_usage", "", "USD") == -3_000_000
        assert ledger.balance(conn, "revenue_subscription", "", "USD") == -10_000_000
        assert len(billing.list_invoices(conn)) == 3


def test_a_month_that_is_none_is_a_bad_request(sqlite_db: Database, clock: ManualClock) -> None:
    with pytest.raises(BadRequest):
        month_end.run(SimpleNamespace(db=sqlite_db, clock=clock), "January")
