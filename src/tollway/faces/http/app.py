"""The whole HTTP face as one ASGI app: `/v1` goes straight to the hot path, everything else through FastAPI.

What is the same for everybody (descriptions, styles, scripts) is answered here from ready bytes, and who asks too often without
a key or a sign-in is told so here (`keyless.py`): neither reaches the framework.

`build` collects every door of the house with its policy (`app.doors`); a route without one is refused here, before the
first request. `tests/faces/http/test_policy.py` walks the same list with every kind of wrong key.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Mapping
from contextlib import nullcontext
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tollway import __version__
from tollway.faces.console import static, words
from tollway.faces.console.fence import HEADERS, Recognised
from tollway.faces.console.shown import Shown
from tollway.faces.console.visit import BASE, session_cookie
from tollway.faces.http import refusals
from tollway.faces.http.keyless import Strangers
from tollway.faces.http.openai import Api
from tollway.faces.http.policy import Door
from tollway.faces.http.told import Telling
from tollway.faces.http.wire import MEMO, PUT_OFF, Receive, Scope, Send, error_headers, header, send_error
from tollway.flows.gateway import Gateway
from tollway.kit.errors import RateLimited

_NOT_COUNTED: Final = ("/healthz", "/readyz")
PUT_OFF_S: Final = 1.0
"""How long a refusal is kept back: a flood comes no faster than its connections times this."""


class House:
    """The ASGI application."""

    def __init__(
        self, api: Api, app: FastAPI, doors: list[Door], shown: Mapping[str, Shown], strangers: Strangers
    ) -> None:
        self._api = api
        self._app = app
        self._shown = shown
        self._strangers = strangers
        self.doors = doors

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["path"].startswith("/v1/") or scope["path"] == "/v1":
            return self._api(scope, receive, send)
        return self._other(scope, receive, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, reads = scope["path"], scope["method"] in ("GET", "HEAD")
        self._strangers.put_right(scope)
        if not (reads and path in _NOT_COUNTED):
            refusal = self._strangers.refusal(scope)
            if refusal is not None:
                with scope.get(MEMO, {}).get(PUT_OFF, nullcontext)():
                    await asyncio.sleep(PUT_OFF_S)
                await _refuse(scope, send, refusal)
                return
        shown = self._shown.get(path) if reads else None
        if shown is None:
            await self._app(scope, receive, send)
            return
        version = scope["query_string"].decode("latin-1").removeprefix("v=")
        asked = header(scope, b"if-none-match"), header(scope, b"accept-encoding")
        status, headers, body = shown.answer(*asked, version)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def build(gateway: Gateway) -> House:
    """Wire the faces of an open gateway."""
    from tollway.faces.http import admin, audio, batches, console, docs, edge, feedback, files, fine_tuning, responses

    more = [*files.doors(gateway), *fine_tuning.doors(gateway), *batches.doors(gateway), *feedback.doors(gateway)]
    more += [*audio.doors(gateway), *responses.doors(gateway), *edge.doors(gateway)]
    settings = gateway.shop.settings
    tell = Telling(gateway.tracing, settings.request_log) if gateway.tracing or settings.request_log else None
    api = Api(gateway.service, gateway.shop.db, settings.body_bytes_max, more, tell)
    recognised = Recognised()
    cookie = session_cookie(settings.url)
    strangers = Strangers(
        gateway.service.access, recognised, cookie, settings.keyless_rps, settings.proxies, time.monotonic
    )
    app = FastAPI(title="Tollway", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    refusals.install(app)
    doors = list(api.doors)
    doors += _health(app, gateway)
    doors += admin.mount(app, gateway)
    doors += console.mount(app, gateway, recognised)
    described, shown = docs.mount(app, doors)
    doors += described
    _every_route_has_a_door(app, doors)
    shown |= {static.PLACE + name: file for name, file in static.files().items()}
    return House(api, app, doors, shown, strangers)


async def _refuse(scope: Scope, send: Send, refusal: RateLimited) -> None:
    """Who asks too often: programs hear it in OpenAI's shape, people in their language."""
    if not scope["path"].startswith(BASE):
        await send_error(send, refusal, [])
        return
    lang = words.choose(None, None, header(scope, b"accept-language"))
    seconds = math.ceil(refusal.retry_after_s or 1)
    body = words.translate(lang, "error.too_often", seconds=seconds).encode()
    head = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    head += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": head + error_headers(refusal)})
    await send({"type": "http.response.body", "body": body})


class Scrapes:
    """Measures for whoever asks: the books are read and all figures written down, so not for each asker anew. Who asks while
    it is done joins the next time, which begins a moment after: nobody is told what was before they asked."""

    PAUSE_S: Final = 0.1

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._next: asyncio.Task[bytes] | None = None
        self._one = asyncio.Lock()
        self._free_at = 0.0  # on the loop's clock

    async def next(self) -> bytes:
        """What Prometheus reads."""
        if self._next is None:
            self._next = asyncio.create_task(self._made())
        return await asyncio.shield(self._next)

    async def _made(self) -> bytes:
        loop = asyncio.get_running_loop()
        async with self._one:
            await asyncio.sleep(self._free_at - loop.time())
            self._next = None  # who asks from here on is too late for this one
            try:
                await self._gateway.measure()
                return self._gateway.service.metrics.exposition()
            finally:
                self._free_at = loop.time() + self.PAUSE_S


def _health(app: FastAPI, gateway: Gateway) -> list[Door]:
    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        fleet = gateway.service.fleet
        lacking = [served.name for served in fleet.all() if not served.available]
        no_room = {view.model: view.why for view in fleet.snapshot() if view.state == "waiting"}
        told = {"ready": fleet.ready, "waiting_for": lacking, "no_room": no_room}
        return JSONResponse(told, status_code=200 if fleet.ready else 503)

    scrapes = Scrapes(gateway)

    async def metrics(_: Request) -> Response:
        return Response(await scrapes.next(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def front(_: Request) -> Response:
        return Response(status_code=307, headers={"location": "/console"})

    doors = [
        Door("GET", path, "public", page)
        for path, page in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", metrics), ("/", front))
    ]
    for door in doors:
        app.add_route(door.path, door.endpoint, methods=[door.method], include_in_schema=False)
    return doors


def _every_route_has_a_door(app: FastAPI, doors: list[Door]) -> None:
    """Raise for a route that no door speaks for: deny by default, at the latest possible moment before opening."""
    known = {(door.method, door.path) for door in doors}
    for route in app.routes:
        methods: Any = getattr(route, "methods", None) or {"GET"}
        path = getattr(route, "path", str(route))
        for method in methods - {"HEAD", "OPTIONS"}:
            if (method, path) not in known:
                raise RuntimeError(f"{method} {path} has no policy")
