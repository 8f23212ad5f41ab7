"""Migrations: an empty database becomes the one the rooms define, twice is once, and a newer one is left alone."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tollway.kit.db import Database, metadata
from tollway.kit.errors import Conflict
from tollway.migrations import HEAD, current, migrate


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return Database(str(tmp_path / "new.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url"))


def test_migrated_is_what_the_rooms_define(empty: Database) -> None:
    assert current(empty) is None
    migrate(empty)
    assert current(empty) == HEAD
    with empty.read() as conn:
        assert compare_metadata(MigrationContext.configure(conn), metadata) == []
    empty.close()


def test_migrating_twice_is_migrating_once(empty: Database) -> None:
    migrate(empty)
    migrate(empty)
    assert current(empty) == HEAD
    empty.close()


def test_a_database_of_a_newer_release_is_left_alone(empty: Database) -> None:
    migrate(empty)
    with empty.write() as conn:
        conn.execute(sa.text("update alembic_version set version_num = '9999'"))
    with pytest.raises(Conflict, match="newer"):
        migrate(empty)
    empty.close()


def test_a_migration_that_is_cut_off_leaves_nothing(tmp_path: Path) -> None:
    db = Database(str(tmp_path / "cut.db"))
    made: list[str] = []

    def cut(conn: sa.Connection, cursor: object, statement: str, *rest: object) -> None:
        made.append(statement)
        if len(made) > 12:
            raise KeyboardInterrupt

    sa.event.listen(db.engine, "before_cursor_execute", cut)
    with pytest.raises(KeyboardInterrupt):
        migrate(db)
    sa.event.remove(db.engine, "before_cursor_execute", cut)
    with db.read() as conn:
        assert sa.inspect(conn).get_table_names() == []
    migrate(db)
    assert current(db) == HEAD
    db.close()
