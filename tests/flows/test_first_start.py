"""The first start happens once, survives being interrupted, and never touches what an operator has made."""

import os
from pathlib import Path

import pytest

from tollway.flows import first_start, release
from tollway.guard import keys
from tollway.kit.clock import ManualClock
from tollway.kit.errors import Unavailable
from tollway.kit.settings import Settings
from tollway.sell import accounts, api_keys, catalog, ledger
from tollway.serve import models
from tollway.shop import Shop


@pytest.fixture
def shop(tmp_path):
    opened = Shop.open(Settings(tmp_path / "home", environment={}), ManualClock())
    yield opened
    opened.close()


@pytest.fixture
def no_packages(monkeypatch):
    """As on a machine without the packages that carry the starter weights."""
    monkeypatch.setattr(first_start.starter, "locate_smollm2", lambda: None)
    monkeypatch.setattr(first_start.starter, "locate_minilm", lambda: None)


def test_it_makes_an_operator_and_a_buyer_who_can_pay(shop, no_packages):
    made = first_start.welcome(shop)
    assert made.first and keys.well_formed(made.key)
    with shop.db.read() as conn:
        operator = accounts.authenticate(conn, made.operator_email, made.operator_password)
        buyer = accounts.authenticate(conn, made.buyer_email, made.buyer_password)
        assert (operator.role, buyer.role, buyer.org_id) == ("operator", "owner", made.org_id)
        assert ledger.wallet_micros(conn, made.org_id, "USD") == 10_000_000
        assert catalog.running_subscription(conn, made.org_id) is not None
        assert [key.hint for key in api_keys.list_keys(conn, made.org_id)] == [keys.hint(made.key)]
        assert ledger.audit(conn) == []


def _killed(root: Path, seed: bytes) -> None:
    os._exit(9)


def test_a_preparation_that_the_kernel_ends_is_told_and_nothing_is_half_there(shop, no_packages, monkeypatch):
    monkeypatch.setattr(first_start.starter, "locate_minilm", lambda: Path("there"))
    monkeypatch.setattr(first_start, "_convert_minilm", _killed)
    with pytest.raises(Unavailable, match="memory") as told:
        first_start.welcome(shop)
    assert "again" in (told.value.hint or "")
    with shop.db.read() as conn:
        assert models.list_models(conn) == [] and accounts.list_members(conn, None) == []


def test_it_happens_once(shop, no_packages):
    first_start.welcome(shop)
    again = first_start.welcome(shop)
    assert not again.first
    assert (again.operator_password, again.buyer_password, again.key) == ("", "", "")
    with shop.db.read() as conn:
        assert len(accounts.list_organizations(conn)) == len(accounts.list_members(conn, None)) == 1


def test_without_the_starters_there_is_only_an_operator(shop):
    made = first_start.welcome(shop, with_starter=False)
    assert made.operator_password and not made.key and made.models == ()
    with shop.db.read() as conn:
        assert accounts.list_organizations(conn) == [] and catalog.list_plans(conn) == []


def test_a_shop_set_up_by_hand_gets_no_demo_buyer(shop, no_packages):
    with shop.db.write() as conn:
        accounts.create_organization(conn, shop.clock.now_ms(), "acme")
    made = first_start.welcome(shop)
    assert made.first and not made.key
    with shop.db.read() as conn:
        assert [one.name for one in accounts.list_organizations(conn)] == ["acme"]


def test_the_starter_plan_is_sound_and_charges_from_the_first_answer():
    terms = first_start.starter_terms("USD")
    assert terms.check() == []
    output = next(charge for charge in terms.charges if charge.meter == "output_tokens")
    assert output.price_micros > 0 and output.included == 0


@pytest.mark.engine
def test_an_interrupted_start_is_begun_again_and_a_retired_starter_stays_retired(shop):
    first_start._starter_models(shop, lambda *_: None)  # killed after the models, before the people
    made = first_start.welcome(shop)
    assert made.first and made.models == (first_start.EMBEDDING, first_start.CHAT)
    assert [package.ref for package in shop.store.list()] == [f"{name}@1" for name in made.models]
    assert all(verdict.ok for verdict in shop.store.audit(deep=True))
    release.retire(shop, first_start.EMBEDDING)
    assert first_start.welcome(shop).models == (first_start.CHAT,)
    with shop.db.read() as conn:
        assert {model.name for model in models.list_models(conn, retired=True)} == {
            first_start.CHAT,
            first_start.EMBEDDING,
        }
