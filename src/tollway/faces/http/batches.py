"""`/v1/batches`: a file of calls, answered in idle time at a lower price, in OpenAI's shape."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tollway.faces.http import once
from tollway.faces.http.job_doors import JobDoors
from tollway.faces.http.listing import Metadata
from tollway.faces.http.policy import Door
from tollway.faces.http.wire import Headers, Receive, Scope, Send, decode, read_body
from tollway.flows.gateway import Gateway
from tollway.kit.jobs import Job
from tollway.sell import batches
from tollway.sell.access import Caller
from tollway.sell.batches import KIND

_STATUS = {"queued": "validating", "running": "in_progress", "succeeded": "completed"}


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/batches."""

    input_file_id: Annotated[str, Meta(min_length=1, max_length=60)]
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/classify", "/v1/detect"]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None


def doors(gateway: Gateway) -> list[Door]:
    """The doors of `/v1/batches`."""
    doors = Batches(gateway)
    return [
        Door("POST", "/v1/batches", "inference", doors.create),
        Door("GET", "/v1/batches", "inference", doors.list_),
        Door("GET", "/v1/batches/{batch}", "inference", doors.show),
        Door("POST", "/v1/batches/{batch}/cancel", "inference", doors.cancel),
    ]


class Batches(JobDoors):
    """Answers `/v1/batches*`."""

    kind, place = KIND, 3

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway.shop, gateway.batches)
        self._flow = gateway.batches
        self._decoder = msgspec.json.Decoder(BatchRequest)

    def shown(self, job: Job) -> dict[str, Any]:
        return _shown(job)

    async def create(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """POST /v1/batches."""
        body = await read_body(scope, receive, self._shop.settings.body_bytes_max)
        asked: BatchRequest = decode(self._decoder, body)

        async def make(note: once.Note) -> bytes:
            wanted = (caller, asked.input_file_id, asked.endpoint, asked.metadata or {})
            return self.encoded(await self._flow.create(*wanted, lambda conn, job: note(conn, self.encoded(job))))

        return await once.answer(self._shop, send, headers, once.asked_of(scope, caller, body), make)


def _shown(job: Job) -> dict[str, Any]:
    order, made = batches.order_of(job), batches.made_of(job)
    ended_s = job.finished_ms // 1000 if job.finished_ms else None
    status = _STATUS.get(job.status, job.status)
    return {
        "object": "batch",
        "id": job.id,
        "endpoint": order.endpoint,
        "errors": {"object": "list", "data": [job.error | {"param": None, "line": None}]} if job.error else None,
        "input_file_id": order.input_file_id,
        "completion_window": "24h",
        "status": "cancelling" if job.cancelling and job.open else status,
        "output_file_id": made.output_file_id,
        "error_file_id": made.error_file_id,
        "created_at": job.created_ms // 1000,
        "in_progress_at": job.started_ms // 1000 if job.started_ms else None,
        "expires_at": order.expires_ms // 1000,
        "finalizing_at": ended_s,
        "completed_at": ended_s if status == "completed" else None,
        "failed_at": ended_s if status == "failed" else None,
        "expired_at": ended_s if status == "expired" else None,
        "cancelling_at": made.cancelling_ms // 1000 if made.cancelling_ms else None,
        "cancelled_at": ended_s if status == "cancelled" else None,
        "request_counts": {"total": order.lines, "completed": made.completed, "failed": made.failed},
        "metadata": order.metadata or None,
    }
