"""Raw ASGI in and out for the hot path: read a bounded body, answer JSON, say errors in OpenAI's shape."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from tollway.kit.decoding import decode as decode
from tollway.kit.delays import Delays
from tollway.kit.errors import BadRequest, TollwayError, TooLarge

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MEMO = "tollway.memo"  # in a scope: what is remembered from one request of a connection to the next
PUT_OFF = "put off"  # in a memo: the connection's way to say that its answer is kept back
_TIMEOUT_MS_MAX = 86_400_000
_BREATHER_S = 2.0  # what cannot be served now is worth another try, but not at once
JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


class ClientGone(Exception):
    """The caller closed the connection; nobody hears an answer."""


def header(scope: Scope, name: bytes) -> str:
    """A request header as text; empty when absent."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return ""


def bearer(scope: Scope) -> str:
    """The API key of a request: `Authorization: Bearer KEY`, or Azure's `api-key`."""
    given = header(scope, b"authorization")
    if given[:7].lower() == "bearer ":
        return given[7:].strip()
    return header(scope, b"api-key")


def timeout_of(scope: Scope) -> float | None:
    """Seconds that the caller gives the call: `x-tollway-timeout-ms`, else what OpenAI's clients tell of their own patience.
    Raises BadRequest for a header of ours that makes no sense."""
    ours = seconds = ""
    for key, value in scope["headers"]:
        if key == b"x-tollway-timeout-ms":
            ours = str(value.decode("latin-1")).strip()
        elif key == b"x-stainless-read-timeout":
            seconds = str(value.decode("latin-1")).strip()
    if ours:
        if not (ours.isascii() and ours.isdigit() and len(ours) < 12 and 0 < int(ours) <= _TIMEOUT_MS_MAX):
            raise BadRequest(
                f"x-tollway-timeout-ms must be a whole number of milliseconds from 1 to {_TIMEOUT_MS_MAX}.",
                code="invalid_value",
                param="x-tollway-timeout-ms",
            )
        return int(ours) / 1000
    digits = seconds.replace(".", "", 1)
    return max(0.001, float(seconds)) if digits.isascii() and digits.isdigit() and len(digits) < 12 else None


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body, at most `limit` bytes. Raises TooLarge, ClientGone."""
    declared = header(scope, b"content-length")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return _bounded(body, limit)
    parts = [body]
    size = len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
    return b"".join(parts)


def error_body(error: TollwayError) -> bytes:
    """An error in OpenAI's shape."""
    return msgspec.json.encode({"error": error.shown()})


async def send_json(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """One whole answer."""
    head = [JSON, (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: TollwayError, headers: Headers) -> None:
    """An error answer."""
    await send_json(send, error.status, error_body(error), [*headers, *error_headers(error)])


def error_headers(error: TollwayError) -> Headers:
    """`Retry-After` where trying again helps, and how to say who one is."""
    headers: Headers = []
    wait_s = error.retry_after_s if error.retry_after_s is not None or error.status != 503 else _BREATHER_S
    if wait_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, -(-wait_s // 1))))
        headers.append((b"retry-after-ms", b"%d" % max(1, round(wait_s * 1000))))  # OpenAI's clients prefer it
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


class Departure:
    """Cancels the running task when the caller goes away. Watching starts after a moment: most calls are faster.

    `async with Departure(receive, delays) as departure: …`; afterwards `departure.gone` says whether that happened.
    """

    AFTER_S = 0.2  # the length of `delays`

    def __init__(self, receive: Receive, delays: Delays) -> None:
        self._receive = receive
        self._delays = delays
        self._watch: asyncio.Future[Any] | None = None
        self._over = False
        self.gone = False

    async def __aenter__(self) -> "Departure":
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._delay = self._delays.start(self._start)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: Any) -> bool:
        self._delays.cancel(self._delay)
        self._over = True
        if self._watch is not None:
            self._watch.cancel()
        if kind is asyncio.CancelledError and self.gone:
            self._task.uncancel()
            return True
        return False

    def _start(self) -> None:
        if not self._over:
            self._watch = asyncio.ensure_future(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._task.cancel()


def _bounded(body: bytes, limit: int) -> bytes:
    if len(body) > limit:
        raise _too_large(limit)
    return body


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The request body is larger than {limit:,} bytes.",
        hint="Send less, or ask the operator to raise body_bytes_max.",
    )
