"""Devices that answer on their own: which there are, for whom, and how far their usage logs have been taken over.

A device belongs to one organization and one version of one model. `head_n` and `head_seal` are the last entry of its log that
is in the books; whoever takes entries over claims the device first, so that two senders of one log do not meet.
"""

import msgspec
import sqlalchemy as sa

from tollway.kit.errors import Conflict, Forbidden, NotFound
from tollway.sell import tables

_CLAIM_MS = 60_000


class EdgeDevice(msgspec.Struct, frozen=True):
    """One exported device."""

    id: str
    org_id: str
    name: str
    model: str
    model_version: str
    digest: str
    input: str
    created_ms: int
    revoked_ms: int | None
    head_n: int
    head_seal: str
    last_at_ms: int  # when the last entry was made, as it was booked
    synced_ms: int | None
    claimed_ms: int | None = None


def register(conn: sa.Connection, device: EdgeDevice) -> None:
    """Write down a new device."""
    conn.execute(tables.edge_device.insert().values(msgspec.structs.asdict(device)))


def get(conn: sa.Connection, device_id: str, org_id: str | None = None) -> EdgeDevice:
    """A device (of one organization). Raises NotFound."""
    table = tables.edge_device
    query = sa.select(table).where(table.c.id == device_id)
    if org_id is not None:
        query = query.where(table.c.org_id == org_id)
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(f"There is no device {device_id[:60]!r}.", code="device_not_found", param="device")
    return EdgeDevice(**row._mapping)


def list_devices(conn: sa.Connection, org_id: str | None = None) -> list[EdgeDevice]:
    """All devices, newest first."""
    table = tables.edge_device
    query = sa.select(table).order_by(table.c.created_ms.desc(), table.c.id)
    if org_id is not None:
        query = query.where(table.c.org_id == org_id)
    return [EdgeDevice(**row._mapping) for row in conn.execute(query)]


def revoke(conn: sa.Connection, now_ms: int, device_id: str) -> EdgeDevice:
    """Take nothing more from a device. What it sent stays billed. Raises NotFound."""
    device = get(conn, device_id)
    if device.revoked_ms is None:
        table = tables.edge_device
        conn.execute(table.update().where(table.c.id == device_id).values(revoked_ms=now_ms))
    return get(conn, device_id)


def claim(conn: sa.Connection, now_ms: int, device_id: str, org_id: str) -> EdgeDevice:
    """Be the only one who takes entries of this device over. Raises NotFound, Forbidden, Conflict."""
    device, table = get(conn, device_id, org_id), tables.edge_device
    if device.revoked_ms is not None:
        raise Forbidden("This device was revoked.", code="device_revoked", hint="Have the model exported anew.")
    free = sa.or_(table.c.claimed_ms.is_(None), table.c.claimed_ms < now_ms - _CLAIM_MS)
    done = conn.execute(table.update().where(table.c.id == device_id, free).values(claimed_ms=now_ms))
    if done.rowcount == 0:
        raise Conflict("This log is being taken over already.", code="sync_running", hint="Try again in a minute.")
    return get(conn, device_id)


def give_up(conn: sa.Connection, device_id: str) -> None:
    """Claim no longer."""
    table = tables.edge_device
    conn.execute(table.update().where(table.c.id == device_id).values(claimed_ms=None))


def advance(conn: sa.Connection, now_ms: int, device_id: str, number: int, seal: str, last_at_ms: int) -> None:
    """The log is in the books up to entry `number`; the claim ends."""
    table = tables.edge_device
    values = {"head_n": number, "head_seal": seal, "last_at_ms": last_at_ms, "synced_ms": now_ms, "claimed_ms": None}
    conn.execute(table.update().where(table.c.id == device_id, table.c.head_n < number).values(values))
