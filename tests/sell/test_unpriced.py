"""What has no price is found before it is given away, and a plan may say what comes of it."""

import pytest

from tollway.kit.db import Database
from tollway.kit.errors import BadRequest
from tollway.sell import catalog, tables
from tollway.sell.catalog import Charge, Terms
from tollway.sell.unpriced import Gap, gaps

TOKENS = (Charge(meter="input_tokens", price_micros=1), Charge(meter="output_tokens", price_micros=2))
CHAT = ("chatty", [("input_tokens", "output_tokens"), ("training_tokens",)])
VOICE = ("voice", [("characters",)])


def found(terms: Terms) -> set[tuple[str, str, str]]:
    return {(one.model, one.meter, one.outcome) for one in gaps(terms, [CHAT, VOICE])}


def test_a_meter_without_a_price_is_named_with_what_comes_of_it():
    terms = Terms(charges=TOKENS)
    assert found(terms) == {("chatty", "training_tokens", "free"), ("voice", "characters", "free")}
    strict = Terms(charges=TOKENS, unpriced="refuse")
    assert found(strict) == {("chatty", "training_tokens", "refused"), ("voice", "characters", "refused")}


def test_what_is_used_beside_a_priced_meter_is_free_and_named():
    assert ("chatty", "input_tokens", "free") in found(Terms(charges=TOKENS[1:], unpriced="refuse"))


def test_a_price_of_zero_is_a_price():
    nothing = Charge(meter="characters", model="voice", price_micros=0)
    training = Charge(meter="training_tokens", price_micros=0)
    assert found(Terms(charges=(*TOKENS, nothing, training), unpriced="refuse")) == set()


def test_a_price_of_calls_covers_all_of_them():
    assert found(Terms(charges=(Charge(meter="requests", price_micros=1),), unpriced="refuse")) == set()


def test_a_plan_asks_only_for_the_models_it_includes():
    assert found(Terms(charges=TOKENS, models=("voice",))) == {("voice", "characters", "free")}


def test_a_plan_without_any_price_sells_its_fee():
    assert gaps(Terms(flat_fee_micros=1), [CHAT]) == [Gap("*", "*", "free")]


def test_terms_that_somebody_writes_refuse_what_has_no_price_and_sold_ones_stay_as_they_were(sqlite_db: Database):
    assert catalog.parse_terms({"charges": []}).unpriced == "refuse"
    assert catalog.parse_terms({"charges": [], "unpriced": "free"}).unpriced == "free"
    with pytest.raises(BadRequest):
        catalog.parse_terms({"unpriced": "perhaps"})
    with sqlite_db.write() as conn:
        sold = catalog.create_plan(conn, 0, "old", "Old", Terms(charges=TOKENS))
        here = tables.plan_version.c.id == sold.id
        stored = conn.execute(tables.plan_version.select().where(here)).one().terms
        before = {name: value for name, value in stored.items() if name != "unpriced"}
        conn.execute(tables.plan_version.update().where(here).values(terms=before))
        assert catalog.get_plan(conn, "old").terms.unpriced == "free"
