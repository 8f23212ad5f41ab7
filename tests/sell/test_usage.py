"""Reading usage: sums that agree with the events, days without gaps, and nobody sees another's events."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from tollway.kit.clock import to_ms
from tollway.kit.db import Database
from tollway.kit.errors import BadRequest, NotFound
from tollway.sell import accounts, catalog, usage
from tollway.sell.catalog import Charge, Subscription, Terms

RecordUse = Callable[..., str]


def at(day: int, hour: int = 12) -> int:
    return to_ms(datetime(2026, 1, day, hour, tzinfo=UTC))


def subscribed(conn: sa.Connection, name: str) -> Subscription:
    terms = Terms(charges=(Charge(meter="output_tokens", price_micros=1_000_000),))
    plan = catalog.create_plan(conn, at(1), f"plan-{name}", "", terms)
    return catalog.subscribe(conn, at(1), accounts.create_organization(conn, at(1), name).id, plan.id)


@pytest.fixture
def two(db: Database, record_use: RecordUse) -> tuple[Subscription, Subscription]:
    """Two organizations with a few days of use."""
    with db.write() as conn:
        ours, theirs = subscribed(conn, "ours"), subscribed(conn, "theirs")
        record_use(
            conn, ours, at_ms=at(2), output_tokens=10, input_tokens=5, cached_tokens=2, prefill_us=7, decode_us=9
        )
        record_use(conn, ours, at_ms=at(2, 23), output_tokens=20, model="large", key_id="key_2")
        record_use(conn, ours, at_ms=at(4), output_tokens=40, key_id="key_2")
        record_use(conn, theirs, at_ms=at(4, 13), output_tokens=1_000)
    return ours, theirs


def test_days_come_in_order_and_without_gaps(db: Database, two: tuple[Subscription, Subscription]) -> None:
    with db.read() as conn:
        days = usage.by_day(conn, two[0].org_id, "2026-01-01", "2026-01-05")
        everyone = usage.by_day(conn, None, "2026-01-04", "2026-01-04")
    assert [day.day for day in days] == [f"2026-01-0{n}" for n in range(1, 6)]
    assert [day.output_tokens for day in days] == [0, 30, 0, 40, 0]
    assert [day.requests for day in days] == [0, 2, 0, 1, 0]
    assert days[1] == usage.DayUse(
        day="2026-01-02", requests=2, input_tokens=5, cached_tokens=2, output_tokens=30, price_picos=30_000_000,
        prefill_us=7, decode_us=9,
    )  # fmt: skip
    assert days[1].tokens == 37
    assert [day.output_tokens for day in everyone] == [1_040]


def test_use_is_grouped_and_narrowed(db: Database, two: tuple[Subscription, Subscription]) -> None:
    org, span = two[0].org_id, ("2026-01-01", "2026-01-31")
    with db.read() as conn:
        assert [(row.model, row.output_tokens) for row in usage.by_model(conn, org, *span)] == [
            ("small", 50),
            ("large", 20),
        ]
        assert [(row.key_id, row.requests) for row in usage.by_key(conn, org, *span)] == [("key_2", 2), ("key_1", 1)]
        assert [(row.org_id, row.output_tokens) for row in usage.by_org(conn, None, *span)] == [
            (two[1].org_id, 1_000),
            (org, 70),
        ]
        assert [row.model for row in usage.by_model(conn, org, *span, key_id="key_1")] == ["small"]
        assert sum(day.output_tokens for day in usage.by_day(conn, org, *span, model="large")) == 20
        assert usage.by_model(conn, org, "2025-01-01", "2025-01-31") == []


def test_totals_agree_with_the_days(db: Database, two: tuple[Subscription, Subscription]) -> None:
    with db.read() as conn:
        days = usage.by_day(conn, None, "2026-01-01", "2026-01-31")
        found = usage.totals(conn, None, at(1))
        assert found.price_picos == sum(day.price_picos for day in days) == 1_070_000_000
        assert (found.requests, found.tokens) == (4, sum(day.tokens for day in days))
        assert usage.totals(conn, two[0].org_id, at(2, 13), at(4, 12)).output_tokens == 20
        assert usage.totals(conn, None, at(30)) == usage.Totals()


def test_events_are_read_page_by_page_newest_first(db: Database, two: tuple[Subscription, Subscription]) -> None:
    with db.read() as conn:
        everything = usage.recent_events(conn, None, 10)
        assert [event.output_tokens for event in everything] == [1_000, 40, 20, 10]
        page = usage.recent_events(conn, two[0].org_id, 2)
        rest = usage.recent_events(conn, two[0].org_id, 2, before_id=page[-1].id)
        assert [event.output_tokens for event in (*page, *rest)] == [40, 20, 10]


def test_an_event_is_found_by_its_request_and_only_by_its_owner(
    db: Database, two: tuple[Subscription, Subscription]
) -> None:
    ours, theirs = two
    with db.read() as conn:
        event = usage.recent_events(conn, theirs.org_id, 1)[0]
        assert usage.find_event(conn, event.request_id) == event
        assert usage.find_event(conn, event.id, theirs.org_id) == event
        for request, org in ((event.request_id, ours.org_id), ("req_nope", None)):
            with pytest.raises(NotFound):
                usage.find_event(conn, request, org)


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("2026-01-02", "2026-01-01"),
        ("2026-1-1", "2026-01-02"),
        ("x", "2026-01-01"),
        ("20260101", "2026-01-02"),
        ("0001-01-01", "9999-12-31"),
    ],
)
def test_days_that_are_none_are_a_bad_request(sqlite_db: Database, first: str, last: str) -> None:
    with sqlite_db.read() as conn:
        for read in (usage.by_day, usage.by_model, usage.by_key, usage.by_org):
            with pytest.raises(BadRequest):
                read(conn, None, first, last)
