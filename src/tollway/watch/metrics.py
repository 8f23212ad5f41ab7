"""The gateway's metrics, for `/metrics` and the console's live numbers.

Names: `gen_ai_*` follow OpenTelemetry's GenAI conventions as Prometheus shows them, `maas_*` are ours. Labels are route
templates, models and codes, never a key, an organization or a prompt: one box stays below two thousand series.
"""

import time
from collections import deque
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
_LIVE_S = 300


class Metrics:
    """All metrics of one gateway process, on a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        model = ("gen_ai_operation_name", "gen_ai_request_model")
        self.http_requests = Counter(
            "maas_http_requests_total", "Answered HTTP requests.", ("route", "method", "code"), registry=registry
        )
        self.http_duration = Histogram(
            "maas_http_request_duration_seconds", "Time to answer.", ("route",), buckets=_SECONDS, registry=registry
        )
        self.inflight = Gauge("maas_inflight", "API calls being answered.", registry=registry)
        self.queue_depth = Gauge("maas_queue_depth", "Calls waiting for a replica.", ("model",), registry=registry)
        self.rejected = Counter("maas_rejected_total", "Refused API calls.", ("reason",), registry=registry)
        self.retries = Counter("maas_retry_total", "Engine calls tried again.", registry=registry)
        self.replica_up = Gauge(
            "maas_replica_up", "1 while the replica is ready.", ("model", "version"), registry=registry
        )
        self.replica_restarts = Counter(
            "maas_replica_restarts_total", "Replicas started again.", ("model",), registry=registry
        )
        self.model_load = Gauge("maas_model_load_seconds", "Time the last load took.", ("model",), registry=registry)
        self.billing_events = Counter(
            "maas_billing_events_total", "Calls by how they ended.", ("state",), registry=registry
        )
        self.billing_waiting = Gauge("maas_billing_waiting", "Events not yet durable.", registry=registry)
        self.db_wal_bytes = Gauge("maas_db_wal_bytes", "Size of SQLite's write-ahead log.", registry=registry)
        self.disk_free_bytes = Gauge("maas_disk_free_bytes", "Free disk under the home.", registry=registry)
        self.ledger_imbalance = Gauge(
            "maas_ledger_imbalance", "Sum of all ledger entries; must be 0.", registry=registry
        )
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Arrival to first token.",
            model,
            buckets=_SECONDS,
            registry=registry,
        )
        self.per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds", "Between tokens.", model, buckets=_SECONDS, registry=registry
        )
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds", "Arrival to end.", model, buckets=_SECONDS, registry=registry
        )
        self.tokens = Histogram(
            "gen_ai_client_token_usage",
            "Billable tokens of a call.",
            (*model, "gen_ai_token_type"),
            buckets=_TOKENS,
            registry=registry,
        )
        self._recent: deque[tuple[float, str, int]] = deque(maxlen=50_000)  # when, route, status
        self._children: dict[tuple[Any, ...], Any] = {}

    def http(self, route: str, method: str, status: int, seconds: float) -> None:
        """An HTTP request was answered."""
        self._child(self.http_requests, route, method, str(status)).inc()
        self._child(self.http_duration, route).observe(seconds)
        if route.startswith("/v1/"):
            self._recent.append((time.monotonic(), route, status))

    def call(
        self,
        operation: str,
        model: str,
        state: str,
        seconds: float,
        first_token_s: float | None,
        tokens: tuple[int, int],
    ) -> None:
        """An engine call ended as `state` (ok, aborted, failed) with (input, output) tokens."""
        self._child(self.billing_events, state).inc()
        if state == "failed":
            return
        self._child(self.duration, operation, model).observe(seconds)
        self._child(self.tokens, operation, model, "input").observe(tokens[0])
        if operation != "embedding":
            self._child(self.tokens, operation, model, "output").observe(tokens[1])
        if first_token_s is not None:
            self._child(self.first_token, operation, model).observe(first_token_s)
            if tokens[1] > 1:
                pause_s = max(0.0, seconds - first_token_s) / (tokens[1] - 1)
                self._child(self.per_token, operation, model).observe(pause_s)

    def _child(self, metric: Any, *labels: str) -> Any:
        """A metric's child by labels, looked up once: the library's own look-up takes a lock and builds a key each time."""
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child

    def live(self, window_s: float = _LIVE_S) -> dict[str, float]:
        """Requests, client errors (4xx) and server errors (5xx) of the last minutes, for the console."""
        edge = time.monotonic() - window_s
        statuses = [status for when, _, status in self._recent if when >= edge]
        return {
            "window_s": window_s,
            "requests": len(statuses),
            "client_errors": sum(400 <= status < 500 for status in statuses),
            "server_errors": sum(status >= 500 for status in statuses),
        }

    def exposition(self) -> bytes:
        """What `/metrics` answers, in Prometheus' text format."""
        return generate_latest(self.registry)
