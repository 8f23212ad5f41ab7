"""The playground: a chat that streams through the same flow as /v1, paid by the visitor's organization."""

import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Final

import msgspec
from starlette.responses import JSONResponse, Response, StreamingResponse

from tollway.faces.console import buyer, queries
from tollway.faces.console.visit import Visit
from tollway.kit.errors import BadRequest, TollwayError, Unavailable

MESSAGES_MAX = 200
_ERROR: Final = b'data: {"error"'


def playground(visit: Visit) -> Response:
    """GET /console/playground"""
    with visit.shop.db.read() as conn:
        models = [one for one in buyer.offered(conn, str(visit.org_id)) if one["kind"] == "chat"]
    wanted = visit.query.get("model", "")
    chosen = wanted if any(one["name"] == wanted for one in models) else models[0]["name"] if models else ""
    return visit.page("playground.html", models=models, chosen=chosen, base=f"{visit.shop.settings.url}/v1")


async def playground_chat(visit: Visit) -> Response:
    """POST /console/playground/chat: JSON in, OpenAI's stream of server-sent events out.

    The answer comes from the function given to `routes(shop, playground=...)`; the organization is the session's.
    """
    try:
        body = chat_body(visit)
        if visit.console.playground is None:
            raise Unavailable(visit.t("playground.no_gateway"), code="no_gateway")
        answer: Response = await visit.console.playground(str(visit.org_id), body)
        if isinstance(answer, StreamingResponse):
            answer.body_iterator = told(visit, answer.body_iterator)
        return answer
    except TollwayError as error:
        return JSONResponse(
            {"error": {"message": str(visit.tell(error).striptags()), "code": error.code, "type": error.type}},
            error.status,
        )


async def told(visit: Visit, pieces: AsyncIterable[Any]) -> AsyncIterator[Any]:
    """The stream as it comes; an error that ends it once it has begun is said in the visitor's language."""
    try:
        async for piece in pieces:
            yield _told(visit, _bytes(piece)) if _bytes(piece).startswith(_ERROR) else piece
    finally:
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()


def _told(visit: Visit, piece: bytes) -> bytes:
    given = json.loads(piece.removeprefix(b"data:"))["error"]
    error = TollwayError(str(given.get("message") or ""), code=given.get("code"))
    given["message"] = str(visit.tell(error).striptags())
    return b"data: %b\n\n" % json.dumps({"error": given}, ensure_ascii=False).encode()


def _bytes(piece: Any) -> bytes:
    return piece.encode() if isinstance(piece, str) else bytes(piece)


def receipt(visit: Visit) -> Response:
    """GET /console/playground/receipt?request=…: tokens, time and price of the call just made."""
    with visit.shop.db.read() as conn:
        found = queries.event(conn, visit.query.get("request", ""), str(visit.org_id))
    return visit.page("parts/receipt.html", event=found)


def chat_body(visit: Visit) -> dict[str, Any]:
    """The call as /v1 would get it, built from known fields only. Raises BadRequest in the visitor's language."""
    try:
        given = msgspec.json.decode(visit.body)  # strict: nothing that cannot be written again
        messages = given["messages"]
        clean = [{"role": str(one["role"]), "content": str(one["content"])} for one in messages]
        body: dict[str, Any] = {"model": str(given["model"]), "messages": clean, "stream": True}
        body["temperature"] = min(2.0, max(0.0, float(given.get("temperature", 1))))
        body["max_tokens"] = min(32768, max(1, int(given.get("max_tokens", 256))))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, msgspec.DecodeError) as error:
        raise BadRequest(visit.t("error.form")) from error
    if (
        not clean
        or len(clean) > MESSAGES_MAX
        or any(one["role"] not in ("system", "user", "assistant") for one in clean)
    ):
        raise BadRequest(visit.t("error.form"))
    if body["temperature"] != body["temperature"]:
        raise BadRequest(visit.t("error.form"))
    body["stream_options"] = {"include_usage": True}
    return body
