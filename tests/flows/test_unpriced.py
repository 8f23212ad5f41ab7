"""What has no price is said when a model is offered, and refused before a file of its calls is begun."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve import tiny_models
from tollway.flows import release, unpriced
from tollway.kit.errors import Forbidden
from tollway.kit.settings import Settings
from tollway.sell import catalog
from tollway.sell.catalog import Charge, PlanVersion, Terms
from tollway.serve.models import Model
from tollway.shop import Shop

TOKENS = (Charge(meter="input_tokens", price_micros=1), Charge(meter="output_tokens", price_micros=2))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with Shop.open(Settings(tmp_path / "home", environment={})) as shop:
        yield shop


@pytest.fixture
def rent(shop: Shop, tmp_path: Path) -> Model:
    """A model that is sold by rows, and explained."""
    (tmp_path / "rent").mkdir()
    tiny_models.shelve(shop.store, "rent", tmp_path / "rent")
    return release.deploy(shop, "rent")


def plan(shop: Shop, name: str, terms: Terms) -> PlanVersion:
    with shop.db.write() as conn:
        return catalog.create_plan(conn, 0, name, name.capitalize(), terms)


def rows(shop: Shop, model: Model) -> list[dict[str, object]]:
    with shop.db.read() as conn:
        return unpriced.warnings(conn, shop.store, model).rows


def test_a_model_that_no_plan_includes_and_one_without_a_price_are_warned_of(shop: Shop, rent: Model) -> None:
    plan(shop, "others", Terms(charges=TOKENS, models=("else",)))
    assert rows(shop, rent) == [{"plan": None, "meter": "*", "outcome": "refused"}]
    plan(shop, "all", Terms(charges=TOKENS, unpriced="refuse"))
    assert [(one["plan"], one["meter"], one["outcome"]) for one in rows(shop, rent)] == [
        ("all", "rows", "refused"), ("all", "explanations", "refused"),
    ]  # fmt: skip
    plan(shop, "calls", Terms(charges=(Charge(meter="requests", price_micros=1),)))
    assert {one["plan"] for one in rows(shop, rent)} == {"all"}


@pytest.mark.parametrize("tier", ["", catalog.BATCH])
def test_calls_that_would_each_be_refused_are_refused_before_they_are_made(shop: Shop, rent: Model, tier: str) -> None:
    strict = plan(shop, "strict", Terms(charges=TOKENS, unpriced="refuse"))
    with pytest.raises(Forbidden, match="no price for this use of the model 'rent'") as told:
        unpriced.require_price(shop.store, strict, rent, tier)
    assert told.value.code == "model_not_priced"
    unpriced.require_price(shop.store, plan(shop, "gifts", Terms(charges=TOKENS)), rent, tier)
    unpriced.require_price(shop.store, plan(shop, "fee", Terms(flat_fee_micros=1, unpriced="refuse")), rent, tier)
    by_row = Terms(charges=(Charge(meter="rows", price_micros=0),), unpriced="refuse")
    unpriced.require_price(shop.store, plan(shop, "by-row", by_row), rent, tier)


def test_what_was_made_of_a_model_has_its_price(shop: Shop) -> None:
    tuned = Model("ft:chatty:org:1", "chat", "mine", "llama_cpp", "1", None, 0, org_id="org_1", base="chatty")
    strict = Terms(charges=(Charge(meter="output_tokens", price_micros=1, model="chatty"),), unpriced="refuse")
    unpriced.require_price(shop.store, plan(shop, "strict", strict), tuned, catalog.BATCH)
    other = Terms(charges=(Charge(meter="output_tokens", price_micros=1, model="else"),), unpriced="refuse")
    with pytest.raises(Forbidden):
        unpriced.require_price(shop.store, plan(shop, "other", other), tuned)
