"""What a batch has answered, on disk, line by line: an answer is durable here before it is billed.

    {"line": 7, "good": true, "row": {…the line of the output file…}, "event": {…its usage event…}}

A gateway that was killed leaves a journal whose last line may be torn; the next one cuts that off, bills the answers that
were not billed yet (their events stand beside them) and asks for the lines that are missing. Many answers share one fsync.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from tollway.sell.metering import UsageEvent

_NAME: Final = "answers.jsonl"


class Entry(msgspec.Struct, frozen=True):
    """One line of the input, answered."""

    line: int
    good: bool
    row: msgspec.Raw
    event: UsageEvent | None


class Journal:
    """The answers of one batch. Use it from one event loop; `open` first, `close` last."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._file: BinaryIO | None = None
        self._waiting: list[tuple[bytes, int, bool, asyncio.Future[None]]] = []
        self._flush: asyncio.Task[None] | None = None
        self.lines: set[int] = set()
        self.good = 0

    @property
    def bad(self) -> int:
        """Lines that were answered with an error."""
        return len(self.lines) - self.good

    def open(self) -> None:
        """Read what an earlier gateway left, without a torn end, and go on behind it. Blocks: call it in a thread."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path.touch(mode=0o600)
        whole = 0
        with self._path.open("rb") as file:
            for line in file:
                entry = _read(line)
                if entry is None:
                    break
                whole += len(line)
                self._note(entry.line, entry.good)
        self._file = self._path.open("r+b")
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)

    def entries(self) -> Iterator[Entry]:
        """Everything answered so far, as it came. Blocks."""
        with self._path.open("rb") as file:
            for line in file:
                entry = _read(line)
                if entry is None:
                    return
                yield entry

    async def keep(self, line: int, good: bool, row: Any, event: UsageEvent | None) -> None:
        """Durable when this returns, whoever still waits for it."""
        data = msgspec.json.encode({"line": line, "good": good, "row": row, "event": event}) + b"\n"
        kept = asyncio.get_running_loop().create_future()
        self._waiting.append((data, line, good, kept))
        if self._flush is None:
            self._flush = asyncio.create_task(self._write())
        await asyncio.shield(kept)

    async def close(self) -> None:
        """Write what waits."""
        if self._flush is not None:
            with contextlib.suppress(OSError):
                await asyncio.shield(self._flush)
        if self._file is not None:
            self._file.close()

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    await asyncio.to_thread(self._append, b"".join(data for data, *_ in batch))
                except Exception as error:  # noqa: BLE001 - raised where it is awaited; those who come next are not left waiting
                    for *_, kept in batch:
                        kept.set_exception(error)
                    continue
                for _, line, good, kept in batch:
                    self._note(line, good)
                    kept.set_result(None)
        finally:
            self._flush = None

    def _append(self, data: bytes) -> None:
        file = self._file
        assert file is not None
        before = file.tell()
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):  # a full disk: nothing of it counts, and no line is torn in the middle
                file.seek(before)
                file.truncate(before)
            raise

    def _note(self, line: int, good: bool) -> None:
        if line not in self.lines:
            self.lines.add(line)
            self.good += good


def _read(line: bytes) -> Entry | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


_decoder = msgspec.json.Decoder(Entry)
