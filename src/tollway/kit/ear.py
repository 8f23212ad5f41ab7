"""A connection to PostgreSQL that listens, and holds a lock for as long as it lives. For gateways that share a database.

    ear = Ear(db, "channel", lock=4711, heard=take_over)   # on the event loop: `heard` is called there
    await asyncio.to_thread(ear.open)                      # returns when the lock is held
    …; ear.close()

A lost connection is made anew and the lock taken again; who was away meanwhile is for the caller to find out.
"""

import asyncio
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

from tollway.kit import log
from tollway.kit.db import Database
from tollway.kit.errors import Unavailable

_LOG = log.get("kit.ear")
_LOOK_EVERY_S = 0.5
_OPEN_WITHIN_S = 15.0


class Ear:
    """One listening thread."""

    def __init__(self, db: Database, channel: str, lock: int, heard: Callable[[str], None]) -> None:
        self._db, self._channel, self._lock, self._heard = db, channel, lock, heard
        self._loop = asyncio.get_running_loop()
        self._held = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ear", daemon=True)

    def open(self) -> None:
        """Start, and return when the lock is held. Raises Unavailable."""
        self._thread.start()
        if not self._held.wait(_OPEN_WITHIN_S):
            self.close()
            raise Unavailable("The database server does not let this gateway listen.", code="database_unavailable")

    def close(self) -> None:
        """Let go of the lock and stop listening."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def _work(self) -> None:
        import psycopg

        while not self._closing.is_set():
            try:
                self._listen()
            except (psycopg.Error, sa.exc.SQLAlchemyError) as error:
                _LOG.warning("not listening", error=type(error).__name__)
                time.sleep(_LOOK_EVERY_S)

    def _listen(self) -> None:
        from psycopg import Connection, sql

        conn = self._db.engine.connect()
        raw = conn.connection.driver_connection
        conn.detach()  # it is ours until it is closed: no pool lends it to anybody
        try:
            assert isinstance(raw, Connection)
            raw.rollback()
            raw.autocommit = True
            row = raw.execute("SELECT pg_try_advisory_lock(%s)", (self._lock,)).fetchone()
            if row is None or not row[0]:
                time.sleep(_LOOK_EVERY_S)  # our own connection of before is not buried yet
                return
            raw.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
            self._held.set()
            while not self._closing.is_set():
                for notice in raw.notifies(timeout=_LOOK_EVERY_S):
                    self._loop.call_soon_threadsafe(self._heard, notice.payload)
                    if self._closing.is_set():
                        break
        finally:
            conn.close()
