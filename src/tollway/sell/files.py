"""Buyers' uploads: checked as a whole, kept under their organization, counted against a quota. For /v1/files and fine-tuning.

The bytes lie in `<home>/files/<organization>/<id>`; the row appears after they are durable, and goes before they do.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from tollway.kit import jobs
from tollway.kit.errors import BadRequest, Conflict, NotFound, TooLarge
from tollway.kit.ids import new_id
from tollway.sell import tables

LINES_MAX = 20_000
_SHOWN = 20
_ROLES = ("system", "developer", "user", "assistant")
_TURNS_MAX = 200


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


def check_chats(data: bytes) -> int:
    """The number of examples in a JSONL file of conversations. Raises BadRequest naming every problem (the first 20 by
    their lines)."""
    problems: list[str] = []
    count = total = 0
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        count += 1
        for problem in _problems_of(line):
            total += 1
            if len(problems) < _SHOWN:
                problems.append(f"line {number}: {problem}")
    if count == 0:
        problems, total = ["the file has no lines"], 1
    if count > LINES_MAX:
        problems.insert(0, f"{count:,} lines are more than {LINES_MAX:,}")
        total += 1
    if problems:
        more = f" (and {total - len(problems):,} more)" if total > len(problems) else ""
        raise BadRequest(
            f"This file cannot be learned from: {'; '.join(problems)}{more}.",
            code="invalid_file",
            param="file",
            hint='Each line is {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}.',
        )
    return count


def keep(
    conn: sa.Connection,
    root: Path,
    now_ms: int,
    org_id: str,
    key_id: str,
    name: str,
    purpose: str,
    data: bytes,
    quota_bytes: int,
) -> StoredFile:
    """Store a checked upload. Raises TooLarge when the organization's quota is used up."""
    lines = check_chats(data)
    conn.execute(sa.select(tables.organization.c.id).where(tables.organization.c.id == org_id).with_for_update())
    table = tables.stored_file
    used = conn.execute(sa.select(sa.func.sum(table.c.size_bytes)).where(table.c.org_id == org_id)).scalar() or 0
    if int(used) + len(data) > quota_bytes:
        raise TooLarge(
            f"This organization's files may have {quota_bytes:,} bytes together; {int(used):,} are used.",
            code="file_quota_exceeded",
            hint="Delete files that are no longer needed.",
        )
    made = StoredFile(
        new_id("file", now_ms), org_id, key_id, _plain_name(name), purpose, len(data), lines,
        hashlib.sha256(data).hexdigest(), now_ms,
    )  # fmt: skip
    _write(path_of(root, made), data)
    conn.execute(table.insert().values(**msgspec.structs.asdict(made)))
    return made


def get(conn: sa.Connection, org_id: str, file_id: str) -> StoredFile:
    """An organization's upload. Raises NotFound, also for others'."""
    table = tables.stored_file
    row = conn.execute(sa.select(table).where(table.c.id == file_id, table.c.org_id == org_id)).first()
    if row is None:
        raise NotFound(f"There is no file {file_id[:60]!r}.", code="file_not_found", param="file_id")
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
        raise Conflict(f"The job {busy.id} reads this file.", hint="Cancel the job first.")
    conn.execute(tables.stored_file.delete().where(tables.stored_file.c.id == file_id))
    return found


def root_in(home: Path) -> Path:
    """Where the uploads of a home lie."""
    return home / "files"


def path_of(root: Path, file: StoredFile) -> Path:
    """Where its bytes lie."""
    return root / file.org_id / file.id


def _problems_of(line: bytes) -> list[str]:
    try:
        row: Any = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return [f"it is no JSON ({str(error)[:80]})"]
    if not isinstance(row, dict):
        return ["it is no object"]
    found = [f"the field {name[:40]!r} is not known here" for name in row if name != "messages"]
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        return [*found, 'it has no list "messages"']
    if len(messages) > _TURNS_MAX:
        return [*found, f"it has more than {_TURNS_MAX} messages"]
    for place, message in enumerate(messages):
        found += [f"messages[{place}] {problem}" for problem in _message_problems(message)]
    if not found and messages[-1]["role"] != "assistant":
        found.append("its last message is not the assistant's: there is nothing to learn after it")
    return found


def _message_problems(message: Any) -> list[str]:
    if not isinstance(message, dict):
        return ["is no object"]
    found = [
        f"has the field {name[:40]!r}, which is not learned" for name in message if name not in ("role", "content")
    ]
    if message.get("role") not in _ROLES:
        found.append(f"has a role that is none of {', '.join(_ROLES)}")
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        found.append("has no text as its content")
    elif "\0" in content:
        found.append("has a NUL character in its content")
    return found


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
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
