"""One line of progress on stderr: what is being done, how far, how long it may take. Silent where nobody watches."""

import sys
import time
from types import TracebackType
from typing import Self

_EVERY_S = 0.1


class Progress:
    """`with Progress("Importing x") as progress: work(progress.bytes)`; one line, rewritten, on a terminal only."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._shown = sys.stderr.isatty()
        self._started = time.monotonic()
        self._last = 0.0

    def __enter__(self) -> Self:
        self._write(f"{self.what} …")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        took = time.monotonic() - self._started
        self._write(f"{self.what}: {'stopped' if kind else 'done'} in {took:.1f} s\n")

    def count(self, done: int, total: int) -> None:
        """So much of so much, whatever it counts."""
        self._tell(done, total, "")

    def bytes(self, done: int, total: int) -> None:
        """So many bytes of so many."""
        self._tell(done, total, f" of {total / 1e6:,.0f} MB")

    def _tell(self, done: int, total: int, of: str) -> None:
        now = time.monotonic()
        if now - self._last < _EVERY_S:
            return
        self._last = now
        share = done / total if total else 0.0
        left = f", {(now - self._started) * (1 - share) / share:.0f} s left" if share else ""
        self._write(f"{self.what} … {share:4.0%}{of}{left}")

    def _write(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(f"\r\x1b[2K{text}")
            sys.stderr.flush()
