"""Lists in OpenAI's shape: what may be asked of one, and how its page looks. For files, jobs, batches and feedback."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
import sqlalchemy as sa
from msgspec import Meta

from tollway.faces.http.wire import Scope
from tollway.kit.errors import BadRequest
from tollway.shop import Shop

_PAGE_MOST = 100
_Word = Annotated[str, Meta(min_length=1, max_length=64)]
Metadata = Annotated[dict[_Word, Annotated[str, Meta(max_length=512)]], Meta(max_length=16)]
"""What a buyer notes at a job: kept with it, shown with it."""
T = TypeVar("T")


async def reading(shop: Shop, work: Callable[[sa.Connection], T]) -> T:
    """What a function reads from the database, off the loop."""

    def read() -> T:
        with shop.db.read() as conn:
            return work(conn)

    return await asyncio.to_thread(read)


def query_of(scope: Scope, known: set[str]) -> dict[str, str]:
    """The query's parameters. Raises BadRequest for one that is not known."""
    asked = dict(parse_qsl(scope["query_string"].decode("latin-1")))
    unknown = asked.keys() - known
    if unknown:
        name = min(unknown)[:80]
        raise BadRequest(f"Unknown parameter: {name!r}.", param=name, code="unknown_parameter")
    return asked


def page_of(asked: dict[str, str]) -> tuple[int, str | None]:
    """How many of a list, after which one."""
    text = asked.get("limit", "20")
    if not (text.isascii() and text.isdigit() and len(text) < 8 and int(text) > 0):
        raise BadRequest("`limit` must be a number from 1.", param="limit", code="invalid_value")
    if asked.get("order", "desc") not in ("asc", "desc"):
        raise BadRequest("`order` must be asc or desc.", param="order", code="invalid_value")
    return min(int(text), _PAGE_MOST), asked.get("after")


def listing(rows: list[dict[str, Any]], limit: int, after: str | None) -> bytes:
    """A page of rows as OpenAI lists them."""
    begin = next((place + 1 for place, row in enumerate(rows) if row["id"] == after), 0) if after else 0
    page = rows[begin : begin + limit]
    body = {
        "object": "list",
        "data": page,
        "has_more": begin + limit < len(rows),
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }
    return msgspec.json.encode(body)
