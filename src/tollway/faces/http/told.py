"""What the operator is told of each request, besides metrics: a line of the log, a trace. Never a prompt, never a key."""

import time

from tollway.faces.http.wire import Scope, header
from tollway.flows.call import Call
from tollway.kit import log
from tollway.sell.access import Caller
from tollway.watch.tracing import Told, Tracing

CALL = "tollway.call"  # in a scope: the call that a request became
CALLER = "tollway.caller"
_log = log.get("faces.http")


class Telling:
    """Tells of requests that have ended. Made only when somebody wants to hear of them."""

    def __init__(self, tracing: Tracing | None, logs: bool) -> None:
        self._tracing, self._logs = tracing, logs

    def __call__(self, scope: Scope, route: str, status: int, began: float, call_id: str) -> None:
        """A request has ended."""
        call: Call | None = scope.get(CALL)
        caller: Caller | None = scope.get(CALLER)
        one = Told(
            request_id=f"req_{call_id}",
            method=scope["method"],
            route=route,
            status=status,
            began=began,
            ended=time.monotonic(),
            org_id=caller.account.org_id if caller is not None else "",
        )
        if call is not None:
            _fill(one, call)
        if self._tracing is not None:
            self._tracing.told(one, header(scope, b"traceparent"), header(scope, b"tracestate"))
        if self._logs:
            _log.info(
                "request", request_id=one.request_id, route=route, status=status, organization=one.org_id, model=one.model,
                version=one.version, input_tokens=one.input_tokens, output_tokens=one.output_tokens,
                duration_ms=round((one.ended - began) * 1000, 3),
            )  # fmt: skip


def _fill(one: Told, call: Call) -> None:
    run, tally = call.run, call.run.tallies[0]
    fresh, cached, output = run.counts()
    one.operation, one.model, one.version, one.tier = (
        call.request.operation,
        call.request.model,
        tally.version,
        call.tier,
    )
    one.streamed = bool(call.request.stream)
    one.input_tokens, one.output_tokens = fresh + cached, output
    one.admitted, one.first_token = call.began, run.first_piece_at()
    one.seated = tally.sat_at or None
    one.answered, one.recorded = call.answered_at, call.recorded_at
