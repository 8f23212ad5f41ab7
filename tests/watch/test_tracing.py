"""Traces arrive at a real OTLP collector's endpoint, by the GenAI conventions, in the caller's trace, without prompts."""

import gzip
import http.server
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.proof.house import ask, chat, make_customer, offer_upstream, start_gateway
from tests.proof.upstream import Upstream, prompt
from tollway.kit.settings import Settings
from tollway.watch import tracing

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Listens as an OTLP collector does, and keeps the spans."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        self.spans: list[Any] = []
        self.resource: dict[str, Any] = {}
        self.raw = b""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
                assert self.path == "/v1/traces", self.path
                outer.raw += body
                for one in ExportTraceServiceRequest.FromString(body).resource_spans:
                    outer.resource = attributes(one.resource)
                    outer.spans += [span for scope in one.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


def told(**more: Any) -> tracing.Told:
    now = time.monotonic()
    known: dict[str, Any] = {
        "request_id": "req_1", "method": "POST", "route": "/v1/chat/completions", "status": 200, "began": now - 2,
        "ended": now, "org_id": "org_1", "operation": "chat", "model": "small", "version": "3", "input_tokens": 11,
        "output_tokens": 7, "admitted": now - 1.9, "seated": now - 1.5, "first_token": now - 1.2, "answered": now - 0.2,
        "recorded": now - 0.1,
    }  # fmt: skip
    return tracing.Told(**(known | more))


def test_a_request_is_a_tree_in_the_callers_trace(collector: Collector) -> None:
    one = tracing.Tracing(collector.url)
    one.told(told(), f"00-{TRACE}-{PARENT}-01")
    one.close()
    spans = {span.name: span for span in collector.spans}
    assert spans.keys() == {"POST /v1/chat/completions", "admit", "queue", "chat small", "record"}
    top, engine = spans["POST /v1/chat/completions"], spans["chat small"]
    assert (top.trace_id.hex(), top.parent_span_id.hex()) == (TRACE, PARENT)
    assert all(span.parent_span_id == top.span_id for span in spans.values() if span is not top)
    assert attributes(engine) == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "tollway", "gen_ai.request.model": "small",
        "gen_ai.response.model": "small", "gen_ai.usage.input_tokens": 11, "gen_ai.usage.output_tokens": 7,
        "tollway.model.version": "3", "tollway.stream": False,
    }  # fmt: skip
    assert [event.name for event in engine.events] == ["first token"]
    order = [spans[name] for name in ("admit", "queue", "chat small", "record")]
    assert all(a.end_time_unix_nano <= b.start_time_unix_nano for a, b in itertools.pairwise(order))
    assert abs(engine.end_time_unix_nano - engine.start_time_unix_nano - 1.3e9) < 5e7
    assert abs(top.end_time_unix_nano - time.time_ns()) < 6e10
    assert collector.resource["service.name"] == "tollway"


def test_who_does_not_want_a_trace_gets_none_and_a_refusal_is_one_span(collector: Collector) -> None:
    one = tracing.Tracing(collector.url)
    one.told(told(), f"00-{TRACE}-{PARENT}-00")
    nothing = dict.fromkeys(("admitted", "seated", "first_token", "answered", "recorded"))
    one.told(told(status=503, **nothing), "nonsense")
    one.close()
    (span,) = collector.spans
    assert attributes(span)["http.response.status_code"] == 503 and span.status.code == 2
    assert span.parent_span_id == b""


def test_nothing_is_sent_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert tracing.endpoint_of(Settings(tmp_path, environment={})) == ""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://other:4318/")
    assert tracing.endpoint_of(Settings(tmp_path, environment={})) == "http://other:4318"
    mine = Settings(tmp_path, environment={"TOLLWAY_OTEL_ENDPOINT": "http://mine:4318"})
    assert tracing.endpoint_of(mine) == "http://mine:4318"


async def test_a_gateway_traces_and_logs_its_requests_without_prompts_and_keys(
    tmp_path: Any, collector: Collector
) -> None:
    home = tmp_path / "home"
    with Upstream() as mill:
        offer_upstream(home, "mill", mill.url)
        buyer = make_customer(home, wallet_micros=1_000_000)
        env = {"TOLLWAY_OTEL_ENDPOINT": collector.url, "TOLLWAY_REQUEST_LOG": "1", "TOLLWAY_LOG_LEVEL": "info"}
        gateway = start_gateway(home, starter=False, env=env)
        secret = "canary-in-the-prompt"
        answers = [
            await ask(gateway.port, buyer.key, chat(f"{secret} {prompt('a', 3)}", "mill", stream=stream))
            for stream in (False, True)
        ]
        refused = await ask(gateway.port, buyer.key, chat(secret, "nothing"))
        gateway.stop()
    assert [one.status for one in (*answers, refused)] == [200, 200, 404]
    names = [span.name for span in collector.spans]
    assert names.count("POST /v1/chat/completions") == 3 and names.count("chat mill") == names.count("record") == 2
    ids = {attributes(span).get("tollway.request.id") for span in collector.spans}
    assert {one.request_id for one in (*answers, refused)} <= ids
    log = gateway.log_file.read_text()
    assert all(f'"request_id": "{one.request_id}"' in log for one in answers)
    assert f'"organization": "{buyer.org_id}"' in log and '"model": "mill"' in log
    for told_ in (collector.raw.decode("latin-1"), log):
        assert secret not in told_ and buyer.key not in told_
