"""What a real gateway shows when it is scraped: every metric that the docs, the alert rules and the dashboard name."""

import json
import re
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.proof.house import make_customer, shop_of, start_gateway
from tests.serve import tiny_models
from tollway.sell import catalog
from tollway.serve import models

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"\b(?:maas|gen_ai)_[a-z0-9_]+")
LABELS = {"gen_ai_operation_name", "gen_ai_request_model", "gen_ai_token_type"}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Name of sample -> sum, after a few calls of a small real model."""
    home = tmp_path_factory.mktemp("scraped")
    with shop_of(home) as shop:
        package = tiny_models.shelve(shop.store, "mood", tmp_path_factory.mktemp("mood"))
        with shop.db.write() as conn:
            models.offer_package(
                conn, shop.clock.now_ms(), "mood", "classification", package.manifest.version, engine="onnx"
            )
    buyer = make_customer(home, catalog.Terms(overage="invoice"))
    gateway = start_gateway(home, starter=False)
    try:
        headers = {"authorization": f"Bearer {buyer.key}"}
        with httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, timeout=300) as http:
            for _ in range(3):
                asked = {"model": "mood", "input": ["a lovely film", "a dull film without a heart"]}
                assert http.post("/v1/classify", json=asked).status_code == 200
            assert http.get("/v1/models", headers={"authorization": "Bearer tw_live_nothing"}).status_code == 401
            text = http.get("/metrics").text
    finally:
        gateway.stop()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        found.setdefault(family.name, 0.0)
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_the_row_engine_tells_how_full_its_batches_are(shown: dict[str, float]) -> None:
    assert shown["maas_rows_total"] >= 6 and shown["maas_rows_batches_total"] >= 1
    assert 0 < shown["maas_rows_tokens_total"] <= shown["maas_rows_padded_tokens_total"]
    assert shown["maas_queue_wait_seconds_count"] == 3
    assert shown["maas_replica_memory_bytes"] > 1e6 and shown["maas_replica_slots"] >= 1
    assert shown["maas_rejected_total"] == 1


@pytest.mark.parametrize(
    "place", ["docs/observability.md", "deploy/prometheus-alerts.yml", "deploy/grafana-dashboard.json"]
)
def test_what_is_named_is_shown(place: str, shown: dict[str, float]) -> None:
    named = set(NAME.findall((ROOT / place).read_text(encoding="utf-8"))) - LABELS
    families = {re.sub(r"_(total|bucket|count|sum|created)$", "", name) for name in shown}
    assert named and {name for name in named if re.sub(r"_(total|bucket)$", "", name) not in families} == set()


def test_every_metric_is_in_the_docs(shown: dict[str, float]) -> None:
    text = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    families = {re.sub(r"_(total|bucket|count|sum|created)$", "", name) for name in shown if NAME.fullmatch(name)}
    assert {name for name in families if name not in text} == set()


def test_the_rules_are_rules_and_the_dashboard_a_dashboard() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus-alerts.yml").read_text(encoding="utf-8"))
    for rule in rules["groups"][0]["rules"]:
        assert rule["expr"].count("(") == rule["expr"].count(")") and rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")
    board = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text(encoding="utf-8"))
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) >= 10
    assert all(target["expr"] for panel in board["panels"] for target in panel["targets"])
