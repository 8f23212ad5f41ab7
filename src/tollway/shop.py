"""The composition root: one Shop wires the parts from the settings. No module-level singletons, no import side effects.

Commands open a Shop and work on its database directly, whether the gateway runs or not; the gateway opens one and owns
it (`own_the_shop`): holds live in its memory, so there is one gateway per database, or several that lease (sell.leases).
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Self

import sqlalchemy as sa

from tollway.artifacts import signing, store
from tollway.guard import secrets
from tollway.kit.clock import Clock, SystemClock
from tollway.kit.db import Database
from tollway.kit.errors import BadRequest, Conflict, Unavailable
from tollway.kit.settings import Settings
from tollway.migrations import migrate

_ADVISORY_LOCK, _ALONE = 0x7011A, 0x7011C  # any constants that are ours


class Shop:
    """Settings, database, secrets, clock and package store of one home."""

    def __init__(self, settings: Settings, db: Database, clock: Clock) -> None:
        self.settings = settings
        self.db = db
        self.clock = clock
        self.secrets = secrets.Secrets.load(settings.home / "keys")
        self.store = store.Store(settings.home / "packages", signing.Signer(self.secrets.signing_seed), clock)
        if settings.gateways not in ("one", "many"):
            raise BadRequest(f"gateways is one or many, not {settings.gateways!r}.", param="gateways")
        self.many = settings.gateways == "many"
        self._lock_file: IO[str] | None = None
        self._lock_conn: sa.Connection | None = None

    @classmethod
    def open(cls, settings: Settings, clock: Clock | None = None) -> Self:
        """Open the home: make its folder, bring the database to this version. Raises Unavailable saying why not."""
        try:
            settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Unavailable(
                f"The home {settings.home} cannot be used: {error.strerror}.", hint="Give another with --home."
            ) from error
        db = Database(settings.url_of_database)
        try:
            migrate(db)
        except sa.exc.DatabaseError as error:
            raise Unavailable(
                f"The database cannot be opened ({_first_line(error)}).",
                code="database_unavailable",
                hint="`tollway doctor` shows why.",
            ) from error
        return cls(settings, db, clock or SystemClock())

    def own_the_shop(self) -> None:
        """Be the one gateway of this database, or one of several, until `close`; twice is no harm. Raises Conflict when
        another one is there that does not share."""
        if self._lock_file is not None or self._lock_conn is not None:
            return
        taken = Conflict(
            "Another gateway is running on this database.",
            code="already_running",
            hint="Stop it first, or give another --home. On PostgreSQL several may share: set gateways to many.",
        )
        if self.db.is_sqlite:
            if self.many:
                raise Conflict(
                    "Several gateways cannot share a SQLite file.",
                    code="database_not_shared",
                    hint="Set database_url to a PostgreSQL server, or gateways to one.",
                )
            path = self.settings.home / "gateway.lock"
            held = path.open("a+")
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                held.close()
                raise taken from None
            held.truncate(0)
            held.write(f"{os.getpid()}\n")
            held.flush()
            self._lock_file = held
            return
        conn = self.db.engine.connect()
        schema = sa.func.hashtext(sa.func.current_schema())  # shops in one database are told apart
        lock = sa.func.pg_try_advisory_lock_shared if self.many else sa.func.pg_try_advisory_lock
        if not conn.execute(sa.select(lock(_ADVISORY_LOCK, schema))).scalar():
            conn.close()
            raise taken
        conn.commit()
        self._lock_conn = conn

    @contextmanager
    def alone(self) -> Iterator[None]:
        """What one gateway of several does at a time, such as a first start."""
        if self.db.is_sqlite:
            yield  # it has one gateway
            return
        with self.db.engine.connect() as conn:
            conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_ALONE, sa.func.hashtext(sa.func.current_schema()))))
            yield

    def keep_the_shop(self) -> None:
        """Still be the one gateway: a PostgreSQL that was started anew forgot who held the place, so take it again.
        Raises Conflict when another gateway has it now, Unavailable while the server is away."""
        if self.db.is_sqlite:
            return  # the lock on the file is ours until we close it
        if self._lock_conn is not None:
            try:
                self._lock_conn.execute(sa.select(1))
                self._lock_conn.commit()
            except sa.exc.DBAPIError:
                self._lock_conn.invalidate()
                self._lock_conn.close()
                self._lock_conn = None
        try:
            self.own_the_shop()
        except sa.exc.SQLAlchemyError as error:  # also a pool without a free connection
            raise Unavailable("The database server is away.", code="database_unavailable") from error

    def close(self) -> None:
        """Let go of the database and the lock."""
        if self._lock_conn is not None:
            self._lock_conn.close()
        if self._lock_file is not None:
            self._lock_file.close()
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _first_line(error: sa.exc.DatabaseError) -> str:
    return str(error.orig).splitlines()[0][:200]
