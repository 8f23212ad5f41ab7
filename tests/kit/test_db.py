"""The database: durable settings, one writer, all or nothing, and no SQLite that can corrupt."""

import threading

import pytest
import sqlalchemy as sa

from tollway.kit import db as databases
from tollway.kit.db import Database
from tollway.kit.errors import BadRequest, Unavailable
from tollway.sell import tables

PLAN = {"id": "plan_1", "name": "p", "title": "P", "created_ms": 1}


def test_sqlite_is_durable_and_of_a_sound_version(sqlite_db: Database) -> None:
    with sqlite_db.write() as conn:
        assert conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert conn.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert conn.exec_driver_sql("PRAGMA mmap_size").scalar() in (0, None)
    found = tuple(int(part) for part in sqlite_db.version().split()[1].split("."))
    assert found >= databases.MINIMUM_SQLITE


@pytest.mark.parametrize("version", [(3, 7, 0), (3, 40, 1), (3, 51, 2)])
def test_a_sqlite_with_the_wal_bug_is_refused(version: tuple[int, ...]) -> None:
    with pytest.raises(Unavailable, match="corrupt"):
        databases.check_sqlite_version(version)
    databases.check_sqlite_version((3, 51, 3))


def test_a_write_is_all_or_nothing(db: Database) -> None:
    with pytest.raises(RuntimeError), db.write() as conn:
        conn.execute(tables.plan.insert(), PLAN)
        raise RuntimeError
    with db.read() as conn:
        assert conn.execute(sa.select(tables.plan)).all() == []


def test_a_read_keeps_nothing(db: Database) -> None:
    with db.read() as conn:
        conn.execute(tables.plan.insert(), PLAN)
    with db.read() as conn:
        assert conn.execute(sa.select(tables.plan)).all() == []


def test_writers_wait_for_each_other_and_lose_nothing(db: Database) -> None:
    with db.write() as conn:
        conn.execute(tables.revision.insert().values(name="n", value=0))

    def count() -> None:
        for _ in range(25):
            with db.write() as conn:
                row = conn.execute(sa.select(tables.revision.c.value).with_for_update()).scalar_one()
                conn.execute(tables.revision.update().values(value=row + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with db.read() as conn:
        assert conn.execute(sa.select(tables.revision.c.value)).scalar_one() == 100


def test_a_reader_sees_one_moment(db: Database) -> None:
    with db.read() as reader:
        if not db.is_sqlite:
            reader = reader.execution_options(isolation_level="REPEATABLE READ")
        assert reader.execute(sa.select(sa.func.count()).select_from(tables.plan)).scalar() == 0
        with db.write() as writer:
            writer.execute(tables.plan.insert(), PLAN)
        assert reader.execute(sa.select(sa.func.count()).select_from(tables.plan)).scalar() == 0


def test_what_no_database_can_hold_is_the_callers_mistake(postgres_db: Database) -> None:
    with pytest.raises(BadRequest, match="cannot be stored"), postgres_db.write() as conn:
        conn.execute(tables.plan.insert(), PLAN | {"title": "a\x00b"})


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("postgres://u@h/d", "postgresql+psycopg"),
        ("postgresql://u@h/d", "postgresql+psycopg"),
        ("/tmp/x.db", "sqlite"),
        ("sqlite:///x", "sqlite"),
    ],
)
def test_urls_name_the_driver(given: str, driver: str) -> None:
    assert databases.normalise_url(given).startswith(driver + "://")
