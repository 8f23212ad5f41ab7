"""Training in the books: spread over a model's life to the micro; what buyers ordered is elsewhere (test_job_hours)."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tollway.artifacts import store
from tollway.artifacts.manifest import Lineage
from tollway.artifacts.signing import Signer
from tollway.insight import economics, training
from tollway.insight.training import Trained
from tollway.kit.clock import ManualClock, to_ms
from tollway.kit.db import Database
from tollway.sell import accounts, catalog
from tollway.sell.catalog import Charge, Terms
from tollway.serve.tables import replica_hour

RecordUse = Callable[..., str]
DAY = 86_400_000
HOUR_US = 3_600_000_000
NOON = to_ms(datetime(2026, 1, 5, 12, tzinfo=UTC))
PRICE = economics.MachinePrice(116_000, "USD", "test")


@given(
    cost=st.integers(1, 10**12),
    life=st.integers(1, 400),
    cuts=st.lists(st.integers(-10 * DAY, 500 * DAY), min_size=1, max_size=8),
)
def test_the_windows_of_a_life_add_up_to_the_cost(cost: int, life: int, cuts: list[int]) -> None:
    one = Trained("a", "1", cost, "USD", NOON, life * DAY)
    edges = sorted({NOON - 20 * DAY, NOON + 600 * DAY, *(NOON + cut for cut in cuts)})
    parts = [one.charged(low, high) for low, high in itertools.pairwise(edges)]
    assert sum(parts) == cost
    assert all(part >= 0 for part in parts)


def test_a_day_of_ninety_is_a_ninetieth_and_the_margin_pays_it(db: Database, record_use: RecordUse) -> None:
    made = [
        Trained("small", "v1", 9_000_000, "USD", NOON - 10 * DAY, 90 * DAY),
        Trained("unsold", "1", 90, "USD", NOON, 90 * DAY),
    ]
    with db.write() as conn:
        values = {
            "model": "small",
            "model_version": "v1",
            "hour_ms": NOON,
            "busy_us": HOUR_US,
            "failed_us": 0,
            "idle_us": 0,
        }
        conn.execute(replica_hour.insert().values(values))
        terms = Terms(overage="invoice", charges=(Charge(meter="rows", price_micros=2_000_000_000),))
        plan = catalog.create_plan(conn, 0, "plan", "", terms)
        acme = catalog.subscribe(conn, 0, accounts.create_organization(conn, 0, "acme").id, plan.id)
        record_use(
            conn, acme, at_ms=NOON, input_tokens=0, output_tokens=0, prefill_us=HOUR_US // 4, meter="rows", units=500
        )
        record_use(
            conn,
            acme,
            at_ms=NOON,
            input_tokens=0,
            output_tokens=0,
            prefill_us=HOUR_US * 3 // 4,
            meter="explanations",
            units=50,
        )
        books = economics.report(conn, PRICE, NOON, NOON + DAY, made)
    row, unsold = books.rows
    assert (row.training_micros, unsold.model, unsold.training_micros) == (100_000, "unsold", 1)
    assert books.training_micros == 100_001
    assert row.margin_micros == row.revenue_micros - 116_000 - 100_000
    assert books.margin_micros == books.revenue_micros - books.hardware_micros - books.training_micros
    assert {one.meter: (one.units, one.cost_micros, one.cost_per_1k_micros) for one in row.unit_costs} == {
        "rows": (500, 29_000, 58_000),
        "explanations": (50, 87_000, 1_740_000),
    }


def test_training_in_another_currency_is_left_out() -> None:
    made = [Trained("a", "1", 1000, "CNY", NOON, DAY), Trained("b", "1", 1000, "USD", NOON, DAY)]
    assert training.charged(made, "USD", NOON, NOON + DAY // 2) == {("b", "1"): Fraction(500)}


def test_the_shelf_says_what_each_model_cost_but_for_adapters_that_buyers_ordered(tmp_path: Path) -> None:
    shelf = store.Store(tmp_path / "packages", Signer(b"0" * 32), ManualClock())
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"weights")
    (folder / "features.json").write_text("{}")
    cost = {"training_cost_micros": 420, "cost_currency": "USD"}
    shelf.add_package("reviews", folder, store.About(kind="classification", lineage=Lineage(**cost)))
    shelf.add_package("free", folder, store.About(kind="classification"))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter.gguf").write_bytes(b"GGUF")
    ordered = Lineage(parent="smollm2@3", **cost)
    shelf.add_package("ftjob-1", tmp_path / "adapter", store.About(kind="adapter", lineage=ordered))
    (made,) = training.of_shelf(shelf, 30)
    assert (made.model, made.version, made.cost_micros, made.life_ms) == ("reviews", "1", 420, 30 * DAY)
