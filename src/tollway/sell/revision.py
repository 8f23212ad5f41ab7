"""One number that moves with every change to keys, plans, subscriptions, wallets or models.

Running gateways watch it and reload what they hold in memory; nothing else has to know who is listening.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tollway.sell import tables

_NAME = "access"


def touch(conn: sa.Connection) -> None:
    """Say that something changed; part of the same transaction as the change."""
    insert = (sqlite if conn.dialect.name == "sqlite" else postgresql).insert(tables.revision)
    moved = insert.on_conflict_do_update(index_elements=["name"], set_={"value": tables.revision.c.value + 1})
    conn.execute(moved, {"name": _NAME, "value": 1})


def current(conn: sa.Connection) -> int:
    """The number; 0 before the first change."""
    return int(conn.execute(sa.select(tables.revision.c.value).where(tables.revision.c.name == _NAME)).scalar() or 0)
