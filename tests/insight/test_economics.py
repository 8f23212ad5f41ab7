"""The books: they close to the micro whatever was measured, and say what a token cost and earned."""

from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tollway.insight import economics
from tollway.insight.economics import MachinePrice
from tollway.kit.clock import to_ms
from tollway.kit.db import Database
from tollway.kit.errors import BadRequest
from tollway.kit.settings import Settings
from tollway.sell import accounts, catalog, tables
from tollway.sell.catalog import Charge, Subscription, Terms
from tollway.serve import models
from tollway.serve.tables import replica_hour

RecordUse = Callable[..., str]
HOUR = 3_600_000_000
NOON = to_ms(datetime(2026, 1, 5, 12, tzinfo=UTC))
LATER = NOON + 3_600_000
PRICE = MachinePrice(116_000, "USD", "test")


def subscribed(conn: sa.Connection, name: str, currency: str = "USD") -> Subscription:
    terms = Terms(
        currency=currency, overage="invoice", charges=(Charge(meter="output_tokens", price_micros=1_000_000),)
    )
    plan = catalog.create_plan(conn, 0, f"plan-{name}", "", terms)
    return catalog.subscribe(conn, 0, accounts.create_organization(conn, 0, name).id, plan.id)


def alive(
    conn: sa.Connection,
    model: str = "small",
    hour_ms: int = NOON,
    *,
    busy: int = 0,
    failed: int = 0,
    idle: int = 0,
    shadow: int = 0,
) -> None:
    values = {"model": model, "model_version": "v1", "hour_ms": hour_ms, "shadow_us": shadow}
    conn.execute(replica_hour.insert().values(values | {"busy_us": busy, "failed_us": failed, "idle_us": idle}))


def test_one_replica_that_is_busy_half_the_hour(db: Database, record_use: RecordUse) -> None:
    with db.write() as conn:
        acme = subscribed(conn, "acme")
        alive(conn, busy=HOUR // 2, idle=HOUR // 2)
        # 0.6 s of prefill for 1,000 tokens, the rest of half an hour for 100,000 tokens of output
        decode = HOUR // 2 - 600_000
        record_use(
            conn, acme, at_ms=NOON + 5, input_tokens=1_000, output_tokens=100_000, prefill_us=600_000, decode_us=decode
        )
        books = economics.report(conn, PRICE, NOON, LATER)
    (row,) = books.rows
    assert (books.hardware_micros, row.cost_micros, books.idle.cost_micros) == (116_000, 58_000, 58_000)
    assert (row.revenue_micros, row.margin_micros, row.margin_share) == (100_000, 42_000, 0.42)
    assert row.output_cost_per_1m_tokens_micros == round(58_000 * decode / (HOUR // 2) * 10)
    assert row.input_cost_per_1m_tokens_micros == round(Fraction(58_000 * 600_000, HOUR // 2) * 1_000)
    assert row.total_cost_per_1m_tokens_micros == round(Fraction(58_000 * 10**6, 101_000))
    assert books.loaded_cost_per_1m_tokens_micros == round(Fraction(116_000 * 10**6, 101_000))
    assert books.margin_micros == 100_000 - 116_000
    assert [(one.name, one.cost_micros, one.margin_micros) for one in books.organizations] == [("acme", 58_000, 42_000)]


@pytest.mark.parametrize(
    ("an_hour", "tokens_per_s", "per_million"),
    [
        (2_800_000, 1_000, 777_778),  # 2.8 / 3.6, InferenceX
        (2_000_000, 85, 6_535_948),  # published as 6.54
        (2_000_000, 120, 4_629_630),  # 4.63
        (2_000_000, 400, 1_388_889),  # 1.39
        (2_600_000, 140, 5_158_730),  # 5.16
    ],
)
def test_published_unit_costs(
    sqlite_db: Database, record_use: RecordUse, an_hour: int, tokens_per_s: int, per_million: int
) -> None:
    with sqlite_db.write() as conn:
        alive(conn, busy=HOUR)
        acme = subscribed(conn, "acme")
        record_use(conn, acme, at_ms=NOON, output_tokens=tokens_per_s * 3600, decode_us=HOUR)
        (row,) = economics.report(conn, MachinePrice(an_hour, "USD", "test"), NOON, LATER).rows
    assert row.output_cost_per_1m_tokens_micros == row.total_cost_per_1m_tokens_micros == per_million
    assert row.input_cost_per_1m_tokens_micros is None


def test_replicas_alive_together_share_the_machine(db: Database) -> None:
    with db.write() as conn:
        alive(conn, "a", busy=HOUR)
        alive(conn, "b", busy=HOUR // 4, idle=HOUR // 4, failed=HOUR // 2)
        books = economics.report(conn, PRICE, NOON, LATER)
    costs = {row.model: row.cost_micros for row in books.rows}
    assert costs == {"a": 58_000, "b": 14_500}
    assert (books.idle.cost_micros, books.failed.cost_micros, books.hardware_micros) == (14_500, 29_000, 116_000)


def test_a_replica_alive_for_part_of_the_hour_costs_that_part(db: Database) -> None:
    with db.write() as conn:
        alive(conn, "a", busy=HOUR // 2)
        alive(conn, "b", idle=HOUR // 4)
        alive(conn, "a", LATER, idle=HOUR)
        books = economics.report(conn, PRICE, NOON, LATER + 1)
    assert books.hardware_micros == 58_000 + 116_000  # half an hour and a whole one
    assert sum(row.cost_micros for row in books.rows) == round(Fraction(58_000 * 2, 3))


def test_cost_follows_engine_time_to_the_organizations(db: Database, record_use: RecordUse) -> None:
    with db.write() as conn:
        one, two = subscribed(conn, "one"), subscribed(conn, "two")
        alive(conn, busy=HOUR)
        record_use(conn, one, at_ms=NOON, output_tokens=10, decode_us=HOUR // 3)
        record_use(conn, two, at_ms=NOON + 1, output_tokens=10, decode_us=HOUR - HOUR // 3)
        books = economics.report(conn, PRICE, NOON, LATER)
    costs = {row.name: row.cost_micros for row in books.organizations}
    assert costs == {"one": 38_667, "two": 77_333}
    assert sum(costs.values()) == books.attributed_micros == books.hardware_micros


def test_busy_time_whose_calls_are_not_recorded_yet_belongs_to_nobody(db: Database) -> None:
    with db.write() as conn:
        subscribed(conn, "acme")
        alive(conn, busy=HOUR)
        books = economics.report(conn, PRICE, NOON, LATER)
    assert [(row.org_id, row.name, row.cost_micros) for row in books.organizations] == [("", "", 116_000)]
    assert (books.rows[0].total_cost_per_1m_tokens_micros, books.rows[0].margin_share) == (None, None)


def test_a_model_served_elsewhere_costs_the_machine_nothing(db: Database, record_use: RecordUse) -> None:
    with db.write() as conn:
        record_use(
            conn, subscribed(conn, "acme"), at_ms=NOON, output_tokens=1_000_000, model="far", model_version="upstream"
        )
        books = economics.report(conn, PRICE, NOON, LATER)
    assert [(row.model, row.cost_micros, row.margin_share) for row in books.rows] == [("far", 0, 1.0)]
    assert books.hardware_micros == 0


def test_what_an_upstream_charges_is_paid_from_the_margin(db: Database, record_use: RecordUse) -> None:
    costs = (("input_tokens", 150_000), ("output_tokens", 600_000))
    there = models.Upstream("https://far.example/v1", "far", "", (), costs)
    with db.write() as conn:
        models.offer_upstream(conn, 0, "far", "chat", there)
        models.offer_upstream(conn, 0, "free", "chat", models.Upstream("https://far.example/v1", "free"))
        heard = models.Upstream("https://far.example/v1", "ear", "", (), (("audio_seconds", 100_000_000),))
        models.offer_upstream(conn, 0, "ear", "transcription", heard)
        alive(conn, idle=HOUR)
        acme, other = subscribed(conn, "acme"), subscribed(conn, "other")
        elsewhere = {"at_ms": NOON, "model_version": "upstream"}
        used = {"input_tokens": 1_000_000, "cached_tokens": 1_000_000}
        record_use(conn, acme, output_tokens=1_000_000, model="far", **used, **elsewhere)
        record_use(conn, other, output_tokens=500_000, model="far", **elsewhere)
        record_use(conn, acme, output_tokens=0, model="ear", meter="audio_seconds", units=60, **elsewhere)
        record_use(conn, acme, output_tokens=10, model="free", **elsewhere)
        books = economics.report(conn, PRICE, NOON, LATER)
    rows = {row.model: row for row in books.rows}
    # cached tokens cost what input costs where nothing else is said
    assert (rows["far"].cost_micros, rows["far"].bought_micros) == (1_200_000, 1_200_000)
    assert rows["far"].margin_micros == 1_500_000 - 1_200_000
    assert rows["far"].total_cost_per_1m_tokens_micros == round(1_200_000 / 3.5)
    assert (rows["ear"].cost_micros, rows["free"].cost_micros) == (6_000, 0)
    assert [(one.meter, one.units, one.cost_micros) for one in rows["ear"].unit_costs] == [("audio_seconds", 60, 6_000)]
    assert {row.name: row.cost_micros for row in books.organizations}["acme"] == 900_000 + 6_000
    assert {row.name: row.cost_micros for row in books.organizations}["other"] == 300_000
    assert (books.bought_micros, books.hardware_micros) == (1_206_000, 116_000)
    assert books.margin_micros == books.revenue_micros - 116_000 - 1_206_000


def test_other_currencies_are_named_and_not_added_up(db: Database, record_use: RecordUse) -> None:
    with db.write() as conn:
        record_use(conn, subscribed(conn, "dollars"), at_ms=NOON, output_tokens=1_000_000)
        record_use(conn, subscribed(conn, "yuan", "CNY"), at_ms=NOON, output_tokens=7_000_000)
        books = economics.report(conn, PRICE, NOON, LATER)
    assert (books.revenue_micros, books.other_currencies) == (1_000_000, {"CNY": 7_000_000})


def test_the_report_takes_whole_hours_and_nothing_outside_them(sqlite_db: Database, record_use: RecordUse) -> None:
    with sqlite_db.write() as conn:
        acme = subscribed(conn, "acme")
        for hour in (NOON - 3_600_000, NOON, LATER):
            alive(conn, hour_ms=hour, idle=HOUR)
            record_use(conn, acme, at_ms=hour + 1_800_000, output_tokens=1)
        books = economics.report(conn, PRICE, NOON + 60_000, LATER - 60_000)
        assert (books.from_ms, books.to_ms, books.hardware_micros, books.rows[0].requests) == (NOON, LATER, 116_000, 1)
        with pytest.raises(BadRequest):
            economics.report(conn, PRICE, LATER, NOON)


def test_an_empty_shop_has_empty_books(db: Database) -> None:
    with db.read() as conn:
        books = economics.report(conn, PRICE, NOON, LATER)
    assert (books.rows, books.organizations, books.hardware_micros, books.loaded_cost_per_1m_tokens_micros) == (
        [],
        [],
        0,
        None,
    )


_US = st.integers(0, HOUR)
_HOURS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 3), _US, _US, _US, _US), max_size=8, unique_by=lambda row: row[:2]
)
_CALLS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(0, 3), _US, _US, st.integers(0, 10**6)), max_size=8
)


@given(hours=_HOURS, calls=_CALLS, price=st.integers(0, 10**9))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_books_always_close(
    sqlite_db: Database,
    record_use: RecordUse,
    hours: list[tuple[str, int, int, int, int, int]],
    calls: list[tuple[str, bool, int, int, int, int]],
    price: int,
) -> None:
    with sqlite_db.write() as conn:
        conn.execute(replica_hour.delete())
        conn.execute(tables.usage_event.delete())
        known = {one.name: one.id for one in accounts.list_organizations(conn)}
        if not known:
            subscribed(conn, "one"), subscribed(conn, "two")
            known = {one.name: one.id for one in accounts.list_organizations(conn)}
        running = {name: catalog.running_subscription(conn, org) for name, org in known.items()}
        for model, hour, busy, failed, idle, shadow in hours:
            alive(conn, model, NOON + hour * 3_600_000, busy=busy, failed=failed, idle=idle, shadow=shadow)
        for model, first, hour, prefill, decode, tokens in calls:
            moment = NOON + hour * 3_600_000
            who = running["one" if first else "two"]
            assert who is not None
            record_use(conn, who, at_ms=moment, model=model, output_tokens=tokens, prefill_us=prefill, decode_us=decode)
        books = economics.report(conn, MachinePrice(price, "USD", "test"), NOON, NOON + 4 * 3_600_000)
    by_hour: dict[int, int] = {}
    for _, hour, busy, failed, idle, shadow in hours:
        by_hour[hour] = max(by_hour.get(hour, 0), min(HOUR, busy + failed + idle + shadow))
    assert books.hardware_micros == round(Fraction(price * sum(by_hour.values()), HOUR))
    not_sold = books.idle.cost_micros + books.failed.cost_micros + books.shadow.cost_micros
    assert books.attributed_micros + not_sold == books.hardware_micros
    assert sum(row.cost_micros for row in books.rows) == books.attributed_micros
    assert sum(row.cost_micros for row in books.organizations) == books.attributed_micros
    assert all(row.cost_micros >= 0 for row in (*books.rows, *books.organizations))
    assert sum(row.requests for row in books.rows) == sum(row.requests for row in books.organizations) == len(calls)


@given(st.dictionaries(st.text(max_size=3), st.fractions(0, 10**6), max_size=12))
def test_the_largest_remainder_moves_nobody_by_a_whole_micro(parts: dict[str, Fraction]) -> None:
    whole = economics.largest_remainder(parts)
    assert sum(whole.values()) == round(sum(parts.values(), Fraction(0)))
    assert all(abs(whole[key] - part) < 1 for key, part in parts.items())


# -- the machine's price -----------------------------------------------------------------------------------------------


def _settings(tmp_path: Path, **given: str) -> Settings:
    return Settings(tmp_path, flags=given, environment={})


def test_the_price_is_the_configured_one_and_says_where_from(tmp_path: Path) -> None:
    price = economics.machine_price(_settings(tmp_path, machine_price_per_hour="0.25", currency="CNY"))
    assert (price.micros_per_hour, price.currency) == (250_000, "CNY")
    assert "--machine-price-per-hour" in price.source


def test_without_one_it_is_a_cloud_list_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    price = economics.machine_price(_settings(tmp_path))
    assert (price.micros_per_hour, price.currency) == (116_000, "USD")
    assert "m7a.large" in price.source and "2 cores" in price.source
    yen = economics.machine_price(_settings(tmp_path, currency="JPY"))
    assert yen.micros_per_hour == 116_000 * 150 and "set machine_price_per_hour" in yen.source


@pytest.mark.parametrize(
    "given", [{"machine_price_per_hour": "cheap"}, {"machine_price_per_hour": "-1"}, {"currency": "XXX"}]
)
def test_a_price_that_is_none_is_a_bad_request(tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        economics.machine_price(_settings(tmp_path, **given))
