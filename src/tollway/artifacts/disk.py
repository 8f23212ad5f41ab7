"""Files of packages on disk: listed without following links, hashed, copied while hashing, replaced in one step."""

import hashlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from tollway.artifacts.manifest import FILE_NAME

_CHUNK: Final = 1 << 20
Progress: TypeAlias = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


def identity(found: os.stat_result) -> list[int]:
    """What changes when a file does: device, inode, size, mtime and ctime."""
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def walk(folder: Path) -> tuple[dict[str, os.stat_result], list[str]]:
    """Regular files inside `folder` by relative path, and what else is there (links, devices, empty folders)."""
    files: dict[str, os.stat_result] = {}
    strange: list[str] = []
    pending = [folder]
    while pending:
        here = pending.pop()
        entries = sorted(os.scandir(here), key=lambda entry: entry.name) if here.is_dir() else []
        if not entries:
            strange.append(f"the folder {here.relative_to(folder).as_posix()} is empty")
        for entry in entries:
            path = Path(entry.path)
            relative = path.relative_to(folder).as_posix()
            found = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                pending.append(path)
            elif not stat.S_ISREG(found.st_mode):
                strange.append(f"{relative} is a link or a special file")
            elif relative != FILE_NAME:
                files[relative] = found
    return files, strange


def sha256_of(path: Path, progress: Progress | None = None, total: int = 0) -> str:
    """Hash a regular file; a link is refused by the system."""
    digest = hashlib.sha256()
    done = 0
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, max(total, done))
    return digest.hexdigest()


def copy(source: Path, target: Path, progress: Progress | None) -> tuple[str, int]:
    """Copy while hashing, so that what was hashed is what was stored; synced. Returns SHA-256 and size."""
    digest = hashlib.sha256()
    done = 0
    with source.open("rb") as reader, target.open("xb") as writer:
        total = os.fstat(reader.fileno()).st_size
        while chunk := reader.read(_CHUNK):
            writer.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, max(total, done))
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest(), done


def write_whole(path: Path, content: bytes) -> None:
    """Replace a small file in one step."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    aside.write_bytes(content)
    aside.rename(path)
