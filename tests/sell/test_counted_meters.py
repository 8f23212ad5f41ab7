"""Meters besides tokens: recorded with the event, rolled up by day, rated, read back after a restart, on the invoice."""

from collections.abc import Callable

from tollway.kit.clock import ManualClock
from tollway.kit.db import Database
from tollway.sell import accounts, billing, catalog, usage
from tollway.sell.book import read_book

TERMS = catalog.Terms(
    overage="invoice",
    charges=(
        catalog.Charge(meter="images", price_micros=2_000_000_000, included=5),  # 0.002 each
        catalog.Charge(meter="explanations", price_micros=10_000_000_000),
        catalog.Charge(meter="input_tokens", price_micros=1_000_000),
    ),
)


def test_images_and_explanations_of_a_month_come_to_lines(
    db: Database, clock: ManualClock, record_use: Callable[..., str]
) -> None:
    now = clock.now_ms()
    with db.write() as conn:
        org = accounts.create_organization(conn, now, "Acme")
        plan = catalog.create_plan(conn, now, "vision", "Vision", TERMS)
        sub = catalog.subscribe(conn, now, org.id, plan.id)
        for units in (3, 4):
            record_use(
                conn, sub, model="digits", at_ms=now + units, operation="classification", meter="images", units=units
            )
        record_use(conn, sub, model="digits", at_ms=now + 9, operation="explanation", meter="explanations", units=2)
        record_use(conn, sub, model="mood", at_ms=now + 10, input_tokens=1_000)
        bill = billing.preview(conn, sub.id, "2026-01")
        day = usage.by_day(conn, org.id, "2026-01-01", "2026-01-01")[0]
        since = usage.totals(conn, org.id, now)
        book = read_book(conn, now)
    lines = {line.meter: line for line in bill.lines}
    assert (lines["images"].quantity, lines["images"].free, lines["images"].amount_micros) == (7, 5, 0)
    assert lines["images"].unit == "image"
    assert (lines["explanations"].quantity, lines["explanations"].amount_micros) == (2, 20_000)
    assert lines["explanations"].formula.startswith("2 × ")
    assert (day.requests, day.images, day.explanations, day.input_tokens) == (4, 7, 2, 1_000)
    assert (since.images, since.explanations, since.rows) == (7, 2, 0)
    used, tokens = book.usage[org.id]
    assert (used["digits"]["images"], used["digits"]["explanations"], used["digits"]["requests"]) == (7, 2, 3)
    assert tokens == 1_000


def test_a_month_of_pictures_is_a_pdf_in_both_languages(
    db: Database, clock: ManualClock, record_use: Callable[..., str]
) -> None:
    now = clock.now_ms()
    with db.write() as conn:
        org = accounts.create_organization(conn, now, "Acme")
        sub = catalog.subscribe(conn, now, org.id, catalog.create_plan(conn, now, "vision", "Vision", TERMS).id)
        record_use(conn, sub, model="digits", at_ms=now, operation="classification", meter="images", units=2_000)
        bill = billing.draft(conn, now, sub.id, "2026-01")
    for locale in ("en", "zh"):
        assert billing.render_pdf(bill, org, "Shop", locale).startswith(b"%PDF")
