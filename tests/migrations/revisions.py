"""Databases as earlier releases left them."""

import sqlalchemy as sa
from alembic import command

from tollway.migrations import alembic_config


def upgrade_to(conn: sa.Connection, revision: str) -> None:
    """Bring an empty database to this revision, and no further."""
    config = alembic_config()
    config.attributes["connection"] = conn
    command.upgrade(config, revision)
