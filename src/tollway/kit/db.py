"""The database: one SQL, two engines. SQLite (WAL, synchronous=FULL) by default, PostgreSQL by URL.

Why a SQLite from a wheel: versions before 3.51.3 can corrupt a WAL file written from several connections, and the one
inside a Python build is often older. We refuse to start on it. Why FULL: with NORMAL, acknowledged commits are lost on
power failure. Tables live with the rooms that own them, all on `metadata`; across rooms only ids travel.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tollway.kit.errors import BadRequest, Unavailable

MINIMUM_SQLITE = (3, 51, 3)
metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
_WRITE = "tollway_write"
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "mmap_size=0",
    "busy_timeout=30000",
    "wal_autocheckpoint=4000",  # 16 MB: a checkpoint falls on one commit in hundreds, not in a hundred
)


class Database:
    """A pool of connections to one database, handed out as short read or write transactions.

    `with db.read() as conn` sees a snapshot; `with db.write() as conn` is all or nothing and, on SQLite, takes the
    single writer's place at once (BEGIN IMMEDIATE) so that it never fails half-way for a lock.
    """

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(normalise_url(url))
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(self.url) if self.is_sqlite else _postgres_engine(self.url)
        self._writer = self.engine.execution_options(**{_WRITE: True})

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A read transaction; nothing written in it is kept."""
        with _storable(), self.engine.connect() as conn:
            yield conn

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A write transaction: committed at the end of the block, rolled back on any exception."""
        with _storable(), self._writer.begin() as conn:
            yield conn

    def writer(self) -> sa.Connection:
        """A connection to keep for writing, for a thread that writes all the time; `begin` each transaction on it."""
        return self._writer.connect()

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that knows `on_conflict_do_nothing` and `on_conflict_do_update`, in this engine's dialect."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def version(self) -> str:
        """The engine's name and version, for `doctor`."""
        with self.read() as conn:
            if self.is_sqlite:
                return f"SQLite {conn.exec_driver_sql('select sqlite_version()').scalar_one()}"
            return f"PostgreSQL {conn.exec_driver_sql('show server_version').scalar_one()}"

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


class Prepared:
    """A statement compiled once and run on the driver itself, for the few that belong to every commit of the hot path:
    measured on SQLite, the usual road costs 25 microseconds a statement, this one 3. Parameters are given by name."""

    def __init__(self, statement: Any, dialect: sa.Dialect, names: Sequence[str] | None = None) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=names)
        self._text = str(compiled)
        self._order: list[str] | None = compiled.positiontup if dialect.positional else None
        self._fixed = {name: value for name, value in compiled.params.items() if value is not None}
        self._dialect = dialect
        self._errors: type[Exception] = dialect.loaded_dbapi.Error

    def run(self, conn: sa.Connection, given: dict[str, Any] | list[dict[str, Any]]) -> Any:
        """Execute it (for each, if given a list) in the connection's transaction; the driver's cursor."""
        if not conn.in_transaction():
            conn.begin()
        cursor = conn.connection.cursor()
        try:
            if isinstance(given, list):
                cursor.executemany(self._text, [self._bound(one) for one in given])
            else:
                cursor.execute(self._text, self._bound(given))
        except self._errors as error:
            raise sa.exc.DBAPIError.instance(self._text, None, error, self._errors, dialect=self._dialect) from error
        return cursor

    def value(self, conn: sa.Connection, given: dict[str, Any]) -> Any:
        """The first column of the first row; None when there is none."""
        row = self.run(conn, given).fetchone()
        return None if row is None else row[0]

    def _bound(self, given: dict[str, Any]) -> Any:
        named = self._fixed | given if self._fixed else given
        return tuple([named[name] for name in self._order]) if self._order is not None else named


class BulkInsert:
    """Many rows into one table as one statement: run row by row, the driver hands Python's lock over twice a row, which
    under load costs more than the insert. Both databases bear a thousand rows of thirty columns.

    `tail` is what follows the rows (ON CONFLICT …, RETURNING …), in words that both databases know."""

    def __init__(self, table: sa.Table, dialect: sa.Dialect, tail: str = "") -> None:
        self.names = table.c.keys()
        self._head = f'INSERT INTO "{table.name}" ({", ".join(self.names)}) VALUES '  # noqa: S608 - our own names
        self._row = "(" + ", ".join(["?" if dialect.positional else "%s"] * len(self.names)) + ")"
        self._tail = f" {tail}" if tail else ""
        self._texts: dict[int, str] = {}  # by rows: the same text each time, so that the driver finds it at once
        self._errors: type[Exception] = dialect.loaded_dbapi.Error
        self._dialect = dialect

    def run(self, conn: sa.Connection, rows: Sequence[Sequence[Any]]) -> Any:
        """Insert all rows, each with every column in the table's order, in the connection's transaction; the cursor."""
        if not conn.in_transaction():
            conn.begin()
        text = self._texts.get(len(rows))
        if text is None:
            text = self._texts[len(rows)] = self._head + ", ".join([self._row] * len(rows)) + self._tail
        cursor = conn.connection.cursor()
        try:
            cursor.execute(text, rows[0] if len(rows) == 1 else [value for row in rows for value in row])
        except self._errors as error:
            raise sa.exc.DBAPIError.instance(text, None, error, self._errors, dialect=self._dialect) from error
        return cursor


def adds(table: sa.Table, key: Sequence[str], added: Sequence[str]) -> str:
    """The tail of an insert that adds to the row that is already there, for `BulkInsert`."""
    sums = ", ".join(f'{name} = "{table.name}".{name} + excluded.{name}' for name in added)
    return f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sums}"


@contextmanager
def _storable() -> Iterator[None]:
    """What no database can hold (a NUL character, a number beyond 64 bits) is the caller's mistake, not ours."""
    try:
        yield
    except (sa.exc.DataError, OverflowError) as error:
        raise BadRequest(
            "A value in this request cannot be stored: a NUL character, or a number out of range."
        ) from error


def normalise_url(url: str) -> str:
    """`postgres://…` and `postgresql://…` mean the psycopg driver; a bare path means SQLite."""
    for prefix in ("postgres://", "postgresql://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    return url if "://" in url else f"sqlite:///{url}"


def check_sqlite_version(found: tuple[int, ...]) -> None:
    """Refuse a SQLite with the known WAL bug (fixed in 3.51.3)."""
    if found < MINIMUM_SQLITE:
        shown = ".".join(map(str, found))
        raise Unavailable(
            f"SQLite {shown} can corrupt the database (a bug in its write-ahead log, fixed in 3.51.3).",
            code="unsafe_sqlite",
            hint="Run `pip install -U pysqlite3`, or set TOLLWAY_DATABASE_URL to a PostgreSQL server.",
        )


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    import pysqlite3

    check_sqlite_version(pysqlite3.sqlite_version_info)
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        url, module=pysqlite3, connect_args={"check_same_thread": False, "timeout": 30},
        pool_size=8, max_overflow=8, pool_use_lifo=True,  # the one used last has the pages and the statements
    )

    @sa.event.listens_for(engine, "connect")
    def _on_connect(raw: Any, _record: Any) -> None:
        raw.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in _PRAGMAS:
            raw.execute(f"PRAGMA {pragma}").fetchall()

    @sa.event.listens_for(engine, "begin")
    def _on_begin(conn: sa.Connection) -> None:
        text = "BEGIN IMMEDIATE" if conn.get_execution_options().get(_WRITE) else "BEGIN"
        try:  # straight to the driver: with every commit of the hot path
            conn.connection.cursor().execute(text)
        except pysqlite3.Error as error:
            raise sa.exc.DBAPIError.instance(text, None, error, pysqlite3.Error, dialect=conn.dialect) from error

    return engine


def _postgres_engine(url: sa.URL) -> sa.Engine:
    return sa.create_engine(url, pool_size=8, max_overflow=8, pool_pre_ping=True)
