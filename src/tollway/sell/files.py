"""Buyers' uploads, and what batches answered: checked as a whole (`file_checks.py`), kept under their organization, counted
against a quota. For /v1/files, fine-tuning and batches.

The bytes lie in `<home>/files/<organization>/<id>`; the row appears after they are durable, and goes before they do.
"""

import hashlib
import os
import shutil
from pathlib import Path

import msgspec
import sqlalchemy as sa

from tollway.kit import durable, jobs
from tollway.kit.errors import Conflict, NotFound, TooLarge
from tollway.kit.ids import new_id
from tollway.kit.said import say
from tollway.sell import tables
from tollway.sell.file_checks import CHECKS

FILES_MAX = 10_000  # of one organization: small ones take an inode and a row all the same
_ASIDE = ".aside"


class StoredFile(msgspec.Struct, frozen=True):
    """An upload."""

    id: str
    org_id: str
    key_id: str
    name: str
    purpose: str
    size_bytes: int
    lines: int
    sha256: str
    created_ms: int


def take_in(
    root: Path, now_ms: int, org_id: str, key_id: str, name: str, purpose: str, data: bytes
) -> tuple[StoredFile, Path]:
    """Check an upload and lay it aside, durable: what `keep` then takes over, so that the database waits for no disk.
    Raises BadRequest with every problem."""
    lines = CHECKS[purpose](data)
    made = StoredFile(
        new_id("file", now_ms), org_id, key_id, _plain_name(name), purpose, len(data), lines,
        hashlib.sha256(data).hexdigest(), now_ms,
    )  # fmt: skip
    aside = root / _ASIDE / made.id
    _write(aside, data)
    return made, aside


def keep(conn: sa.Connection, root: Path, made: StoredFile, aside: Path, quota_bytes: int) -> StoredFile:
    """Keep an upload that lies aside. Raises TooLarge when the organization's quota is used up."""
    conn.execute(sa.select(tables.organization.c.id).where(tables.organization.c.id == made.org_id).with_for_update())
    table = tables.stored_file
    query = sa.select(sa.func.sum(table.c.size_bytes), sa.func.count()).where(table.c.org_id == made.org_id)
    used, count = conn.execute(query).one()
    if count >= FILES_MAX:
        raise TooLarge(
            f"This organization has {count:,} files; {FILES_MAX:,} are the most.",
            code="file_quota_exceeded",
            hint="Delete files that are no longer needed.",
        )
    used = used or 0
    if int(used) + made.size_bytes > quota_bytes:
        raise TooLarge(
            f"This organization's files may have {quota_bytes:,} bytes together; {int(used):,} are used.",
            code="file_quota_exceeded",
            hint="Delete files that are no longer needed.",
        )
    _move(aside, path_of(root, made))
    conn.execute(table.insert().values(**msgspec.structs.asdict(made)))
    return made


def sweep(root: Path) -> None:
    """Forget what an earlier gateway had laid aside and never kept. For a gateway's start."""
    shutil.rmtree(root / _ASIDE, ignore_errors=True)


def get(conn: sa.Connection, org_id: str, file_id: str) -> StoredFile:
    """An organization's upload. Raises NotFound, also for others'."""
    table = tables.stored_file
    row = conn.execute(sa.select(table).where(table.c.id == file_id, table.c.org_id == org_id)).first()
    if row is None:
        raise NotFound(
            say("file.unknown", "There is no file {name!r}.", name=file_id[:60]), code="file_not_found", param="file_id"
        )
    return StoredFile(**row._mapping)


def list_of(conn: sa.Connection, org_id: str, purpose: str | None = None) -> list[StoredFile]:
    """An organization's uploads, newest first."""
    table = tables.stored_file
    query = sa.select(table).where(table.c.org_id == org_id).order_by(table.c.id.desc())
    if purpose is not None:
        query = query.where(table.c.purpose == purpose)
    return [StoredFile(**row._mapping) for row in conn.execute(query)]


def remove(conn: sa.Connection, org_id: str, file_id: str) -> StoredFile:
    """Forget an upload; delete its bytes when the transaction is through. Raises Conflict while a job reads it."""
    found = get(conn, org_id, file_id)
    busy = next(
        (job for job in jobs.list_of(conn, None, org_id, open_only=True) if file_id in job.asked.values()), None
    )
    if busy is not None:
        raise Conflict(
            say("file.busy", "The job {job} reads this file.", job=busy.id),
            hint=say("file.cancel_first", "Cancel the job first."),
        )
    conn.execute(tables.stored_file.delete().where(tables.stored_file.c.id == file_id))
    return found


def keep_made(
    conn: sa.Connection,
    root: Path,
    now_ms: int,
    file_id: str,
    org_id: str,
    key_id: str,
    name: str,
    lines: int,
    made: Path,
) -> StoredFile:
    """Take over a file that we made for an organization, durable where it is: moved into its place, the same again is no
    harm. What was paid for is kept whatever the quota."""
    table = tables.stored_file
    row = conn.execute(sa.select(table).where(table.c.id == file_id)).first()
    if row is not None:
        return StoredFile(**row._mapping)
    with made.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = made.stat().st_size
    found = StoredFile(file_id, org_id, key_id, name, "batch_output", size, lines, digest, now_ms)
    _move(made, path_of(root, found))
    conn.execute(table.insert().values(**msgspec.structs.asdict(found)))
    return found


def root_in(home: Path) -> Path:
    """Where the uploads of a home lie."""
    return home / "files"


def path_of(root: Path, file: StoredFile) -> Path:
    """Where its bytes lie."""
    return root / file.org_id / file.id


def _plain_name(name: str) -> str:
    """A file's name for show: no folders, nothing that cannot be printed."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(one for one in last if one.isprintable())[:200] or "upload.jsonl"


def _write(path: Path, data: bytes) -> None:
    """All of it, durable, readable by us alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _move(path: Path, to: Path) -> None:
    """A durable file gets its place."""
    to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.replace(to)
    durable.sync(to.parent)
