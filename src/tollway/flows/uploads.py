"""Uploads of buyers, kept and deleted: the row in the database and the bytes on the disk go together."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from tollway.kit.clock import Clock
from tollway.kit.db import Database
from tollway.kit.settings import Settings
from tollway.sell import files
from tollway.sell.files import StoredFile


class Keeper(Protocol):
    """What of a shop this flow needs."""

    @property
    def db(self) -> Database: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def settings(self) -> Settings: ...


def root_of(shop: Keeper) -> Path:
    """Where uploads lie."""
    return files.root_in(Path(shop.settings.home))


def keep(
    shop: Keeper,
    org_id: str,
    key_id: str,
    name: str,
    purpose: str,
    data: bytes,
    note: Callable[[sa.Connection, StoredFile], None] = lambda conn, made: None,
) -> StoredFile:
    """Check an upload as a whole and keep it; `note` writes in the same transaction. Raises BadRequest with every problem,
    TooLarge."""
    root = root_of(shop)
    made, aside = files.take_in(root, shop.clock.now_ms(), org_id, key_id, name, purpose, data)
    try:
        with shop.db.write() as conn:
            note(conn, made)
            return files.keep(conn, root, made, aside, shop.settings.files_bytes_max)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def delete(shop: Keeper, org_id: str, file_id: str) -> StoredFile:
    """Forget an upload, and then its bytes. Raises NotFound, Conflict while a job reads it."""
    with shop.db.write() as conn:
        gone = files.remove(conn, org_id, file_id)
    files.path_of(root_of(shop), gone).unlink(missing_ok=True)
    return gone
