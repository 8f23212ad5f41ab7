"""Money into a wallet: once for each cause, in the currency that the organization deals in."""

from pathlib import Path

import pytest

from tollway.flows import wallets
from tollway.kit.clock import ManualClock
from tollway.kit.errors import BadRequest, NotFound
from tollway.kit.settings import Settings
from tollway.sell import accounts, catalog, ledger, revision
from tollway.shop import Shop


@pytest.fixture
def shop(tmp_path: Path, clock: ManualClock) -> Shop:
    return Shop.open(Settings(tmp_path, environment={"TOLLWAY_CURRENCY": "USD"}), clock)


def test_money_comes_in_once_and_gateways_hear_of_it(shop: Shop) -> None:
    with shop.db.write() as conn:
        org = accounts.create_organization(conn, 0, "acme")
        before = revision.current(conn)
    first = wallets.fill(shop, "acme", "top_up", 5_000_000, "top_up:1")
    again = wallets.fill(shop, org.id, "top_up", 5_000_000, "top_up:1")
    gift = wallets.fill(shop, org.id, "grant", 1_000_000, "grant:1")
    assert [one.moved for one in (first, again, gift)] == [True, False, True]
    assert [one.wallet.micros for one in (first, again, gift)] == [5_000_000, 5_000_000, 6_000_000]
    with shop.db.read() as conn:
        assert revision.current(conn) > before


def test_a_wallet_is_in_the_currency_of_the_plan(shop: Shop) -> None:
    with shop.db.write() as conn:
        org = accounts.create_organization(conn, 0, "acme")
        assert wallets.wallet_of(conn, org.id, "USD") == wallets.Wallet("USD", 0)
        plan = catalog.create_plan(conn, 0, "euro", "", catalog.Terms(currency="EUR", flat_fee_micros=1_000_000))
        catalog.subscribe(conn, 0, org.id, plan.id)
    assert wallets.fill(shop, org.id, "top_up", 2_000_000, "top_up:1").wallet == wallets.Wallet("EUR", 2_000_000)


def test_all_wallets_that_were_filled_are_found_with_what_is_left(shop: Shop) -> None:
    for name in ("acme", "lotus"):
        with shop.db.write() as conn:
            accounts.create_organization(conn, 0, name)
    acme = wallets.fill(shop, "acme", "top_up", 3, "top_up:1").organization
    with shop.db.write() as conn:
        ledger.accrue(conn, 0, {(acme.id, "USD"): 1_500_000})
        ledger.accrue(conn, 0, {(accounts.get_organization(conn, "lotus").id, "USD"): 1_000_000})
        assert wallets.all_filled(conn) == {acme.id: wallets.Wallet("USD", 2)}, "only whole micros have left it"


def test_what_cannot_be_booked_is_said(shop: Shop) -> None:
    with pytest.raises(NotFound):
        wallets.fill(shop, "nobody", "top_up", 1, "top_up:1")
    with shop.db.write() as conn:
        accounts.create_organization(conn, 0, "acme")
    for micros, currency in ((0, ""), (1_000_000, "XYZ")):
        with pytest.raises(BadRequest):
            wallets.fill(shop, "acme", "top_up", micros, "top_up:1", currency)
