"""What each version was sold for and how it was rated since a moment, on both databases."""

from collections.abc import Callable

from tollway.insight import versions_sold
from tollway.kit.db import Database
from tollway.sell import accounts, catalog, feedback
from tollway.sell.catalog import Charge, Terms


def test_calls_and_ratings_by_version_since_a_moment(db: Database, record_use: Callable[..., str]) -> None:
    terms = Terms(overage="invoice", charges=(Charge(meter="requests", price_micros=2_000_000),))
    with db.write() as conn:
        org = accounts.create_organization(conn, 0, "Acme")
        sub = catalog.subscribe(conn, 0, org.id, catalog.create_plan(conn, 0, "p", "P", terms).id)
        euros = catalog.create_plan(conn, 0, "e", "E", Terms(currency="EUR", overage="invoice", charges=terms.charges))
        other = accounts.create_organization(conn, 0, "Bitte")
        far = catalog.subscribe(conn, 0, other.id, euros.id)
        before = record_use(conn, sub, model="m", model_version="1", at_ms=999, decode_us=7)
        for number in range(6):
            version = "2" if number % 3 == 0 else "1"
            event = record_use(
                conn, sub, model="m", model_version=version, at_ms=1000 + number, prefill_us=10, decode_us=30
            )
            feedback.give(conn, 2000, org.id, "key_1", event, -1 if number < 2 else 1)
        feedback.give(conn, 500, org.id, "key_1", before, -1)
        record_use(conn, far, model="m", model_version="2", at_ms=1500)
        record_use(conn, sub, model="n", model_version="2", at_ms=1500)
        found = versions_sold.since(conn, "m", 1000, "USD")
        nothing = versions_sold.since(conn, "m", 9000, "USD")
    one, two = found["1"], found["2"]
    assert (one.calls, one.engine_us, one.price_picos) == (4, 160, 4 * 2_000_000)
    assert (two.calls, two.engine_us, two.price_picos) == (2, 80, 2 * 2_000_000)
    assert ((one.rated, one.bad), (two.rated, two.bad)) == ((4, 1), (2, 1))
    assert nothing == {}
