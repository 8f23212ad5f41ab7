"""The usage log of a device: one line of JSON an entry, appended and on the disk before an answer is given.

Several processes may write (a server, a command beside it): a lock keeps them in turn. A line that was cut off by a loss of
power was never answered; it is dropped when the log is opened again.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tollway.edge import chain
from tollway.kit.errors import BadRequest, Conflict

FILE_NAME: Final = "usage.jsonl"
SYNCED: Final = "synced.json"


class UsageLog:
    """The log in a folder. `count` is safe from threads and processes."""

    def __init__(self, folder: Path, key: str, device: str, digest: str) -> None:
        self._path, self._synced = folder / FILE_NAME, folder / SYNCED
        self._key = key
        self._beginning = chain.beginning(key, device, digest)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadRequest(
                f"The usage log cannot be kept in {folder} ({error.strerror}).",
                hint="Name a folder that can be written: --state DIR.",
            ) from error

    def count(self, operation: str, meter: str, units: int) -> dict[str, Any]:
        """Append what a call used; on the disk when this returns. Raises Conflict for a log that was changed."""
        with self._locked() as file:
            number, before = self._last(file)
            entry: dict[str, Any] = {
                "n": number + 1,
                "at_ms": time.time_ns() // 1_000_000,
                "operation": operation,
                "meter": meter,
                "units": units,
            }
            entry["seal"] = chain.sealed(self._key, before, entry)
            file.seek(0, os.SEEK_END)
            file.write(json.dumps(entry, separators=(",", ":")).encode("ascii") + b"\n")
            file.flush()
            os.fsync(file.fileno())
            return entry

    def after(self, number: int, most: int) -> list[dict[str, Any]]:
        """Up to `most` entries behind number `number`."""
        found: list[dict[str, Any]] = []
        for entry in self.entries():
            if entry["n"] > number:
                found.append(entry)
                if len(found) == most:
                    break
        return found

    def entries(self) -> Iterator[dict[str, Any]]:
        """All whole entries, as they stand; not checked."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield _read(line)

    def verify(self) -> int:
        """Check the whole chain; how many entries it has. Raises Conflict for one that was changed, or cut off at its end."""
        return int(self.verified()["entries"])

    def verified(self) -> dict[str, Any]:
        """The same, with what was seen: how many entries, from when to when, what they count, sealed by which key."""
        entries = list(self.entries())
        chain.check(self._key, self._beginning, 0, entries)
        if len(entries) < self.synced():
            raise Conflict(
                f"The usage log ends at entry {len(entries)}, but {self.synced()} were sent already: its end was cut off.",
                code="log_tampered",
                hint="Restore it from a copy that has them, or have the device exported anew: what was sent stays in the books.",
            )
        units: dict[str, int] = {}
        for entry in entries:
            units[entry["meter"]] = units.get(entry["meter"], 0) + entry["units"]
        return {
            "entries": len(entries),
            "from": _moment(entries[0]["at_ms"]) if entries else None,
            "to": _moment(entries[-1]["at_ms"]) if entries else None,
            "counted": units,
            "chain": "intact",
            "key": chain.fingerprint(self._key),
        }

    def synced(self) -> int:
        """The number of the last entry that the shop has."""
        try:
            return int(json.loads(self._synced.read_text(encoding="utf-8"))["n"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def note_synced(self, number: int) -> None:
        """Remember what the shop has."""
        aside = self._synced.with_suffix(".new")
        aside.write_text(json.dumps({"n": number}), encoding="utf-8")
        aside.replace(self._synced)

    # -- inside ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[Any]:
        with self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _last(self, file: Any) -> tuple[int, str]:
        """Number and seal of the last whole entry; what stands behind it is cut off."""
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return 0, self._beginning
        start = max(0, size - 4096)
        file.seek(start)
        tail = file.read()
        if not tail.endswith(b"\n"):  # power was lost in the middle of a line: that call was not answered
            end = tail.rfind(b"\n") + 1
            file.truncate(start + end)
            tail = tail[:end]
            if not tail:
                return 0, self._beginning
        entry = _read(tail.rstrip(b"\n").rpartition(b"\n")[2])
        return int(entry["n"]), str(entry["seal"])


def _moment(at_ms: int) -> str:
    """By the device's own clock; it may be wrong, which the shop puts right."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")


def _read(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        if isinstance(entry, dict) and isinstance(entry.get("n"), int) and "seal" in entry:
            return entry
    except ValueError:
        pass
    raise Conflict(
        "The usage log holds a line that is no entry.",
        code="log_tampered",
        hint="Restore it from a copy, or have the device exported anew: what was sent stays in the books.",
    )
