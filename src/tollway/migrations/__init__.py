"""The database's history as Alembic revisions; every start brings it to the newest one.

Tables are defined by the rooms that own them; a revision here is what changed between two releases. A test compares a
migrated database with the definitions, on SQLite and PostgreSQL, so neither can drift.
"""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tollway.kit.db import Database
from tollway.kit.errors import Conflict

HEAD = "0012"
_ADVISORY_LOCK = 0x7011B  # any constant that is ours


def migrate(db: Database) -> None:
    """Bring the database to HEAD. Raises Conflict for a database that a newer Tollway wrote."""
    found = current(db)
    if found == HEAD:
        return  # the usual start: Alembic is not even imported
    if found is not None and found > HEAD:
        raise Conflict(
            f"This database was written by a newer Tollway (revision {found}).",
            hint="Upgrade with `pip install -U tollway`.",
        )
    from alembic import command

    with db.write() as conn:
        if not db.is_sqlite:  # several gateways may start at once
            conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        config = alembic_config()
        config.attributes["connection"] = conn
        command.upgrade(config, "head")


def current(db: Database) -> str | None:
    """The revision the database is at; None for an empty one."""
    with db.read() as conn:
        if not sa.inspect(conn).has_table("alembic_version"):
            return None
        found: str | None = conn.execute(sa.text("select version_num from alembic_version")).scalar()
        return found


def alembic_config() -> Any:
    """Alembic's configuration, without a file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config
