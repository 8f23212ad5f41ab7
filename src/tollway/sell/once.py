"""What was asked under an `Idempotency-Key`, and what was answered: a request that is sent again is done once.

`keep` stands in the transaction of the effect: either both are durable or neither, through a crash at any point. Only what
was done is kept; a refusal did nothing, so the same key may be tried again. Kept for a day, with its organization, and of one
organization no more than `KEPT_MOST`: whoever makes up keys forgets its own, and fills nobody's disk.
"""

import hashlib
from typing import Final

import msgspec
import sqlalchemy as sa

from tollway.kit.errors import Conflict
from tollway.sell import tables

KEPT_MS: Final = 24 * 3_600_000
KEY_MAX: Final = 255
KEPT_MOST: Final = 10_000  # of one organization; then the older ones go, a tenth at a time


class Repeated(Conflict):
    """The same request is being answered, or was, under this Idempotency-Key."""

    code = "idempotency_key_in_use"


class Asked(msgspec.Struct, frozen=True):
    """A request that is to be done once."""

    org_id: str
    key: str
    digest: str  # of the door and the content


def asked(org_id: str, key: str, *content: bytes) -> Asked:
    """A request by what it says; `content` begins with its door."""
    digest = hashlib.sha256()
    for part in content:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return Asked(org_id, key, digest.hexdigest())


def answer_of(conn: sa.Connection, now_ms: int, request: Asked) -> bytes | None:
    """What was answered to the same before. Raises Conflict when the key was used for something else."""
    table = tables.answered_once
    query = sa.select(table.c.digest, table.c.answer).where(
        table.c.org_id == request.org_id, table.c.key == request.key, table.c.created_ms > now_ms - KEPT_MS
    )
    row = conn.execute(query).first()
    if row is None:
        return None
    if row.digest != request.digest:
        raise Conflict(
            "This Idempotency-Key was used for another request in the last 24 hours.",
            code="idempotency_key_reused",
            param="Idempotency-Key",
            hint="Use a new key for a new request.",
        )
    return str(row.answer).encode()


def keep(conn: sa.Connection, now_ms: int, request: Asked, answer: bytes) -> None:
    """Keep an answer, in the transaction of what was done. Raises Repeated when another request under this key was faster:
    then nothing of this one stays."""
    table = tables.answered_once
    conn.execute(table.delete().where(table.c.created_ms <= now_ms - KEPT_MS))
    _make_room(conn, request.org_id)
    row = {**msgspec.structs.asdict(request), "answer": answer.decode(), "created_ms": now_ms}
    try:
        conn.execute(table.insert().values(row))
    except sa.exc.IntegrityError:
        raise Repeated from None


def _make_room(conn: sa.Connection, org_id: str) -> None:
    """Forget an organization's oldest answers when there are as many as are kept."""
    table = tables.answered_once
    own = table.c.org_id == org_id
    if conn.execute(sa.select(sa.func.count()).where(own)).scalar_one() >= KEPT_MOST:
        oldest = sa.select(table.c.key).where(own).order_by(table.c.created_ms).limit(KEPT_MOST // 10)
        conn.execute(table.delete().where(own, table.c.key.in_(oldest)))
