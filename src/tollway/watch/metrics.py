"""The gateway's metrics, for `/metrics` and the console's live numbers.

Names: `gen_ai_*` follow OpenTelemetry's GenAI conventions as Prometheus shows them, `maas_*` are ours. Labels are route
templates, models and codes, never a key, an organization or a prompt: one box stays below two thousand series.
"""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
_LIVE_S = 300
_MODEL = ("gen_ai_operation_name", "gen_ai_request_model")


class _Spread:
    """A histogram's numbers. The library's own takes a lock and walks its buckets; calls are observed on one thread."""

    __slots__ = ("_edges", "counts", "total")

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._edges, value)] += 1
        self.total += value

    def shown(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants it."""
        shown, below = [], 0
        for edge, count in zip([*map(float, self._edges), "+Inf"], self.counts, strict=True):
            below += count
            shown.append((str(edge), float(below)))
        return shown


class _Route:
    """What is counted of one route's answers of one method and status."""

    __slots__ = ("answers", "seconds")

    def __init__(self, seconds: _Spread) -> None:
        self.answers = 0
        self.seconds = seconds  # shared by all of the route


class _Calls:
    """What is observed of the engine calls of one operation on one model."""

    __slots__ = ("first_token", "input", "output", "per_token", "seconds")

    def __init__(self) -> None:
        self.seconds = _Spread(_SECONDS)
        self.first_token = _Spread(_SECONDS)
        self.per_token = _Spread(_SECONDS)
        self.input = _Spread(_TOKENS)
        self.output = _Spread(_TOKENS)


class _Hot:
    """What every call moves, as plain numbers; they become metrics when somebody asks for them (a collector)."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str, int], _Route] = {}
        self.durations: dict[str, _Spread] = {}
        self.calls: dict[tuple[str, str], _Calls] = {}
        self.ended: dict[str, int] = {}
        self.waits: dict[str, _Spread] = {}

    def collect(self) -> Iterable[Metric]:
        answers = CounterMetricFamily(
            "maas_http_requests", "Answered HTTP requests.", labels=("route", "method", "code")
        )
        for (route, method, status), one in sorted(self.routes.items()):
            answers.add_metric((route, method, str(status)), one.answers)
        ended = CounterMetricFamily("maas_billing_events", "Calls by how they ended.", labels=("state",))
        for state, count in sorted(self.ended.items()):
            ended.add_metric((state,), count)
        yield from (answers, ended)
        durations: dict[tuple[str, ...], _Spread] = {(route,): spread for route, spread in self.durations.items()}
        yield _family("maas_http_request_duration_seconds", "Time to answer.", ("route",), durations)
        for name, text, part in (
            ("gen_ai_server_time_to_first_token_seconds", "Arrival to first token.", "first_token"),
            ("gen_ai_server_time_per_output_token_seconds", "Between tokens.", "per_token"),
            ("gen_ai_server_request_duration_seconds", "Arrival to end.", "seconds"),
        ):
            spreads: dict[tuple[str, ...], _Spread] = {key: getattr(one, part) for key, one in self.calls.items()}
            yield _family(name, text, _MODEL, spreads)
        waits: dict[tuple[str, ...], _Spread] = {(model,): spread for model, spread in self.waits.items()}
        yield _family("maas_queue_wait_seconds", "From admission to a seat on a replica.", ("model",), waits)
        tokens: dict[tuple[str, ...], _Spread] = {
            (*key, kind): getattr(one, kind) for key, one in self.calls.items() for kind in ("input", "output")
        }
        labels = (*_MODEL, "gen_ai_token_type")
        yield _family("gen_ai_client_token_usage", "Billable tokens of a call.", labels, tokens)


def _family(
    name: str, text: str, labels: Sequence[str], spreads: Mapping[tuple[str, ...], _Spread]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, spread in sorted(spreads.items()):
        if any(spread.counts):
            family.add_metric(values, spread.shown(), spread.total)
    return family


_REPLICA: Final = ("model", "version", "replica")
_REPLICA_GAUGES: Final = (  # name, what it is, the field of the fleet's view
    ("maas_replica_running", "Calls in the replica.", "running"),
    ("maas_replica_slots", "Calls it can work on at the same time.", "slots"),
    ("maas_replica_fill_ratio", "Of its slots, while it had a call.", "fill_share"),
    ("maas_replica_busy_ratio", "Of the time, in which it had a call.", "busy_share"),
    ("maas_replica_calls_per_second", "Lately.", "calls_per_s"),
    ("maas_replica_tokens_per_second", "Lately.", "tokens_per_s"),
    ("maas_replica_memory_bytes", "Resident memory.", "rss_bytes"),
    ("maas_replica_ejections", "Ejections in a row; 0 for a replica that is well.", "ejections"),
    ("maas_replica_cost_micros_per_second", "Of the machine, as far as it is this replica's.", "cost_micros_per_s"),
)

_LANES: Final = (  # of engines that answer rows: rows / batches is how full they are, tokens / padded_tokens what was useful
    ("maas_rows", "Rows answered.", "rows"),
    ("maas_rows_batches", "Batches they were answered in.", "batches"),
    ("maas_rows_tokens", "Tokens of these rows.", "tokens"),
    ("maas_rows_padded_tokens", "The same with what they were filled up with.", "padded_tokens"),
)


class _Fleet:
    """The replicas as they were when somebody last asked; nothing of them moves on the hot path."""

    def __init__(self, metrics: "Metrics") -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        views = [view for view in self._metrics.fleet if view.state != "resting"]
        for name, text, field in _REPLICA_GAUGES:
            family = GaugeMetricFamily(name, text, labels=_REPLICA)
            for view in views:
                family.add_metric((view.model, view.version, str(view.number)), getattr(view, field))
            yield family
        queues = GaugeMetricFamily("maas_queue_depth", "Calls waiting for a replica.", labels=("model", "version"))
        for version, waiting in sorted(self._metrics.queues.items()):
            queues.add_metric(version, waiting)
        yield queues
        states = GaugeMetricFamily("maas_replica_state", "1 for the state it is in.", labels=(*_REPLICA, "state"))
        for view in views:
            states.add_metric((view.model, view.version, str(view.number), view.state), 1)
        for name, text, field in _LANES:
            counter = CounterMetricFamily(name, text, labels=_REPLICA)
            for place, figures in sorted(self._metrics.lanes.items()):
                if field in figures:
                    counter.add_metric(place, figures[field])
            yield counter
        refused = CounterMetricFamily("maas_overload_refused", "Refused by the line.", labels=("model", "reason"))
        for (model, reason), count in sorted(self._metrics.overloads.items()):
            refused.add_metric((model, reason), count)
        yield from (states, refused)


class Metrics:
    """All metrics of one gateway process, on a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._hot = _Hot()
        registry.register(self._hot)
        self.fleet: Sequence[Any] = ()  # serve.posts.ReplicaView, as of the last look
        self.queues: Mapping[tuple[str, str], int] = {}  # by model and version
        self.lanes: Mapping[tuple[str, str, str], Mapping[str, float]] = {}
        self.overloads: Mapping[tuple[str, str], int] = {}
        registry.register(_Fleet(self))
        self.inflight = 0
        Gauge("maas_inflight", "API calls being answered.", registry=registry).set_function(lambda: self.inflight)
        self.rejected = Counter("maas_rejected_total", "Refused API calls.", ("reason",), registry=registry)
        self.retries = Counter("maas_retry_total", "Engine calls tried again.", registry=registry)
        self.replica_up = Gauge(
            "maas_replica_up", "1 while the replica is ready.", ("model", "version"), registry=registry
        )
        self.replica_restarts = Counter(
            "maas_replica_restarts_total", "Replicas started again.", ("model",), registry=registry
        )
        self.rollouts = Counter(
            "maas_rollouts_total",
            "Rollouts that ended by the gateway's own decision.",
            ("model", "outcome"),
            registry=registry,
        )
        self.model_load = Gauge("maas_model_load_seconds", "Time the last load took.", ("model",), registry=registry)
        self.billing_waiting = Gauge("maas_billing_waiting", "Events not yet durable.", registry=registry)
        self.db_wal_bytes = Gauge("maas_db_wal_bytes", "Size of SQLite's write-ahead log.", registry=registry)
        self.disk_free_bytes = Gauge("maas_disk_free_bytes", "Free disk under the home.", registry=registry)
        self.ledger_imbalance = Gauge(
            "maas_ledger_imbalance", "Sum of all ledger entries; must be 0.", registry=registry
        )
        self._recent: deque[list[int]] = deque(maxlen=_LIVE_S)  # second, answers, of these 4xx, of these 5xx

    def http(self, route: str, method: str, status: int, seconds: float) -> None:
        """An HTTP request was answered."""
        key = (route, method, status)
        one = self._hot.routes.get(key)
        if one is None:
            spread = self._hot.durations.setdefault(route, _Spread(_SECONDS))
            one = self._hot.routes[key] = _Route(spread)
        one.answers += 1
        one.seconds.observe(seconds)
        if route.startswith("/v1/"):
            second, recent = int(time.monotonic()), self._recent
            if not recent or recent[-1][0] != second:
                recent.append([second, 0, 0, 0])
            tally = recent[-1]
            tally[1] += 1
            if status >= 400:
                tally[2 if status < 500 else 3] += 1

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
        hot = self._hot
        hot.ended[state] = hot.ended.get(state, 0) + 1
        if state == "failed":
            return
        one = hot.calls.get((operation, model))
        if one is None:
            one = hot.calls[operation, model] = _Calls()
        one.seconds.observe(seconds)
        one.input.observe(tokens[0])
        if operation != "embedding":
            one.output.observe(tokens[1])
        if first_token_s is not None:
            one.first_token.observe(first_token_s)
            if tokens[1] > 1:
                one.per_token.observe(max(0.0, seconds - first_token_s) / (tokens[1] - 1))

    def waited(self, model: str, seconds: float) -> None:
        """A call got its seat."""
        spread = self._hot.waits.get(model)
        if spread is None:
            spread = self._hot.waits[model] = _Spread(_SECONDS)
        spread.observe(seconds)

    def live(self, window_s: float = _LIVE_S) -> dict[str, float]:
        """Requests, client errors (4xx) and server errors (5xx) of the last minutes, for the console."""
        edge = time.monotonic() - window_s
        recent = [tally for tally in self._recent if tally[0] >= edge]
        return {
            "window_s": window_s,
            "requests": sum(tally[1] for tally in recent),
            "client_errors": sum(tally[2] for tally in recent),
            "server_errors": sum(tally[3] for tally in recent),
        }

    def exposition(self) -> bytes:
        """What `/metrics` answers, in Prometheus' text format."""
        return generate_latest(self.registry)
