"""Traces by OpenTelemetry's GenAI conventions, sent to an OTLP collector; off unless an endpoint is set. No prompts, ever.

A request becomes one span with its stages below it, drawn after it ended from moments that were noted anyway, so that the
hot path pays for nothing:

    POST /v1/chat/completions        the caller's trace, if a `traceparent` came
      admit                          key, plan, counting the input, holding money and quota
      queue                          waiting for a seat on a replica
      chat MODEL                     the engine; event "first token"; gen_ai.* attributes
      record                         until the usage event is durable
"""

import os
import time
from typing import Any, Final

import msgspec

from tollway import __version__
from tollway.kit.errors import BadRequest

_OPERATIONS: Final = {"completion": "text_completion", "embedding": "embeddings"}
_NS: Final = 1_000_000_000


class Told(msgspec.Struct, kw_only=True):
    """What is known of a request when it has ended; moments are monotonic seconds, None for stages it never reached."""

    request_id: str
    method: str
    route: str
    status: int
    began: float
    ended: float
    org_id: str = ""
    operation: str = ""
    model: str = ""
    version: str = ""
    tier: str = ""
    streamed: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    admitted: float | None = None
    seated: float | None = None
    first_token: float | None = None
    answered: float | None = None
    recorded: float | None = None


def endpoint_of(settings: Any) -> str:
    """Where traces go; empty: nowhere."""
    return str(settings.otel_endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")).rstrip("/")


class Tracing:
    """Draws and sends spans, in the background."""

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise BadRequest(
                f"Traces need OpenTelemetry ({error.name} is not installed).",
                code="otel_missing",
                hint="Run `pip install 'tollway[otel]'`, or unset otel_endpoint.",
            ) from error
        self._trace: Any = trace
        self._propagator = TraceContextTextMapPropagator()
        name = os.environ.get("OTEL_SERVICE_NAME", "tollway")
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": name, "service.version": __version__})
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")))
        self._tracer = self._provider.get_tracer("tollway", __version__)
        self._zero_ns = time.time_ns() - round(time.monotonic() * _NS)

    def told(self, one: Told, traceparent: str = "", tracestate: str = "") -> None:
        """Draw a request that has ended."""
        carrier = {"traceparent": traceparent, "tracestate": tracestate} if traceparent else {}
        kind = self._trace.SpanKind
        span = self._tracer.start_span(
            f"{one.method} {one.route}",
            context=self._propagator.extract(carrier) if carrier else None,
            kind=kind.SERVER,
            start_time=self._ns(one.began),
            attributes={
                "http.request.method": one.method,
                "http.route": one.route,
                "http.response.status_code": one.status,
                "tollway.request.id": one.request_id,
                **({"tollway.organization.id": one.org_id} if one.org_id else {}),
            },
        )
        if one.status >= 500:
            span.set_status(self._trace.StatusCode.ERROR)
            span.set_attribute("error.type", str(one.status))
        below = self._trace.set_span_in_context(span)
        if one.admitted is not None:
            self._stage(below, "admit", one.began, one.admitted)
            if one.seated is not None:
                self._stage(below, "queue", one.admitted, one.seated)
                self._engine(below, one)
            if one.recorded is not None and one.answered is not None:
                self._stage(below, "record", one.answered, one.recorded)
        span.end(self._ns(one.ended))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _engine(self, below: Any, one: Told) -> None:
        assert one.seated is not None
        operation = _OPERATIONS.get(one.operation, one.operation)
        span = self._tracer.start_span(
            f"{operation} {one.model}",
            context=below,
            kind=self._trace.SpanKind.CLIENT,
            start_time=self._ns(one.seated),
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "tollway",
                "gen_ai.request.model": one.model,
                "gen_ai.response.model": one.model,
                "gen_ai.usage.input_tokens": one.input_tokens,
                "gen_ai.usage.output_tokens": one.output_tokens,
                "tollway.model.version": one.version,
                "tollway.stream": one.streamed,
            },
        )
        if one.first_token is not None:
            waited = one.first_token - one.began
            span.add_event("first token", {"gen_ai.server.time_to_first_token": waited}, self._ns(one.first_token))
        span.end(self._ns(one.answered if one.answered is not None else one.ended))

    def _stage(self, below: Any, name: str, began: float, ended: float) -> None:
        span = self._tracer.start_span(name, context=below, start_time=self._ns(began))
        span.end(self._ns(ended))

    def _ns(self, moment: float) -> int:
        return self._zero_ns + round(moment * _NS)
