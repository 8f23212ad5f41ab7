"""Invoices: worked examples, replay to the bit, one booking and one number each, whatever is repeated."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from tollway.kit.clock import to_ms
from tollway.kit.db import Database
from tollway.kit.errors import BadRequest, Conflict, NotFound
from tollway.sell import accounts, billing, catalog, ledger, tables
from tollway.sell.billing_lines import bill, days_of
from tollway.sell.catalog import Charge, PlanVersion, Subscription, Terms

RecordUse = Callable[..., str]
IN = Charge(meter="input_tokens", price_micros=150_000, included=1_000_000)
OUT = Charge(meter="output_tokens", price_micros=600_000, included=100_000)
TERMS = Terms(flat_fee_micros=20_000_000, overage="invoice", charges=(IN, OUT))


def at(year: int, month: int, day: int, hour: int = 0) -> int:
    return to_ms(datetime(year, month, day, hour, tzinfo=UTC))


FEBRUARY = at(2026, 2, 2)


def subscribed(
    conn: sa.Connection, terms: Terms = TERMS, started_ms: int = at(2026, 1, 1), org: str = "acme"
) -> Subscription:
    organization = accounts.create_organization(conn, started_ms, org)
    plan = catalog.create_plan(conn, started_ms, f"plan-{org}", "Starter", terms)
    return catalog.subscribe(conn, started_ms, organization.id, plan.id)


# -- worked examples ---------------------------------------------------------------------------------------------------


def test_usage_beyond_the_included_units_is_priced_per_million(db: Database, record_use: RecordUse) -> None:
    with db.write() as conn:
        subscription = subscribed(conn)
        record_use(conn, subscription, at_ms=at(2026, 1, 5), input_tokens=900_000, output_tokens=150_000)
        record_use(conn, subscription, at_ms=at(2026, 1, 31, 23), input_tokens=1_600_000, model="large")
        invoice = billing.draft(conn, at(2026, 1, 31), subscription.id, "2026-01")
    fee, inputs, outputs = invoice.lines
    assert (fee.amount_micros, fee.unit, fee.quantity, fee.period_days) == (20_000_000, "month", 31, 31)
    # 1.5M x 0.15 = 0.225 -> 0.22 (half to even); 50k x 0.60 = 0.03
    assert (inputs.quantity, inputs.free, inputs.amount_micros) == (2_500_000, 1_000_000, 220_000)
    assert inputs.formula == "(2,500,000 - 1,000,000) / 1,000,000 × $0.15 = $0.22"
    assert (outputs.quantity, outputs.free, outputs.amount_micros) == (150_000, 100_000, 30_000)
    assert invoice.total_micros == invoice.due_micros == 20_250_000


def test_a_change_of_plan_shares_the_month_by_days(db: Database) -> None:
    """14/31 x 100 = 45.16 and 17/31 x 200 = 109.68."""
    with db.write() as conn:
        old = subscribed(conn, Terms(flat_fee_micros=100_000_000))
        dearer = catalog.create_plan(conn, 0, "team", "Team", Terms(flat_fee_micros=200_000_000))
        new = catalog.subscribe(conn, at(2026, 1, 15, 9), old.org_id, dearer.id)
        first = billing.draft(conn, FEBRUARY, old.id, "2026-01")
        second = billing.draft(conn, FEBRUARY, new.id, "2026-01")
    assert (first.total_micros, second.total_micros) == (45_160_000, 109_680_000)
    assert first.lines[0].formula == "14 / 31 × $100.00 = $45.16"
    assert second.lines[0].formula == "17 / 31 × $200.00 = $109.68"


@pytest.mark.parametrize(
    ("fee", "currency", "start", "amount"),
    [
        (10_000_000, "USD", at(2026, 7, 10), 7_100_000),  # 22 of July's 31 days: 7.10, not 7.33
        (10_000_000, "EUR", at(2026, 4, 15), 5_330_000),  # 16 of April's 30 days: 5.33
        (1_000_000_000, "JPY", at(2028, 2, 16), 483_000_000),  # 14 of 29 days in a leap February; yen have no cents
        (1_000_000, "KWD", at(2026, 1, 31), 32_000),  # 1 of 31 days; a dinar has 1,000 fils
    ],
)
def test_proration_divides_by_the_whole_month(
    sqlite_db: Database, fee: int, currency: str, start: int, amount: int
) -> None:
    with sqlite_db.write() as conn:
        subscription = subscribed(conn, Terms(currency=currency, flat_fee_micros=fee), start)
        period = datetime.fromtimestamp(start / 1000, UTC).strftime("%Y-%m")
        assert billing.draft(conn, start, subscription.id, period).total_micros == amount


def test_cached_input_is_charged_once_at_its_own_price(db: Database, record_use: RecordUse) -> None:
    """20,212 input tokens of which 16,298 cached, 46 out, at 2.50 / 0.25 / 15: the cache counts once."""
    charges = (
        Charge(meter="input_tokens", price_micros=2_500_000),
        Charge(meter="cached_tokens", price_micros=250_000),
        Charge(meter="output_tokens", price_micros=15_000_000),
    )
    with db.write() as conn:
        subscription = subscribed(conn, Terms(overage="invoice", charges=charges))
        record_use(conn, subscription, at_ms=at(2026, 1, 9), input_tokens=3_914, cached_tokens=16_298, output_tokens=46)
        made = billing.preview(conn, subscription.id, "2026-01")
    assert [line.quantity for line in made.lines] == [3_914, 16_298, 46]
    assert (
        sum(line.amount_micros for line in made.lines) == made.total_micros == 10_000
    )  # 0.009785 + 0.0040745 + 0.00069


# -- what the wallet paid ----------------------------------------------------------------------------------------------


def test_what_the_wallet_paid_is_shown_and_not_due_again(db: Database, record_use: RecordUse) -> None:
    terms = Terms(flat_fee_micros=5_000_000, overage="wallet", charges=(IN, OUT))
    with db.write() as conn:
        subscription = subscribed(conn, terms)
        ledger.top_up(conn, 0, subscription.org_id, "USD", 10_000_000, "bank:1")
        for number in range(7):
            moment = at(2026, 1, 3 + number)
            record_use(conn, subscription, at_ms=moment, input_tokens=333_333, output_tokens=77_777)
        price = int(conn.execute(sa.select(sa.func.sum(tables.usage_event.c.price_picos))).scalar_one())
        whole = price // 10**6  # as metering does; what is below a micro waits for the next call
        wallet = ledger.Leg("wallet", subscription.org_id, "USD", whole)
        ledger.post(conn, 0, "usage", "usage:1", [wallet, ledger.Leg("revenue_usage", "", "USD", -whole)])
        invoice = billing.draft(conn, FEBRUARY, subscription.id, "2026-01")
        assert invoice.total_micros == 5_000_000 + 200_000 + 270_000
        assert invoice.due_micros == 5_000_000
        assert invoice.paid_from_wallet_micros == 470_000
        final = billing.finalise(conn, FEBRUARY, invoice.id)
        assert ledger.balance(conn, "receivable", subscription.org_id, "USD") == final.due_micros
        assert ledger.balance(conn, "revenue_usage", "", "USD") == -470_000  # as on the invoice, to the cent
        assert abs(ledger.balance(conn, "rounding", "", "USD")) < 10_000
        assert ledger.audit(conn) == []


def test_usage_only_from_the_wallet_is_paid_when_final(db: Database, record_use: RecordUse) -> None:
    with db.write() as conn:
        subscription = subscribed(conn, Terms(overage="wallet", charges=(OUT,)))
        record_use(conn, subscription, at_ms=at(2026, 1, 3), output_tokens=1_000_000)
        invoice = billing.finalise(conn, FEBRUARY, billing.draft(conn, FEBRUARY, subscription.id, "2026-01").id)
        assert (invoice.status, invoice.due_micros, invoice.total_micros) == ("paid", 0, 540_000)
        assert ledger.balance(conn, "receivable", subscription.org_id, "USD") == 0


def test_what_the_wallet_paid_too_much_goes_back_to_it(db: Database, record_use: RecordUse) -> None:
    with db.write() as conn:
        subscription = subscribed(conn, Terms(overage="wallet", charges=(OUT,)))
        record_use(conn, subscription, at_ms=at(2026, 1, 3), output_tokens=1_000_000, price_picos=2 * 10**12)
        invoice = billing.finalise(conn, FEBRUARY, billing.draft(conn, FEBRUARY, subscription.id, "2026-01").id)
        assert invoice.due_micros == 0
        assert ledger.wallet_micros(conn, subscription.org_id, "USD") == 1_460_000
        assert ledger.audit(conn) == []


def test_a_plan_left_and_taken_again_has_its_free_units_once_a_month(db: Database, record_use: RecordUse) -> None:
    terms = Terms(overage="invoice", charges=(OUT,))
    with db.write() as conn:
        first = subscribed(conn, terms)
        record_use(conn, first, at_ms=at(2026, 1, 3), output_tokens=80_000)
        catalog.cancel(conn, at(2026, 1, 4), first.org_id)
        second = catalog.subscribe(conn, at(2026, 1, 5), first.org_id, first.plan_version_id)
        record_use(conn, second, at_ms=at(2026, 1, 6), output_tokens=1_000_000)
        (line,) = billing.draft(conn, FEBRUARY, second.id, "2026-01").lines
        assert (line.free, line.amount_micros) == (20_000, 590_000)  # 980k x 0.60 = 0.588
        assert [line.free for line in billing.draft(conn, FEBRUARY, first.id, "2026-01").lines] == [80_000]


def test_an_aborted_call_is_billed_or_free_as_the_plan_says(sqlite_db: Database, record_use: RecordUse) -> None:
    for rule, lines in (("bill", 1), ("free", 0)):
        with sqlite_db.write() as conn:
            subscription = subscribed(conn, Terms(overage="invoice", charges=(OUT,), aborted=rule), org=f"org-{rule}")
            record_use(conn, subscription, at_ms=at(2026, 1, 3), output_tokens=500_000, status="aborted")
            assert len(billing.draft(conn, FEBRUARY, subscription.id, "2026-01").lines) == lines


def test_a_month_takes_the_events_of_its_own_milliseconds(db: Database, record_use: RecordUse) -> None:
    with db.write() as conn:
        subscription = subscribed(conn, Terms(overage="invoice", charges=(OUT,)))
        for moment, tokens in (
            (at(2026, 1, 1), 1),
            (at(2026, 2, 1) - 1, 20),
            (at(2026, 2, 1), 300),
            (at(2026, 3, 1), 4000),
        ):
            record_use(conn, subscription, at_ms=moment, output_tokens=tokens)
        for period, tokens in (("2026-01", 21), ("2026-02", 300), ("2026-03", 4000)):
            assert billing.draft(conn, FEBRUARY, subscription.id, period).lines[0].quantity == tokens


def test_a_call_that_ends_just_after_its_subscription_is_billed(db: Database, record_use: RecordUse) -> None:
    with db.write() as conn:
        subscription = subscribed(conn)
        catalog.cancel(conn, at(2026, 2, 1) - 5_000, subscription.org_id)
        record_use(conn, subscription, at_ms=at(2026, 2, 1) + 5_000, output_tokens=1_100_000)
        assert subscription.id in [one.id for one in billing.due_subscriptions(conn, "2026-02")]
        invoice = billing.draft(conn, FEBRUARY, subscription.id, "2026-02")
        assert [line.amount_micros for line in invoice.lines] == [600_000]  # the use, and no day of the fee


# -- drafts are a pure function ----------------------------------------------------------------------------------------


def test_drafting_again_gives_the_same_bits_and_no_second_invoice(db: Database, record_use: RecordUse) -> None:
    with db.write() as conn:
        subscription = subscribed(conn)
        for day in range(1, 20):
            record_use(
                conn, subscription, at_ms=at(2026, 1, day), input_tokens=123_457 * day, output_tokens=7_919 * day
            )
        first = billing.draft(conn, at(2026, 1, 20), subscription.id, "2026-01")
    with db.write() as conn:
        again = billing.draft(conn, at(2026, 1, 25), subscription.id, "2026-01")
        assert msgspec.json.encode(first) == msgspec.json.encode(again)
        assert len(billing.list_invoices(conn)) == 1
        stored = billing.get_invoice(conn, first.id)
        assert stored == first


def test_a_draft_follows_its_events_and_a_final_invoice_does_not(db: Database, record_use: RecordUse) -> None:
    with db.write() as conn:
        subscription = subscribed(conn)
        empty = billing.draft(conn, at(2026, 1, 2), subscription.id, "2026-01")
        record_use(conn, subscription, at_ms=at(2026, 1, 3), output_tokens=1_100_000)
        fuller = billing.draft(conn, at(2026, 1, 4), subscription.id, "2026-01")
        assert (empty.total_micros, fuller.total_micros, empty.id) == (20_000_000, 20_600_000, fuller.id)
        final = billing.finalise(conn, FEBRUARY, fuller.id)
        assert billing.audit(conn) == []
        record_use(conn, subscription, at_ms=at(2026, 1, 30), output_tokens=1_000_000)
        assert billing.draft(conn, FEBRUARY, subscription.id, "2026-01") == final
        assert "its events now come to 21200000" in billing.audit(conn)[0]


def test_finalising_takes_in_what_came_after_the_draft(db: Database, record_use: RecordUse) -> None:
    with db.write() as conn:
        subscription = subscribed(conn)
        drafted = billing.draft(conn, at(2026, 1, 2), subscription.id, "2026-01")
        record_use(conn, subscription, at_ms=at(2026, 1, 31, 23), output_tokens=1_100_000)
        assert billing.finalise(conn, FEBRUARY, drafted.id).total_micros == 20_600_000


def test_a_month_is_not_final_before_it_is_over(sqlite_db: Database) -> None:
    with sqlite_db.write() as conn:
        subscription = subscribed(conn)
        drafted = billing.draft(conn, at(2026, 1, 2), subscription.id, "2026-01")
        for too_early in (at(2026, 1, 31, 23), at(2026, 2, 1)):
            with pytest.raises(Conflict, match="not over"):
                billing.finalise(conn, too_early, drafted.id)
        assert billing.finalise(conn, at(2026, 2, 1) + billing.GRACE_MS, drafted.id).status == "finalised"


@pytest.mark.parametrize("period", ["2026-1", "2026-13", "2026-00", "hello", "", "2026-01-01", "0000-01"])
def test_a_period_that_is_no_month_is_a_bad_request(sqlite_db: Database, period: str) -> None:
    with sqlite_db.write() as conn, pytest.raises(BadRequest):
        billing.draft(conn, FEBRUARY, subscribed(conn).id, period)


def test_no_invoice_for_a_month_without_the_subscription(sqlite_db: Database) -> None:
    with sqlite_db.write() as conn:
        subscription = subscribed(conn)
        catalog.cancel(conn, at(2026, 1, 20), subscription.org_id)
        for period in ("2025-12", "2026-02"):
            with pytest.raises(BadRequest, match="not running"):
                billing.draft(conn, FEBRUARY, subscription.id, period)


# -- final, paid, void -------------------------------------------------------------------------------------------------


def test_finalising_twice_books_and_numbers_once(db: Database) -> None:
    with db.write() as conn:
        drafted = billing.draft(conn, FEBRUARY, subscribed(conn).id, "2026-01")
        first = billing.finalise(conn, FEBRUARY, drafted.id)
        assert billing.finalise(conn, FEBRUARY + 1, drafted.id) == first
        assert first.number == "TW-2026-000001"
        assert ledger.balance(conn, "receivable", first.org_id, "USD") == 20_000_000
        assert ledger.balance(conn, "revenue_subscription", "", "USD") == -20_000_000


def test_numbers_have_no_gaps_even_when_a_transaction_fails(db: Database) -> None:
    with db.write() as conn:
        drafts = [billing.draft(conn, FEBRUARY, subscribed(conn, org=f"org-{n}").id, "2026-01") for n in range(4)]
    with db.write() as conn:
        billing.finalise(conn, FEBRUARY, drafts[0].id)
    with pytest.raises(RuntimeError), db.write() as conn:
        billing.finalise(conn, FEBRUARY, drafts[1].id)
        raise RuntimeError
    numbers = []
    for one in drafts[1:]:
        with db.write() as conn:
            numbers.append(billing.finalise(conn, FEBRUARY, one.id).number)
    assert numbers == ["TW-2026-000002", "TW-2026-000003", "TW-2026-000004"]


@pytest.mark.parametrize("same", [True, False])
def test_finalising_from_many_sides_at_once_numbers_each_invoice_once(db: Database, same: bool) -> None:
    with db.write() as conn:
        drafts = [
            billing.draft(conn, FEBRUARY, subscribed(conn, org=f"org-{n}").id, "2026-01")
            for n in range(1 if same else 4)
        ]
    barrier = threading.Barrier(4)
    found: list[str | None] = []

    def close(invoice_id: str) -> None:
        barrier.wait()
        with db.write() as conn:
            found.append(billing.finalise(conn, FEBRUARY, invoice_id).number)

    threads = [threading.Thread(target=close, args=(drafts[n % len(drafts)].id,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert set(found) == {f"TW-2026-{n + 1:06d}" for n in range(len(drafts))}
    with db.read() as conn:
        assert ledger.balance(conn, "revenue_subscription", "", "USD") == -20_000_000 * len(drafts)
        assert ledger.audit(conn) == []


def test_a_payment_is_booked_once(db: Database) -> None:
    with db.write() as conn:
        drafted = billing.draft(conn, FEBRUARY, subscribed(conn).id, "2026-01")
        with pytest.raises(Conflict, match="only a finalised"):
            billing.pay(conn, FEBRUARY, drafted.id, "wire 7")
        billing.finalise(conn, FEBRUARY, drafted.id)
        paid = billing.pay(conn, FEBRUARY, drafted.id, "wire 7")
        assert (paid.status, paid.paid_ms) == ("paid", FEBRUARY)
        assert billing.pay(conn, FEBRUARY + 1, drafted.id, "wire 7") == paid
        with pytest.raises(Conflict, match="paid already"):
            billing.pay(conn, FEBRUARY + 1, drafted.id, "wire 8")
        assert ledger.balance(conn, "cash", "", "USD") == 20_000_000
        assert ledger.balance(conn, "receivable", paid.org_id, "USD") == 0
        with pytest.raises(Conflict, match="voided"):
            billing.void(conn, FEBRUARY, drafted.id)


def test_voiding_reverses_the_booking_and_keeps_the_number(db: Database, record_use: RecordUse) -> None:
    with db.write() as conn:
        subscription = subscribed(conn)
        record_use(conn, subscription, at_ms=at(2026, 1, 3), output_tokens=1_100_000)
        final = billing.finalise(conn, FEBRUARY, billing.draft(conn, FEBRUARY, subscription.id, "2026-01").id)
        assert len(ledger.balances(conn)) == 3
        gone = billing.void(conn, FEBRUARY, final.number or "")
        assert (gone.status, gone.number) == ("void", "TW-2026-000001")
        assert billing.void(conn, FEBRUARY, final.id) == gone
        assert ledger.balances(conn) == []
        assert ledger.audit(conn) == []
        for act in (lambda: billing.finalise(conn, FEBRUARY, final.id), lambda: billing.pay(conn, 0, final.id, "x")):
            with pytest.raises(Conflict):
                act()


def test_invoices_are_found_by_whoever_may_see_them(sqlite_db: Database) -> None:
    with sqlite_db.write() as conn:
        ours, theirs = subscribed(conn, org="ours"), subscribed(conn, org="theirs")
        invoice = billing.draft(conn, FEBRUARY, ours.id, "2026-01")
        billing.draft(conn, FEBRUARY, theirs.id, "2026-01")
        assert billing.get_invoice(conn, invoice.id, ours.org_id) == invoice
        with pytest.raises(NotFound):
            billing.get_invoice(conn, invoice.id, theirs.org_id)
        assert billing.list_invoices(conn, ours.org_id) == [invoice]
        assert len(billing.list_invoices(conn, status="draft")) == 2
        assert billing.list_invoices(conn, status="paid") == []
        with pytest.raises(BadRequest):
            billing.list_invoices(conn, status="open")


# -- properties --------------------------------------------------------------------------------------------------------


def _plan(terms: Terms) -> PlanVersion:
    return PlanVersion("pv", "plan", "p", "P", 1, terms, 0)


@given(
    st.lists(st.integers(at(2025, 12, 1), at(2026, 4, 1)), min_size=1, max_size=6),
    st.sampled_from(["2026-01", "2026-02"]),
)
def test_the_shares_of_a_month_sum_to_one(changes: list[int], period: str) -> None:
    edges = [at(2025, 11, 1), *sorted(changes), None]
    subscriptions = [Subscription(str(n), "o", "pv", edges[n], edges[n + 1]) for n in range(len(edges) - 1)]
    shares = [Fraction(*days_of(one, period)) for one in subscriptions]
    assert sum(shares) == 1


_MICROS = st.integers(0, 10**9)
_USE = st.lists(
    st.tuples(
        st.sampled_from(["small", "large"]),
        st.fixed_dictionaries({meter: st.integers(0, 10**8) for meter in catalog.METERS}),
    ),
    max_size=8,
)


@given(
    use=_USE,
    prices=st.lists(_MICROS, min_size=len(catalog.METERS), max_size=len(catalog.METERS)),
    fee=_MICROS,
    overage=st.sampled_from(["wallet", "invoice"]),
    currency=st.sampled_from(["USD", "JPY", "KWD"]),
    wallet=st.integers(0, 10**16),
    started=st.integers(at(2026, 1, 1), at(2026, 1, 31)),
)
def test_a_bill_always_adds_up(
    use: list[tuple[str, dict[str, int]]],
    prices: list[int],
    fee: int,
    overage: str,
    currency: str,
    wallet: int,
    started: int,
) -> None:
    charges = tuple(
        Charge(meter=meter, price_micros=price, included=price % 1000)
        for meter, price in zip(catalog.METERS, prices, strict=True)
    )
    terms = msgspec.convert(
        {"currency": currency, "flat_fee_micros": fee, "overage": overage, "charges": msgspec.to_builtins(charges)},
        Terms,
    )
    made = bill(_plan(terms), Subscription("s", "o", "pv", started, None), "2026-01", use, {}, wallet)
    assert made.total_micros == sum(line.amount_micros for line in made.lines)
    assert made.due_micros >= 0 and made.refund_micros >= 0 and 0 in (made.due_micros, made.refund_micros)
    debits = made.due_micros - made.refund_micros + made.rounding_micros
    assert debits == made.flat_micros + made.usage_micros - made.wallet_micros
    quantum = {"USD": 10_000, "JPY": 1_000_000, "KWD": 1_000}[currency]
    assert all(line.amount_micros % quantum == 0 and line.amount_micros >= 0 for line in made.lines)
    if overage == "invoice":
        assert made.due_micros == made.total_micros and made.rounding_micros == 0
    assert bill(_plan(terms), Subscription("s", "o", "pv", started, None), "2026-01", reversed(use), {}, wallet) == made
