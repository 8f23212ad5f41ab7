"""API keys: issued once, stored as an HMAC, limited, expiring, revocable.

The secret is shown when it is issued and never again; the database keeps its HMAC under a pepper that lives outside it.
Every change moves the revision that running gateways watch: a revoked key is refused within a quarter of a second.
"""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from tollway.guard import keys
from tollway.kit.errors import BadRequest, NotFound
from tollway.kit.ids import new_id
from tollway.sell import tables
from tollway.sell.revision import touch

SCOPES = ("inference", "usage", "admin")


class ApiKey(msgspec.Struct, frozen=True):
    """What may be shown of a key."""

    id: str
    org_id: str
    name: str
    hint: str
    scopes: tuple[str, ...]
    models: tuple[str, ...] | None
    rpm: int | None
    tpm: int | None
    concurrency: int | None
    expires_ms: int | None
    revoked_ms: int | None
    created_ms: int


class IssuedKey(msgspec.Struct, frozen=True):
    """A new key, with the secret that is shown this once."""

    id: str
    secret: str
    hint: str


def issue_key(
    conn: sa.Connection,
    now_ms: int,
    pepper: bytes,
    org_id: str,
    name: str,
    *,
    scopes: Sequence[str] = ("inference", "usage"),
    models: Sequence[str] | None = None,
    rpm: int | None = None,
    tpm: int | None = None,
    concurrency: int | None = None,
    expires_ms: int | None = None,
) -> IssuedKey:
    """Make a key for an organization. Raises BadRequest for unknown scopes, limits below one or an expiry in the past."""
    problems = [f"scope {scope!r} is none of {', '.join(SCOPES)}" for scope in scopes if scope not in SCOPES]
    problems += [
        f"{label} must be at least 1"
        for label, limit in (("rpm", rpm), ("tpm", tpm), ("concurrency", concurrency))
        if limit is not None and limit < 1
    ]
    if not name.strip():
        problems.append("the name is empty")
    if not scopes:
        problems.append("no scope is given")
    if expires_ms is not None and expires_ms <= now_ms:
        problems.append("the expiry lies in the past")
    if problems:
        raise BadRequest("This key cannot be issued: " + "; ".join(problems) + ".")
    if conn.execute(sa.select(tables.organization.c.id).where(tables.organization.c.id == org_id)).first() is None:
        raise NotFound(f"There is no organization {org_id!r}.", hint="`tollway org list` shows them.")
    secret = keys.new_key()
    key_id = new_id("key", now_ms)
    conn.execute(
        tables.api_key.insert().values(
            id=key_id,
            org_id=org_id,
            name=name.strip()[:200],
            hint=keys.hint(secret),
            digest=keys.digest(secret, pepper),
            scopes=list(scopes),
            models=list(models) if models is not None else None,
            rpm=rpm,
            tpm=tpm,
            concurrency=concurrency,
            expires_ms=expires_ms,
            created_ms=now_ms,
        )
    )
    touch(conn)
    return IssuedKey(key_id, secret, keys.hint(secret))


def get_key(conn: sa.Connection, key_id: str, org_id: str | None = None) -> ApiKey:
    """One key, revoked or not; with `org_id`, only if it is theirs. Raises NotFound."""
    own = tables.api_key.c.id == key_id
    if org_id is not None:
        own = sa.and_(own, tables.api_key.c.org_id == org_id)
    row = conn.execute(sa.select(tables.api_key).where(own)).first()
    if row is None:
        raise NotFound(f"There is no API key {key_id!r}.", hint="`tollway key list` shows them.")
    return as_key(row)


def revoke_key(conn: sa.Connection, now_ms: int, key_id: str, org_id: str | None = None) -> None:
    """End a key for good. With `org_id`, only a key of that organization is found. Revoking twice is no error."""
    own = get_key(conn, key_id, org_id).id
    key = tables.api_key
    conn.execute(key.update().where(key.c.id == own, key.c.revoked_ms.is_(None)).values(revoked_ms=now_ms))
    touch(conn)


def list_keys(conn: sa.Connection, org_id: str | None = None) -> list[ApiKey]:
    """The keys of an organization (or of all), newest first, revoked ones included."""
    query = sa.select(tables.api_key).order_by(tables.api_key.c.id.desc())
    if org_id is not None:
        query = query.where(tables.api_key.c.org_id == org_id)
    return [as_key(row) for row in conn.execute(query)]


def as_key(row: sa.Row[tuple[object, ...]]) -> ApiKey:
    """A row of api_key without its digest."""
    return msgspec.convert({name: row._mapping[name] for name in ApiKey.__struct_fields__}, ApiKey, strict=False)
