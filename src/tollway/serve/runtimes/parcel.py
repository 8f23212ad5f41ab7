"""A package folder on its way to a node that cannot see it: named by the digest of its contents, sent in pieces, kept there.

sender                                          node
glance(folder) ───────────────────────────────► sees(folder, glance): the same path, the same files? then nothing is sent
contents(folder) -> digest, files ────────────► has(digest)?
pieces(folder, files) ────────────────────────► Incoming(digest).add(…); .keep(files) checks every file, then renames
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PIECE_BYTES: Final = 32 * 1024 * 1024
_SMALL_BYTES: Final = 256 * 1024


def glance(folder: Path) -> str:
    """What a folder holds, at a cheap look: names, sizes and the contents of small files (the signed manifest among them)."""
    digest = hashlib.sha256()
    for path in _files(folder):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}\0{size}\0".encode())
        if size <= _SMALL_BYTES:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def sees(folder: Path, seen: str) -> bool:
    """Whether this machine has the same folder at the same path."""
    try:
        return folder.is_dir() and glance(folder) == seen
    except OSError:
        return False


def contents(folder: Path) -> tuple[str, dict[str, str]]:
    """A folder's digest, and its files with theirs."""
    files = {}
    for path in _files(folder):
        with path.open("rb") as file:
            files[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digest_of(files), files


def pieces(folder: Path, files: dict[str, str]) -> Iterator[tuple[str, int, bytes]]:
    """A folder's files in pieces: name, offset, bytes."""
    for name in files:
        with (folder / name).open("rb") as file:
            offset = 0
            while True:
                data = file.read(PIECE_BYTES)
                if data or not offset:
                    yield name, offset, data
                offset += len(data)
                if len(data) < PIECE_BYTES:
                    break


def cache() -> Path:
    """Where a node keeps what was sent to it."""
    root = os.environ.get("TOLLWAY_NODE_CACHE") or f"{tempfile.gettempdir()}/tollway-packages-{os.getuid()}"
    folder = Path(root)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder


class Incoming:
    """A folder that is being sent here."""

    def __init__(self, digest: str) -> None:
        self._digest = digest
        self._aside = Path(tempfile.mkdtemp(prefix=".incoming-", dir=cache()))

    def add(self, name: str, offset: int, data: bytes) -> None:
        """A piece."""
        path = self._inside(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(data)

    def keep(self, files: dict[str, str]) -> Path:
        """Check every file and give the folder its name. Raises ValueError for anything that is not as it was sent."""
        try:
            if contents(self._aside) != (self._digest, files) or _digest_of(files) != self._digest:
                raise ValueError("the package that arrived is not the one that was sent")
            place = cache() / self._digest
            try:
                self._aside.rename(place)
            except OSError:
                if not place.is_dir():  # else another replica of this node was faster
                    raise
            return place
        finally:
            self.drop()

    def drop(self) -> None:
        """Nothing came of it."""
        shutil.rmtree(self._aside, ignore_errors=True)

    def _inside(self, name: str) -> Path:
        path = self._aside / name
        if not path.resolve().is_relative_to(self._aside.resolve()):
            raise ValueError("a file's name leads out of its package")
        return path


def _digest_of(files: dict[str, str]) -> str:
    return hashlib.sha256("".join(f"{name}\0{files[name]}\n" for name in sorted(files)).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
