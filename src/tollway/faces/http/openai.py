"""The OpenAI-compatible API, as raw ASGI: the hot path. Parse, call the flow, render.

Authorisation is the first thing that runs; the body of a caller without a valid key is never read.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from decimal import Decimal
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from tollway.faces.http import call_headers, templates
from tollway.faces.http.asked import ASKED
from tollway.faces.http.policy import Door
from tollway.faces.http.told import CALL, CALLER, Telling
from tollway.faces.http.wire import (
    EVENTS,
    MEMO,
    ClientGone,
    Departure,
    Headers,
    Receive,
    Scope,
    Send,
    bearer,
    decode,
    error_body,
    read_body,
    send_error,
    send_json,
    timeout_of,
)
from tollway.flows.answer import answer_stream, answer_whole, open_call
from tollway.flows.call import Call, Service, new_call_id
from tollway.kit import log
from tollway.kit.clock import from_ms
from tollway.kit.crash import crashpoint
from tollway.kit.db import Database
from tollway.kit.delays import Delays
from tollway.kit.errors import BadRequest, NotFound, TollwayError
from tollway.kit.money import PICOS
from tollway.sell import usage
from tollway.sell.access import Caller
from tollway.serve.engines import Caps
from tollway.serve.requests import Request

CAPABILITIES: Final = (
    "chat",
    "completions",
    "responses",
    "embeddings",
    "rerank",
    "classify",
    "detect",
    "explain",
    "explain_inside",
    "moderations",
    "recommendations",
    "images",
    "transcriptions",
    "speech",
)
"""What a model may be asked for, as `/v1/models` says it."""
_CAP_OF: Final = {"responses": "chat"}

_log = log.get("faces.http")
_GROUPS: dict[str, Callable[..., list[Any]]] = {"day": usage.by_day, "model": usage.by_model, "key": usage.by_key}
_NO_BUFFERING = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class Api:
    """Answers `/v1/*`."""

    def __init__(
        self, service: Service, db: Database, body_bytes_max: int, more: Sequence[Door] = (), tell: Telling | None = None
    ) -> None:
        self._tell = tell
        self._service = service
        self._db = db
        self._limit = body_bytes_max
        self._departures = Delays(Departure.AFTER_S)
        self.doors = [
            *(
                Door("POST", path, "inference", self._generates(msgspec.json.Decoder(body)))
                for path, body in ASKED.items()
            ),
            Door("GET", "/v1/models", "key", self._models),
            Door("GET", "/v1/models/{model}", "key", self._model),
            Door("GET", "/v1/key", "key", self._key),
            Door("GET", "/v1/usage", "usage", self._usage),
            *more,
        ]
        self._templates = templates.Templates([door.path for door in self.doors])
        self._exact = {(door.method, door.path): door for door in self.doors}
        self._methods: dict[str, set[str]] = {}
        for door in self.doors:
            self._methods.setdefault(door.path, set()).add(door.method)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request under /v1: find its door, check the key, answer, count."""
        began = time.monotonic()
        call_id = new_call_id()
        headers: Headers = [(b"x-request-id", b"req_" + call_id.encode())]
        path, status = scope["path"], 200
        route = path if path in self._methods else self._templates.find(path) or "/v1/*"
        self._service.metrics.inflight += 1
        try:
            door = self._exact.get((scope["method"], route))
            if door is None:
                if route in self._methods:
                    headers.append((b"allow", ", ".join(sorted(self._methods[route])).encode()))
                raise self._no_door(scope["method"], route, path)
            caller = scope[CALLER] = self._caller(scope)
            if door.policy != "key":
                self._service.access.require(caller, door.policy)
            status = await door.endpoint(scope, receive, send, caller, call_id, headers)
        except TollwayError as error:
            status = error.status
            await send_error(send, error, headers)
        except ClientGone:
            status = 499
        except RecursionError:
            status = 400
            await send_error(send, BadRequest("The body is nested too deeply.", code="invalid_json"), headers)
        except Exception as error:  # noqa: BLE001 - the last wall: logged, and answered without its inside
            status = 500
            _log.error("unexpected", route=route, request_id=f"req_{call_id}", exc_info=error)
            await send_error(
                send, TollwayError(f"Something went wrong on our side; the request id is req_{call_id}."), headers
            )
        finally:
            self._service.metrics.inflight -= 1
            self._service.metrics.http(route, scope["method"], status, time.monotonic() - began)
            if self._tell is not None:
                self._tell(scope, route, status, began, call_id)

    def _caller(self, scope: Scope) -> Caller:
        """Who asks, by their key. A client that keeps its connection sends the same key again: it is digested once, and
        looked up each time, so that a revoked key is refused at once."""
        memo: dict[str, tuple[str, str]] = scope.get(MEMO, {})
        secret, access = bearer(scope), self._service.access
        known = memo.get("key")
        if known is None or known[0] != secret:
            known = memo["key"] = (secret, access.digest(secret))
        return access.identify_digest(known[1])

    # -- generation --------------------------------------------------------------------------------------------------

    def _generates(self, decoder: msgspec.json.Decoder[Any]) -> Callable[..., Awaitable[int]]:
        async def endpoint(
            scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
        ) -> int:
            request: Request = decode(decoder, await read_body(scope, receive, self._limit))
            call = await open_call(self._service, caller, request, call_id, timeout_s=timeout_of(scope))
            scope[CALL] = call
            headers += self._service.access.rate_headers(caller)
            async with Departure(receive, self._departures) as departure:
                await self._render(call, send, headers)
            return 499 if departure.gone else 200

        return endpoint

    async def _render(self, call: Call, send: Send, headers: Headers) -> None:
        if call.request.stream:
            await self._stream(call, send, headers)
        else:
            await send_json(send, 200, await answer_whole(call), headers + call_headers.of(call))
        crashpoint("answer.after_last_byte")

    async def _stream(self, call: Call, send: Send, headers: Headers) -> None:
        """The first event decides the status: until then an error is an ordinary error answer."""
        async with aclosing(answer_stream(call)) as groups:
            first = await anext(groups)
            headers = [EVENTS, *_NO_BUFFERING, *headers, *call_headers.of(call)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                await send({"type": "http.response.body", "body": _events(first), "more_body": True})
                crashpoint("answer.after_first_event")
                async for group in groups:
                    await send({"type": "http.response.body", "body": _events(group), "more_body": True})
            except TollwayError as error:
                await send({"type": "http.response.body", "body": _events([error_body(error)]), "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    # -- looking around ----------------------------------------------------------------------------------------------

    async def _models(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        shown = [
            _shown(served)
            for served in self._service.fleet.visible(caller.account.org_id)
            if self._service.access.may_use(caller, served.name)
        ]
        await send_json(send, 200, msgspec.json.encode({"object": "list", "data": shown}), headers)
        return 200

    async def _model(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        served = self._service.fleet.find(scope["path"].removeprefix("/v1/models/"), caller.account.org_id)
        if not self._service.access.may_use(caller, served.name):
            raise NotFound(
                f"There is no model {served.name!r} for this key.",
                code="model_not_found",
                hint="GET /v1/models lists them.",
            )
        await send_json(send, 200, msgspec.json.encode(_shown(served)), headers)
        return 200

    async def _key(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """What a key may do and has left: so that a client can look before it calls."""
        key, account = caller.key, caller.account
        spending = account.spending
        terms = account.plan.terms if account.plan else None
        left, used = max(0, account.left_picos()) // 1_000_000, spending.tokens
        if self._service.leasing is not None:  # what this gateway holds is not the whole
            left, used = await self._service.leasing.seen(account)
        shown: dict[str, Any] = {
            "object": "key",
            "id": key.id,
            "name": key.name,
            "hint": key.hint,
            "organization": {"id": account.org_id, "name": account.name},
            "scopes": key.scopes,
            "models": key.models,
            "expires_at": from_ms(key.expires_ms).isoformat() if key.expires_ms else None,
            "plan": account.plan
            and {"name": account.plan.plan_name, "title": account.plan.title, "version": account.plan.version},
            "month": spending.month,
            "tokens_used": used,
            "tokens_max": terms.limits.monthly_tokens if terms else None,
            "wallet_micros": max(0, left) if terms and terms.overage == "wallet" else None,
            "currency": terms.currency if terms else None,
            "limits": terms.limits if terms else None,
        }
        await send_json(send, 200, msgspec.json.encode(shown), [*headers, *self._service.access.rate_headers(caller)])
        return 200

    async def _usage(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """What the key's organization used: by day, model or key, between two UTC days (this month unless given)."""
        today = from_ms(self._service.clock.now_ms()).date()
        asked = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        unknown = asked.keys() - {"from", "to", "by"}
        if unknown:
            raise BadRequest(
                f"Unknown parameter: {min(unknown)[:120]!r}.", param=min(unknown)[:120], code="unknown_parameter"
            )
        group = _GROUPS.get(asked.get("by", "day"))
        if group is None:
            raise BadRequest(f"`by` must be one of {', '.join(_GROUPS)}.", param="by", code="invalid_value")
        first, last = asked.get("from", today.replace(day=1).isoformat()), asked.get("to", today.isoformat())
        org_id, db = caller.account.org_id, self._db

        def read() -> list[Any]:
            with db.read() as conn:
                return group(conn, org_id, first, last)

        rows = await asyncio.to_thread(read)
        shown = [msgspec.to_builtins(row) | {"amount": str(Decimal(row.price_picos) / PICOS)} for row in rows]
        currency = caller.account.plan.terms.currency if caller.account.plan else None
        body = {"object": "list", "from": first, "to": last, "currency": currency, "data": shown}
        await send_json(send, 200, msgspec.json.encode(body), headers)
        return 200

    def _no_door(self, method: str, route: str, path: str) -> TollwayError:
        if route in self._methods:
            wanted = ", ".join(sorted(self._methods[route]))
            error = BadRequest(f"{method} is not allowed here; use {wanted}.", code="method_not_allowed")
            error.status = 405
            return error
        return NotFound(
            f"There is no {path[:80]!r} in this API.", code="unknown_url", hint="See /docs for what there is."
        )


def _events(group: list[bytes]) -> bytes:
    if len(group) == 1:
        return b"data: %b\n\n" % group[0]
    return b"".join([b"data: %b\n\n" % event for event in group])


def _shown(served: Any) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.model.created_ms // 1000,
        "owned_by": served.model.org_id or "tollway",
        "kind": served.model.kind,
        "version": served.model.version,
        "digest": served.digest or None,
        "input": served.caps.input,
        "context_tokens": served.caps.context_tokens or None,
        "capabilities": [name for name in CAPABILITIES if _can(served.caps, name)],
    }


def _can(caps: Caps, name: str) -> bool:
    if name == "rerank":
        return caps.rerank or caps.embeddings
    return bool(getattr(caps, _CAP_OF.get(name, name)))
