"""Metrics: what was counted on the hot path is what `/metrics` says, in Prometheus' own words."""

from prometheus_client.parser import text_string_to_metric_families

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
