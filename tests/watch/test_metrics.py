"""Metrics: what was counted on the hot path is what `/metrics` says, in Prometheus' own words."""

import re
import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tollway.serve.posts import ReplicaView
from tollway.watch.metrics import Metrics

CHAT = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "m"}


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample, as a scraper reads it."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def of(found: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def test_answers_are_counted_by_route_method_and_status_and_timed_by_route() -> None:
    metrics = Metrics()
    for status, seconds in ((200, 0.0005), (200, 0.004), (429, 0.001), (200, 500.0)):
        metrics.http("/v1/chat/completions", "POST", status, seconds)
    found, route = samples(metrics), {"route": "/v1/chat/completions"}
    assert of(found, "maas_http_requests_total", method="POST", code="200", **route) == 3
    assert of(found, "maas_http_requests_total", method="POST", code="429", **route) == 1
    buckets = [("0.001", 2), ("0.0025", 2), ("0.005", 3), ("120.0", 3), ("+Inf", 4)]  # an edge belongs to its bucket
    for edge, count in buckets:
        assert of(found, "maas_http_request_duration_seconds_bucket", le=edge, **route) == count
    assert of(found, "maas_http_request_duration_seconds_count", **route) == 4
    assert of(found, "maas_http_request_duration_seconds_sum", **route) == 500.0055


def test_the_last_minutes_are_told_and_take_no_room_for_each_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, now = Metrics(), 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for second in range(400):
        now = 1000.0 + second
        for status in (200, 200, 404, 503):
            metrics.http("/v1/models", "GET", status, 0.001)
        metrics.http("/console", "GET", 500, 0.001)  # the API's alone
    told = metrics.live()
    assert (told["requests"], told["client_errors"], told["server_errors"]) == (1200, 300, 300)
    assert metrics.live(60)["requests"] == 4 * 61
    now += 299
    assert metrics.live()["requests"] == 4 * 2
    now += 60
    assert metrics.live()["requests"] == 0


def test_calls_are_observed_by_operation_and_model() -> None:
    metrics = Metrics()
    metrics.call("chat", "m", "ok", 1.0, 0.2, (100, 5))
    metrics.call("chat", "m", "aborted", 0.5, None, (7, 0))
    metrics.call("chat", "m", "failed", 9.0, None, (0, 0))
    metrics.call("embedding", "e", "ok", 0.1, None, (30, 0))
    found = samples(metrics)
    assert [of(found, "maas_billing_events_total", state=state) for state in ("ok", "aborted", "failed")] == [2, 1, 1]
    assert of(found, "gen_ai_server_request_duration_seconds_sum", **CHAT) == 1.5
    assert of(found, "gen_ai_client_token_usage_sum", gen_ai_token_type="input", **CHAT) == 107
    assert of(found, "gen_ai_client_token_usage_count", gen_ai_token_type="output", **CHAT) == 2
    assert of(found, "gen_ai_server_time_to_first_token_seconds_sum", **CHAT) == 0.2
    assert of(found, "gen_ai_server_time_per_output_token_seconds_sum", **CHAT) == 0.2
    embedding = {"gen_ai_operation_name": "embedding", "gen_ai_request_model": "e"}
    assert of(found, "gen_ai_client_token_usage_sum", gen_ai_token_type="input", **embedding) == 30
    assert of(found, "gen_ai_client_token_usage_count", gen_ai_token_type="output", **embedding) is None


def test_calls_in_flight_are_seen() -> None:
    metrics = Metrics()
    metrics.inflight += 2
    assert of(samples(metrics), "maas_inflight") == 2
    metrics.inflight -= 2
    assert of(samples(metrics), "maas_inflight") == 0


def a_fleet() -> list[ReplicaView]:
    common: dict[str, Any] = {"version": "3", "node": "local", "restarts": 0, "slots": 8}
    return [
        ReplicaView(
            **common, model="m", number=1, state="ready", pid=7, running=3, fill_share=0.5, busy_share=0.9,
            calls_per_s=2.5, tokens_per_s=61.0, cost_micros_per_s=16.0, rss_bytes=4096,
        ),
        ReplicaView(**common, model="m", number=2, state="ejected", pid=8, running=0, ejections=2),
        ReplicaView(**common, model="asleep", number=0, state="resting", pid=None, running=0),
    ]  # fmt: skip


def test_the_fleet_is_shown_as_it_was_last_seen() -> None:
    metrics = Metrics()
    metrics.fleet, metrics.overloads = a_fleet(), {("m", "late"): 5}
    metrics.lanes = {("m", "3", "1"): {"rows": 40, "batches": 5, "tokens": 900, "padded_tokens": 1000}}
    found, one = samples(metrics), {"model": "m", "version": "3", "replica": "1"}
    for name, value in (
        ("running", 3), ("slots", 8), ("fill_ratio", 0.5), ("busy_ratio", 0.9), ("calls_per_second", 2.5),
        ("tokens_per_second", 61), ("memory_bytes", 4096), ("ejections", 0), ("cost_micros_per_second", 16),
    ):  # fmt: skip
        assert of(found, f"maas_replica_{name}", **one) == value
    assert of(found, "maas_replica_ejections", **one | {"replica": "2"}) == 2
    assert of(found, "maas_replica_state", **one | {"replica": "2"}, state="ejected") == 1
    assert of(found, "maas_rows_total", **one) / of(found, "maas_rows_batches_total", **one) == 8  # type: ignore[operator]
    assert of(found, "maas_rows_padded_tokens_total", **one) == 1000
    assert of(found, "maas_overload_refused_total", model="m", reason="late") == 5
    assert not [key for key in found if ("model", "asleep") in key[1]], "what is not loaded has no figures"


def test_every_version_in_service_shows_its_queue_and_is_gone_with_it() -> None:
    metrics = Metrics()
    metrics.queues = {("m", "3"): 2, ("m", "4"): 0}
    found = samples(metrics)
    assert of(found, "maas_queue_depth", model="m", version="3") == 2
    assert of(found, "maas_queue_depth", model="m", version="4") == 0
    metrics.queues = {("m", "4"): 1}
    assert of(samples(metrics), "maas_queue_depth", model="m", version="3") is None


def test_how_long_calls_wait_for_a_seat_is_seen() -> None:
    metrics = Metrics()
    for seconds in (0.0002, 0.3, 0.3):
        metrics.waited("m", seconds)
    found = samples(metrics)
    assert of(found, "maas_queue_wait_seconds_count", model="m") == 3
    assert of(found, "maas_queue_wait_seconds_bucket", model="m", le="0.25") == 1


def test_names_follow_the_rules_of_prometheus() -> None:
    metrics = Metrics()
    metrics.http("/v1/models", "GET", 200, 0.1)
    metrics.call("chat", "m", "ok", 1.0, 0.2, (100, 5))
    metrics.waited("m", 0.1)
    metrics.rejected.labels("rate_limit_exceeded").inc()
    metrics.fleet, metrics.overloads = a_fleet(), {("m", "late"): 5}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        assert re.fullmatch(r"(maas|gen_ai)_[a-z][a-z0-9_]*", family.name), family.name
        assert family.documentation, family.name
        assert not re.search(r"_(ms|us|milliseconds|kb|mb|percent)\b", family.name), "base units"
        for sample in family.samples:
            assert family.type != "counter" or sample.name.endswith(("_total", "_created")), sample.name
            labels = set(sample.labels)
            assert not labels & {"org", "organization", "key", "org_id", "key_id", "prompt"}, sample.name
            assert all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in labels)
