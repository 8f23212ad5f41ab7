"""`Idempotency-Key`: what makes something that lasts, or moves money, is done once however often it is sent (`sell/once.py`).

OpenAI's clients send such a key with every POST and repeat it when they try again. A model's answer is not kept: a call that
is sent again is another call.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import sqlalchemy as sa

from tollway.faces.http.listing import reading
from tollway.faces.http.wire import Headers, Scope, Send, header, send_json
from tollway.kit.errors import BadRequest
from tollway.sell import once
from tollway.sell.access import Caller
from tollway.sell.once import Asked, Repeated
from tollway.shop import Shop

Note = Callable[[sa.Connection, bytes], None]
"""Keeps an answer in the transaction of what was done."""
REPLAYED = (b"idempotent-replayed", b"true")
T = TypeVar("T")


def asked_of(scope: Scope, caller: Caller, *content: bytes) -> Asked | None:
    """The request as one to be done once; None without the header. Raises BadRequest."""
    key = header(scope, b"idempotency-key")
    if not key:
        return None
    if len(key) > once.KEY_MAX or not (key.isascii() and key.isprintable()):
        raise BadRequest(
            f"Idempotency-Key must have 1 to {once.KEY_MAX} printable ASCII characters.",
            param="Idempotency-Key",
            code="invalid_value",
        )
    return once.asked(caller.account.org_id, key, scope["path"].encode(), *content)


async def known(shop: Shop, asked: Asked) -> bytes | None:
    """What was answered to it before. Raises Conflict."""
    now_ms = shop.clock.now_ms()
    return await reading(shop, lambda conn: once.answer_of(conn, now_ms, asked))


def note_of(shop: Shop, asked: Asked | None) -> Note:
    """How its answer is kept."""
    if asked is None:
        return lambda conn, answer: None
    return lambda conn, answer: once.keep(conn, shop.clock.now_ms(), asked, answer)


async def done(shop: Shop, asked: Asked | None, make: Callable[[], Awaitable[T]], again: Callable[[bytes], T]) -> T:
    """What `make` does, or `again` of what was answered to it before."""
    if asked is None:
        return await make()
    if (answered := await known(shop, asked)) is not None:
        return again(answered)
    try:
        return await make()
    except Repeated:
        if (answered := await known(shop, asked)) is None:
            raise
        return again(answered)


async def answer(
    shop: Shop, send: Send, headers: Headers, asked: Asked | None, make: Callable[[Note], Awaitable[bytes]]
) -> int:
    """Answer with what `make` does, or with what it did before."""

    async def made() -> tuple[bytes, Headers]:
        return await make(note_of(shop, asked)), []

    body, told = await done(shop, asked, made, lambda answered: (answered, [REPLAYED]))
    await send_json(send, 200, body, [*headers, *told])
    return 200
