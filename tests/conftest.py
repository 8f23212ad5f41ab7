"""Fixtures for every room: a real database of each kind, a clock that stands still, a pepper.

`db` runs a test twice: on SQLite and on a real PostgreSQL whose server comes from a wheel. The server is started once
per test session (all xdist workers share it) with fsync off, and each test gets a fresh schema of its own. Tests of a
single engine ask for `sqlite_db` or `postgres_db`.

Libraries compute with one thread here, unless OMP_NUM_THREADS says otherwise: the workers already use the cores, and
threads that wait for a core by spinning take three times as long. It also gives the same sums on any number of cores.
"""

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings

import tollway.sell.tables
import tollway.serve.tables
from tests import postgres
from tollway.kit.clock import ManualClock, day_of, month_bounds_ms, month_of
from tollway.kit.db import Database, metadata
from tollway.kit.ids import new_id
from tollway.sell import catalog, rating

# How long an example takes says nothing on a machine that others use too; the same examples each time, so that what is
# green here is green elsewhere.
settings.register_profile("house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

# Read by torch, numpy and the like when they are loaded, and by every process a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["LC_ALL"] = "C.UTF-8"  # PostgreSQL makes no database where LANG names a locale that the machine has not


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
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
    server = postgres.server_in(Path(tempfile.gettempdir()) / f"tollway-pg-{session[:12]}")
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


@pytest.fixture
def record_use() -> Callable[..., str]:
    """`record_use(conn, subscription, model="m", at_ms=…, input_tokens=…)`: an event and its rollup, as metering does.

    The price is what the subscription's plan charges after the events before it; the rest is zero unless given.
    """
    return _record_use


def _record_use(conn: sa.Connection, subscription: catalog.Subscription, **given: Any) -> str:
    table, daily = tollway.sell.tables.usage_event, tollway.sell.tables.usage_daily
    names = ("input_tokens", "cached_tokens", "output_tokens", "prefill_us", "decode_us", "duration_us")
    row: dict[str, Any] = dict.fromkeys(names, 0) | {
        "id": new_id("evt", given["at_ms"]),
        "org_id": subscription.org_id,
        "key_id": "key_1",
        "subscription_id": subscription.id,
        "plan_version_id": subscription.plan_version_id,
        "model": "small",
        "model_version": "v1",
        "operation": "chat",
        "status": "ok",
        "first_token_us": None,
        "streamed": False,
    }
    row |= given
    row["request_id"] = row["id"].replace("evt_", "req_")
    terms = catalog.get_plan_version(conn, row["plan_version_id"]).terms
    row = {"meter": "", "units": 0} | row
    meters = {name: row[name] for name in names[:3]} | {"requests": 1}
    counted = {row["meter"]: row["units"]} if row["meter"] else {}
    free = row["status"] == "aborted" and terms.aborted == "free"
    if "price_picos" not in given:
        before = _used_this_month(conn, row, terms)
        row["price_picos"] = 0 if free else rating.rate(terms, before, row["model"], meters | counted)[0]
    conn.execute(table.insert().values(row))
    place = {name: row[name] for name in ("org_id", "key_id", "model", "plan_version_id", "meter")} | {
        "day": day_of(row["at_ms"])
    }
    sums = meters | {name: row[name] for name in ("price_picos", "prefill_us", "decode_us", "units")}
    same = [daily.c[name] == value for name, value in place.items()]
    more = {name: daily.c[name] + value for name, value in sums.items()}
    if conn.execute(daily.update().where(*same).values(more)).rowcount == 0:
        conn.execute(daily.insert().values(place | sums))
    return str(row["id"])


def _used_this_month(conn: sa.Connection, row: dict[str, Any], terms: catalog.Terms) -> dict[int, int]:
    event = tollway.sell.tables.usage_event
    start_ms, end_ms = month_bounds_ms(month_of(row["at_ms"]))
    used: dict[int, int] = {}
    query = sa.select(event).where(event.c.org_id == row["org_id"], event.c.at_ms >= start_ms, event.c.at_ms < end_ms)
    for one in conn.execute(query.where(event.c.plan_version_id == row["plan_version_id"])):
        if one.status == "aborted" and terms.aborted == "free":
            continue
        meters = {name: one._mapping[name] for name in ("input_tokens", "cached_tokens", "output_tokens")}
        counted = {one.meter: one.units} if one.meter else {}
        for index, units in rating.rate(terms, {}, one.model, meters | {"requests": 1} | counted)[1].items():
            used[index] = used.get(index, 0) + units
    return used
