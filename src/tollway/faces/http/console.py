"""The console inside the gateway: its routes, its live numbers, and a playground that takes the road of every call."""

from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
from fastapi import FastAPI
from starlette.responses import Response, StreamingResponse

from tollway.faces.console import PAGES, routes
from tollway.faces.console.fence import Recognised
from tollway.faces.http.policy import Door, Policy
from tollway.faces.http.wire import decode, error_body
from tollway.flows.answer import answer_stream, open_call
from tollway.flows.call import new_call_id
from tollway.flows.engine_steps import Fill, Place
from tollway.flows.gateway import Gateway
from tollway.kit.errors import TollwayError
from tollway.sell.access import Caller
from tollway.sell.api_keys import ApiKey
from tollway.serve.posts import ReplicaView
from tollway.serve.requests import ChatRequest

_chat = msgspec.json.Decoder(ChatRequest)


def mount(app: FastAPI, gateway: Gateway, recognised: Recognised) -> list[Door]:
    """Add the console's routes; returns their doors."""

    async def playground(org_id: str, body: dict[str, Any]) -> Response:
        return await _chat_as(gateway, org_id, body)

    app.router.routes.extend(routes(LiveShop(gateway), playground, recognised))
    return [
        Door(method, page.path, cast(Policy, page.policy), page.endpoint) for page in PAGES for method in page.methods
    ]


class LiveShop:
    """The shop as the console sees it inside a gateway: the same parts, and what the gateway knows by heart."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        shop = gateway.shop
        self.db, self.clock, self.secrets, self.settings = shop.db, shop.clock, shop.secrets, shop.settings
        self.store = shop.store

    def live(self) -> dict[str, Any]:
        """Calls under way, refusals and errors of the last five minutes, and the state of every replica."""
        service = self._gateway.service
        recent = service.metrics.live()
        fleet = service.fleet.all()
        return {
            "in_flight": sum(served.running for served in fleet),
            "queued": sum(served.line.waiting for served in fleet),
            "errors": recent["server_errors"],
            "refused": recent["client_errors"],
            "unpriced": service.access.unpriced.rows,
            "replicas": [
                {
                    "model": view.model,
                    "version": view.version,
                    "number": view.number,
                    "state": view.state,
                    "busy": view.running,
                    "slots": view.slots,
                    "pid": view.pid,
                    "restarts": view.restarts,
                    "rss_bytes": view.rss_bytes,
                }
                for view in service.fleet.snapshot()
            ],
        }

    def fleet(self) -> list[ReplicaView]:
        """Every replica as it is now."""
        return self._gateway.service.fleet.snapshot()

    def queues(self) -> dict[tuple[str, str], int]:
        """How many calls wait, by model and version."""
        return self._gateway.service.fleet.queues()

    async def steps(self) -> dict[Place, Fill]:
        """How full the newest steps of each replica's engine were."""
        return await self._gateway.steps.look()

    def describe_model(self, name: str, version: str) -> Any:
        """The manifest of a package; None for what has none."""
        try:
            return self._gateway.shop.store.get(name, version).manifest
        except TollwayError:
            return None


async def _chat_as(gateway: Gateway, org_id: str, body: dict[str, Any]) -> Response:
    """A chat for a signed-in member, as if the organization had called with a key of its own."""
    service = gateway.service
    call_id = new_call_id()
    nobody: dict[str, Any] = dict.fromkeys(("models", "rpm", "tpm", "concurrency", "expires_ms", "revoked_ms"))
    key = ApiKey(id="console", org_id=org_id, name="console", hint="", scopes=("inference",), created_ms=0, **nobody)
    call = await open_call(
        service, Caller(key, service.access.account(org_id), None), decode(_chat, msgspec.json.encode(body)), call_id
    )
    groups = answer_stream(call)
    first = await anext(groups)
    return StreamingResponse(
        _events(first, groups),
        media_type="text/event-stream",
        headers={"x-request-id": f"req_{call_id}", "cache-control": "no-cache"},
    )


async def _events(first: list[bytes], groups: AsyncIterator[list[bytes]]) -> AsyncIterator[bytes]:
    try:
        for event in first:
            yield b"data: %b\n\n" % event
        async for group in groups:
            yield b"".join([b"data: %b\n\n" % event for event in group])
    except TollwayError as error:
        yield b"data: %b\n\n" % error_body(error)
    finally:
        await groups.aclose()  # type: ignore[attr-defined]
