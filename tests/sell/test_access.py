"""Access: who may call, what is held, and that however many call at once, nobody gets more than there is."""

import random

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.kit.clock import ManualClock
from tollway.kit.db import Database
from tollway.kit.errors import Forbidden, PaymentRequired, RateLimited, TollwayError, Unauthorized
from tollway.sell import access, accounts, api_keys, catalog, ledger, rating
from tollway.sell.access import Access, Caller
from tollway.sell.book import read_book
from tollway.sell.demand import Demand
from tollway.sell.shared_access import SharedAccess

MILLION = 1_000_000
PRICES = (
    catalog.Charge(meter="input_tokens", price_micros=2 * MILLION, included=100),
    catalog.Charge(meter="cached_tokens", price_micros=MILLION),
    catalog.Charge(meter="output_tokens", price_micros=4 * MILLION),
)


class Shop:
    """One organization on one plan, with a key and an Access that read them."""

    def __init__(
        self,
        db: Database,
        clock: ManualClock,
        pepper: bytes,
        terms: catalog.Terms,
        wallet_micros: int = 0,
        **key: object,
    ) -> None:
        self.db, self.clock, self.pepper = db, clock, pepper
        with db.write() as conn:
            self.org = accounts.create_organization(conn, clock.now_ms(), "acme")
            self.plan = catalog.create_plan(conn, clock.now_ms(), "basic", "Basic", terms)
            catalog.subscribe(conn, clock.now_ms(), self.org.id, self.plan.id)
            self.key = api_keys.issue_key(conn, clock.now_ms(), pepper, self.org.id, "k", **key)  # type: ignore[arg-type]
            if wallet_micros:
                ledger.top_up(conn, clock.now_ms(), self.org.id, "USD", wallet_micros, "t")
        self.access = Access(clock, pepper)
        self.refresh()

    def refresh(self) -> None:
        with self.db.read() as conn:
            self.access.adopt(read_book(conn, self.clock.now_ms()))

    def caller(self) -> Caller:
        return self.access.identify(self.key.secret)

    def change(self, work: object) -> None:
        with self.db.write() as conn:
            work(conn)  # type: ignore[operator]
        self.refresh()


def terms(overage: str = "wallet", **limits: int) -> catalog.Terms:
    return catalog.Terms(overage=overage, charges=PRICES, limits=catalog.UsageLimits(**limits))  # type: ignore[arg-type]


@pytest.fixture
def shop(db: Database, clock: ManualClock, pepper: bytes) -> Shop:
    return Shop(db, clock, pepper, terms(), wallet_micros=10_000)


def test_a_key_opens_for_its_organization_and_nothing_else_does(shop: Shop) -> None:
    assert shop.caller().account.org_id == shop.org.id
    for wrong in (
        "",
        "tw_live_",
        "sk-" + "x" * 40,
        shop.key.secret[:-1] + ("1" if shop.key.secret[-1] == "0" else "0"),
        shop.key.secret.upper(),
        "tw_live_" + "é" * 38,
    ):
        with pytest.raises(Unauthorized):
            shop.access.identify(wrong)
    from tollway.guard import keys

    with pytest.raises(Unauthorized, match="unknown"):
        shop.access.identify(keys.new_key())


def test_revoked_expired_and_suspended_are_refused(shop: Shop, clock: ManualClock) -> None:
    shop.change(lambda conn: accounts.suspend(conn, clock.now_ms(), shop.org.id))
    with pytest.raises(Forbidden, match="suspended"):
        shop.caller()
    shop.change(lambda conn: accounts.resume(conn, shop.org.id))
    shop.caller()
    shop.change(lambda conn: api_keys.revoke_key(conn, clock.now_ms(), shop.key.id))
    with pytest.raises(Unauthorized, match="revoked"):
        shop.caller()


def test_a_suspended_organization_calls_from_nowhere(shop: Shop, clock: ManualClock) -> None:
    """The console's playground calls for a member, without a key to be refused."""
    caller = shop.caller()
    shop.change(lambda conn: accounts.suspend(conn, clock.now_ms(), shop.org.id))
    with pytest.raises(Forbidden, match="suspended"):
        shop.access.admit(Caller(caller.key, shop.access.account(shop.org.id), None), Demand("m", 1, 1))


def test_an_expired_key_is_refused_by_the_clock_alone(db: Database, clock: ManualClock, pepper: bytes) -> None:
    shop = Shop(db, clock, pepper, terms(), expires_ms=clock.now_ms() + 1000)
    shop.caller()
    clock.advance(seconds=1)
    with pytest.raises(Unauthorized, match="expired"):
        shop.caller()


def test_scope_and_models_bind(db: Database, clock: ManualClock, pepper: bytes) -> None:
    shop = Shop(db, clock, pepper, terms(), wallet_micros=MILLION, models=["small"], scopes=["inference"])
    caller = shop.caller()
    with pytest.raises(Forbidden, match="scope"):
        shop.access.require(caller, "usage")
    with pytest.raises(Forbidden, match="may not use"):
        shop.access.admit(caller, Demand("large", 1, 1))
    shop.access.release(shop.access.admit(caller, Demand("small", 1, 1)))


def test_what_no_price_covers_is_refused_where_the_plan_says_so(
    sqlite_db: Database, clock: ManualClock, pepper: bytes
) -> None:
    """A model of another meter that a plan of "*" takes in would be given away."""
    strict = catalog.Terms(
        overage="wallet",
        unpriced="refuse",
        charges=(*PRICES, catalog.Charge(meter="characters", model="gift", price_micros=0)),
    )
    shop = Shop(sqlite_db, clock, pepper, strict, wallet_micros=MILLION)
    caller = shop.caller()
    for tier in ("", catalog.BATCH):
        with pytest.raises(Forbidden, match="no price") as told:
            shop.access.admit(caller, Demand("voice", 0, 0, {"characters": 7}, tier))
        assert told.value.code == "model_not_priced"
    shop.access.release(shop.access.admit(caller, Demand("gift", 0, 0, {"characters": 7})))
    shop.access.release(shop.access.admit(caller, Demand("chatty", 5, 5)))
    assert shop.access.refusals["model_not_priced"] == 2
    (noted,) = shop.access.unpriced.rows  # for the operator: both tiers are one model of one plan
    assert (noted.plan_version_id, noted.model, noted.calls) == (shop.plan.id, "voice", 2)


def test_what_no_price_covers_is_free_where_the_plan_says_so(
    sqlite_db: Database, clock: ManualClock, pepper: bytes
) -> None:
    shop = Shop(sqlite_db, clock, pepper, terms())
    grant = shop.access.admit(shop.caller(), Demand("voice", 0, 0, {"characters": 7}))
    assert shop.access.settle(grant, {"requests": 1, "characters": 7}) == 0


def test_a_request_that_was_looked_into_and_refused_counts_against_rpm(
    sqlite_db: Database, clock: ManualClock, pepper: bytes
) -> None:
    shop = Shop(sqlite_db, clock, pepper, terms(rpm=2), wallet_micros=MILLION, rpm=5)
    for _ in range(2):
        shop.access.look(shop.caller(), Demand("m", 1, 1))
        shop.access.count(shop.caller())
    with pytest.raises(RateLimited, match="2 requests per minute"):
        shop.access.look(shop.caller(), Demand("m", 1, 1))
    clock.advance(seconds=61)
    shop.access.look(shop.caller(), Demand("m", 1, 1))


def test_one_of_several_gateways_refuses_when_a_whole_minute_of_requests_came_here(
    sqlite_db: Database, clock: ManualClock, pepper: bytes
) -> None:
    """Without asking the others for more: whatever its share is, there is nothing to be had."""
    shop = Shop(sqlite_db, clock, pepper, terms(rpm=2), wallet_micros=MILLION)
    shop.access = SharedAccess(clock, pepper)
    shop.refresh()
    for _ in range(2):
        shop.access.look(shop.caller(), Demand("m", 1, 1))
        shop.access.count(shop.caller())
    with pytest.raises(RateLimited, match="2 requests per minute"):
        shop.access.look(shop.caller(), Demand("m", 1, 1))
    shop.access.look(shop.caller(), Demand("m", 1, 1, tier=catalog.BATCH))  # fills idle time: no rate limits
    clock.advance(seconds=61)
    shop.access.look(shop.caller(), Demand("m", 1, 1))


def test_without_a_subscription_there_is_402(shop: Shop, clock: ManualClock) -> None:
    shop.change(lambda conn: catalog.cancel(conn, clock.now_ms(), shop.org.id))
    with pytest.raises(PaymentRequired, match="no subscription"):
        shop.access.admit(shop.caller(), Demand("m", 1, 1))


def test_hold_then_settle_takes_the_true_price(shop: Shop) -> None:
    caller = shop.caller()
    grant = shop.access.admit(caller, Demand("m", 200, 100))
    assert caller.account.spending.exposure_picos() > 0
    picos = shop.access.settle(grant, {"input_tokens": 150, "cached_tokens": 10, "output_tokens": 5, "requests": 1})
    assert picos == (150 - 100) * 2 * MILLION + 10 * MILLION + 5 * 4 * MILLION
    assert caller.account.spending.exposure_picos() == 0
    assert caller.account.left_picos() == 10_000 * MILLION - picos
    with pytest.raises(RuntimeError):
        shop.access.release(grant)


def test_a_release_gives_everything_back(shop: Shop) -> None:
    caller = shop.caller()
    before = caller.account.left_picos()
    shop.access.release(shop.access.admit(caller, Demand("m", 200, 100)))
    assert caller.account.left_picos() == before
    assert caller.account.gate.running == 0
    assert caller.account.spending.units == {}


def test_an_empty_wallet_is_402_and_a_top_up_helps_at_once(shop: Shop, clock: ManualClock) -> None:
    with pytest.raises(PaymentRequired, match=r"may cost up to \$4.00.*has \$0.01 free"):
        shop.access.admit(shop.caller(), Demand("m", 1, MILLION))
    shop.change(lambda conn: ledger.top_up(conn, clock.now_ms(), shop.org.id, "USD", 5 * MILLION, "t2"))
    shop.access.admit(shop.caller(), Demand("m", 1, MILLION))


def test_a_monthly_cap_is_402_until_the_month_turns(db: Database, clock: ManualClock, pepper: bytes) -> None:
    shop = Shop(db, clock, pepper, terms("invoice", monthly_tokens=1000))
    first = shop.access.admit(shop.caller(), Demand("m", 600, 400))
    with pytest.raises(PaymentRequired, match="tokens a month"):
        shop.access.admit(shop.caller(), Demand("m", 1, 0))
    shop.access.settle(first, {"input_tokens": 600, "output_tokens": 399, "requests": 1})
    shop.access.release(shop.access.admit(shop.caller(), Demand("m", 1, 0)))
    with pytest.raises(PaymentRequired):
        shop.access.admit(shop.caller(), Demand("m", 2, 0))
    clock.advance(days=31)
    shop.access.admit(shop.caller(), Demand("m", 600, 400))


def test_a_plan_that_refuses_overage_ends_with_its_included_units(
    db: Database, clock: ManualClock, pepper: bytes
) -> None:
    included = catalog.Terms(
        overage="refuse", charges=(catalog.Charge(meter="output_tokens", price_micros=MILLION, included=50),)
    )
    shop = Shop(db, clock, pepper, included)
    held = shop.access.admit(shop.caller(), Demand("m", 1000, 50))
    with pytest.raises(PaymentRequired, match="used up"):
        shop.access.admit(shop.caller(), Demand("m", 1000, 1))
    assert shop.access.settle(held, {"output_tokens": 20, "requests": 1}) == 0
    shop.access.admit(shop.caller(), Demand("m", 1000, 30))


def test_rate_limits_are_429_with_the_time_to_wait(db: Database, clock: ManualClock, pepper: bytes) -> None:
    shop = Shop(db, clock, pepper, terms("invoice", rpm=2, tpm=1000, concurrency=2))
    one, two = (shop.access.admit(shop.caller(), Demand("m", 10, 10)) for _ in range(2))
    with pytest.raises(RateLimited, match="at once"):
        shop.access.admit(shop.caller(), Demand("m", 10, 10))
    shop.access.release(one)
    shop.access.release(two)
    with pytest.raises(RateLimited, match="requests per minute") as refused:
        shop.access.admit(shop.caller(), Demand("m", 10, 10))
    assert refused.value.retry_after_s is not None and 0 < refused.value.retry_after_s <= 61
    clock.advance(seconds=refused.value.retry_after_s)
    shop.access.admit(shop.caller(), Demand("m", 10, 10))


def test_a_key_may_be_narrower_than_its_plan(db: Database, clock: ManualClock, pepper: bytes) -> None:
    shop = Shop(db, clock, pepper, terms("invoice", rpm=100), rpm=1)
    caller = shop.caller()
    shop.access.release(shop.access.admit(caller, Demand("m", 1, 1)))
    with pytest.raises(RateLimited):
        shop.access.admit(caller, Demand("m", 1, 1))
    headers = dict(shop.access.rate_headers(caller))
    assert headers[b"x-ratelimit-limit-requests"] == b"1"
    assert headers[b"x-ratelimit-remaining-requests"] == b"0"


def test_tokens_not_used_return_to_the_minute(db: Database, clock: ManualClock, pepper: bytes) -> None:
    shop = Shop(db, clock, pepper, terms("invoice", tpm=1000))
    grant = shop.access.admit(shop.caller(), Demand("m", 500, 500))
    shop.access.settle(grant, {"input_tokens": 100, "output_tokens": 100, "requests": 1})
    shop.access.admit(shop.caller(), Demand("m", 400, 400))
    with pytest.raises(RateLimited):
        shop.access.admit(shop.caller(), Demand("m", 1, 0))


def test_a_refresh_keeps_what_is_held_and_counted(shop: Shop) -> None:
    caller = shop.caller()
    grant = shop.access.admit(caller, Demand("m", 200, 100))
    left, exposure = caller.account.left_picos(), caller.account.spending.exposure_picos()
    shop.refresh()
    assert shop.caller().account.left_picos() == left
    assert shop.caller().account.spending.exposure_picos() == exposure
    shop.access.settle(grant, {"output_tokens": 1, "requests": 1})


def test_calls_in_flight_over_a_change_of_plan_stay_covered(shop: Shop, clock: ManualClock) -> None:
    caller = shop.caller()
    grant = shop.access.admit(caller, Demand("m", 0, 1000))
    before = caller.account.left_picos()

    def change(conn: sa.Connection) -> None:
        dearer = catalog.revise_plan(conn, clock.now_ms(), "basic", terms("wallet", rpm=1000))
        catalog.subscribe(conn, clock.now_ms() + 1, shop.org.id, dearer.id)

    shop.change(change)
    after = shop.caller().account
    assert after.left_picos() == before - 1000 * 4 * MILLION
    picos = shop.access.settle(grant, {"output_tokens": 1000, "requests": 1})
    assert picos == 1000 * 4 * MILLION
    assert after.left_picos() == before - picos


CALLS = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 300), st.floats(0, 1), st.floats(0, 1), st.sampled_from("ahs")),
    max_size=60,
)


@given(CALLS, st.integers(0, 3000), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_whatever_arrives_and_settles_in_whatever_order_the_wallet_is_never_overdrawn(
    calls: list[tuple[int, int, float, float, str]], wallet_micros: int, chance: random.Random
) -> None:
    clock = ManualClock()
    book = access.Book(
        1,
        "2026-01",
        {},
        {"o": ("o", False, "sub", catalog.PlanVersion("pv", "p", "p", "P", 1, terms(), 0), wallet_micros * MILLION)},
        {},
    )
    guard = Access(clock, b"")
    guard.adopt(book)
    key = api_keys.ApiKey("k", "o", "k", "", ("inference",), None, None, None, None, None, None, 0)
    caller = Caller(key, guard.account("o"), None)
    running: list[tuple[access.Grant, int, int]] = []
    spent, used = 0, {"input_tokens": 0, "cached_tokens": 0, "output_tokens": 0}
    for input_max, output_max, part_in, part_cached, what in calls:
        if what == "a" or not running:
            try:
                running.append((guard.admit(caller, Demand("m", input_max, output_max)), input_max, output_max))
            except PaymentRequired:
                continue
        else:
            grant, most_in, most_out = running.pop(chance.randrange(len(running)))
            if what == "h":
                guard.release(grant)
                continue
            prompt = round(most_in * part_in)
            cached = round(prompt * part_cached)
            amounts = {
                "input_tokens": prompt - cached,
                "cached_tokens": cached,
                "output_tokens": round(most_out * part_cached),
            }
            spent += guard.settle(grant, {**amounts, "requests": 1})
            used = {name: used[name] + amounts[name] for name in used}
        assert spent <= wallet_micros * MILLION
    for grant, most_in, most_out in running:
        spent += guard.settle(grant, {"input_tokens": most_in, "output_tokens": most_out, "requests": 1})
        used["input_tokens"] += most_in
        used["output_tokens"] += most_out
    assert spent <= wallet_micros * MILLION
    assert spent == rating.rate(terms(), {}, "m", used)[0]
    assert caller.account.gate.running == 0


def test_a_call_paid_from_another_currencys_wallet_fills_not_this_one(shop: Shop, clock: ManualClock) -> None:
    grant = shop.access.admit(shop.caller(), Demand("m", 10, 10))
    with shop.db.write() as conn:
        plan = catalog.create_plan(conn, clock.now_ms(), "euro", "Euro", catalog.Terms(currency="EUR", charges=PRICES))
        catalog.subscribe(conn, clock.now_ms(), shop.org.id, plan.id)
    shop.refresh()
    picos = shop.access.settle(grant, {"input_tokens": 10, "output_tokens": 1})
    shop.access.committed(shop.org.id, "USD", 500 * 10**12, picos)
    account = shop.access.account(shop.org.id)
    assert (account.wallet_picos, account.pending_picos) == (0, 0)


def test_every_refusal_is_counted_and_none_is_a_row(shop: Shop) -> None:
    for _ in range(5):
        with pytest.raises(TollwayError):
            shop.access.admit(shop.caller(), Demand("m", 1, MILLION))
    assert shop.access.refusals["insufficient_funds"] == 5


def test_a_look_refuses_what_admitting_would_before_any_work(db: Database, clock: ManualClock, pepper: bytes) -> None:
    shop = Shop(db, clock, pepper, terms("invoice", rpm=1))
    shop.access.look(shop.caller(), Demand("m", 1, 1))
    shop.access.release(shop.access.admit(shop.caller(), Demand("m", 1, 1)))
    with pytest.raises(RateLimited):
        shop.access.look(shop.caller(), Demand("m", 1, 1))
    shop.change(lambda conn: catalog.cancel(conn, clock.now_ms(), shop.org.id))
    with pytest.raises(PaymentRequired, match="no subscription"):
        shop.access.look(shop.caller(), Demand("m", 1, 1))
