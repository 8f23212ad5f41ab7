"""`/v1/edge/usage`: devices of an organization say what they used while nobody heard them."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tollway.faces.http.listing import query_of
from tollway.faces.http.policy import Door
from tollway.faces.http.wire import Headers, Receive, Scope, Send, decode, read_body, send_json
from tollway.flows.edge_usage import ENTRIES_MAX, EdgeUsage
from tollway.flows.gateway import Gateway
from tollway.kit.errors import BadRequest
from tollway.sell.access import Caller


class EdgeUsageRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/edge/usage. What an entry must be, its seal says."""

    device: Annotated[str, Meta(min_length=1, max_length=60)]
    sent_at_ms: Annotated[int, Meta(ge=0, le=2**53)]
    entries: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=ENTRIES_MAX)]


def doors(gateway: Gateway) -> list[Door]:
    """The doors of `/v1/edge`."""
    doors = Edge(gateway)
    return [
        Door("POST", "/v1/edge/usage", "inference", doors.take),
        Door("GET", "/v1/edge/usage", "inference", doors.head),
    ]


class Edge:
    """Answers `/v1/edge/*`."""

    def __init__(self, gateway: Gateway) -> None:
        self._usage = EdgeUsage(gateway.shop, gateway.service)
        self._limit = gateway.shop.settings.body_bytes_max
        self._decoder = msgspec.json.Decoder(EdgeUsageRequest)

    async def take(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """POST /v1/edge/usage: entries of one device's log, in order."""
        asked: EdgeUsageRequest = decode(self._decoder, await read_body(scope, receive, self._limit))
        taken = await self._usage.take(caller, asked.device, asked.sent_at_ms, asked.entries)
        body = {"object": "edge.usage"} | msgspec.structs.asdict(taken)
        await send_json(send, 200, msgspec.json.encode(body), headers)
        return 200

    async def head(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """GET /v1/edge/usage?device=…: how far its log is in the books."""
        device_id = query_of(scope, {"device"}).get("device", "")
        if not device_id:
            raise BadRequest("Say which device: ?device=dev_….", param="device", code="invalid_value")
        device = await self._usage.head(caller, device_id)
        body = {
            "object": "edge.device",
            "device": device.id,
            "model": device.model,
            "version": device.model_version,
            "revoked": device.revoked_ms is not None,
            "head": device.head_n,
        }
        await send_json(send, 200, msgspec.json.encode(body), headers)
        return 200
