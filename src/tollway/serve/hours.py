"""The hours of our own machines: what the replicas of a version did in each, for the cost record."""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from tollway.kit.db import Database
from tollway.serve import tables
from tollway.serve.engine_time import Totals

_HOUR_MS = 3_600_000
_SUMMED = ("busy_us", "failed_us", "idle_us", "shadow_us")


class Hour(msgspec.Struct, frozen=True):
    """What the replicas of one version did since the last note, to be added to its hour."""

    model: str
    version: str
    hour_ms: int
    totals: Totals


def hour_of(now_ms: int) -> int:
    """When the hour began."""
    return now_ms - now_ms % _HOUR_MS


def add(conn: sa.Connection, db: Database, rows: Sequence[Hour]) -> None:
    """Add them to the cost record."""
    insert = db.insert(tables.replica_hour)
    summed = {name: tables.replica_hour.c[name] + insert.excluded[name] for name in _SUMMED}
    upsert = insert.on_conflict_do_update(index_elements=list(tables.replica_hour.primary_key.columns), set_=summed)
    for row in rows:
        amounts = msgspec.structs.asdict(row.totals)
        conn.execute(upsert, {"model": row.model, "model_version": row.version, "hour_ms": row.hour_ms} | amounts)
