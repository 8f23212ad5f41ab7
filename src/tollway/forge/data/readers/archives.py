"""Zip and tar archives from outside: unpacked whole, or refused with everything that is wrong with them.

Refused: paths that leave the folder, absolute paths, links, devices, names used twice, encrypted members, and bombs
(bytes are counted while they are written; what the headers promise is not believed). Members that run no risk but are no
data (resource forks, editor leftovers) are left out.
"""

import bz2
import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from tollway.forge.data.readers.found import Reading

_MEMBERS_MAX: Final = 2_000_000
_RATIO_MAX: Final = 200
_RATIO_FROM: Final = 64 << 20
"""A ratio says nothing about small archives: text of one letter packs a thousandfold."""
_CHUNK: Final = 1 << 20
_BROKEN: Final = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile,
                  NotImplementedError, RuntimeError)  # fmt: skip


class TooBig(Exception):
    """More bytes came out than are allowed."""


def is_archive(path: Path) -> bool:
    """By content, not by name. A `.npz` is a zip as well, but is read as arrays."""
    if path.suffix.lower() in (".npz", ".docx", ".xlsx", ".pt", ".pth"):
        return False
    return zipfile.is_zipfile(path) or _is_tar(path)


def is_single(path: Path) -> str:
    """gz, bz2 or xz around one file; else nothing."""
    with path.open("rb") as file:
        head = file.read(6)
    return next((kind for kind, magic in (("gz", b"\x1f\x8b"), ("bz2", b"BZh"), ("xz", b"\xfd7zXZ\0")) if head.startswith(magic)), "")


def _is_tar(path: Path) -> bool:
    try:
        with tarfile.open(path) as archive:
            return archive.next() is not None or path.name.endswith(".tar")
    except _BROKEN:
        return False


def unpack_single(path: Path, into: Path, reading: Reading) -> Path | None:
    """The one file inside, without its last suffix."""
    opener: Any = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[is_single(path)]
    target = into / (path.stem if path.suffix else f"{path.name}.out")
    budget = Budget(path.stat().st_size, reading)
    try:
        with opener(path) as source, target.open("wb") as sink:
            budget.copy(source, sink)
    except TooBig as error:
        reading.problems.add("bomb", "the file unpacks to more than allowed", file=path.name, shown=str(error))
    except _BROKEN as error:
        reading.problems.add("archive", "the compressed file is damaged", file=path.name, shown=str(error)[:160])
    else:
        return target
    return None


class Budget:
    """Counts the bytes that come out of an archive."""

    def __init__(self, packed: int, reading: Reading) -> None:
        self.packed, self.reading, self.out = packed, reading, 0
        self.most = reading.options.unpacked_bytes_max

    def copy(self, source: IO[bytes], sink: IO[bytes]) -> None:
        """Copy, or raise TooBig before the disk is full."""
        while chunk := source.read(_CHUNK):
            self.out += len(chunk)
            if self.out > self.most:
                raise TooBig(f"more than {self.most:,} bytes")
            if self.out > _RATIO_FROM and self.out > _RATIO_MAX * max(self.packed, 1):
                raise TooBig(f"more than {_RATIO_MAX} times its size ({self.packed:,} bytes packed)")
            sink.write(chunk)


def unpack(path: Path, into: Path, reading: Reading) -> bool:
    """Unpack everything below `into`. False, with all problems listed, when the archive is not to be trusted."""
    try:
        members = list(_zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path))
    except _BROKEN as error:
        reading.problems.add("archive", "the archive is damaged", file=path.name, shown=str(error)[:160])
        return False
    before = reading.problems.errors
    _judge(members, reading)
    if reading.problems.errors > before:
        return False
    try:
        return _write(path, [one for one in members if one["kind"] == "file" and not _leftover(one["name"])], into, reading)
    except TooBig as error:
        reading.problems.add("bomb", "the archive unpacks to more than allowed", file=path.name, shown=str(error))
    except _BROKEN as error:
        reading.problems.add("archive", "the archive is damaged", file=path.name, shown=str(error)[:160])
    shutil.rmtree(into, ignore_errors=True)
    return False


def _zip_members(path: Path) -> Iterator[dict[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            mode = entry.external_attr >> 16
            link = (mode & 0o170000) == 0o120000
            # orig_filename: the name before zipfile cut it at a NUL byte or turned its slashes
            kind = "link" if link else "folder" if entry.is_dir() else "encrypted" if entry.flag_bits & 1 else "file"
            yield {"name": entry.orig_filename, "kind": kind, "size": entry.file_size}


def _tar_members(path: Path) -> Iterator[dict[str, Any]]:
    with tarfile.open(path) as archive:
        for entry in archive:
            kind = "folder" if entry.isdir() else "file" if entry.isreg() else "link" if entry.issym() or entry.islnk() else "device"
            yield {"name": entry.name, "kind": kind, "size": entry.size}


def _judge(members: list[dict[str, Any]], reading: Reading) -> None:
    problems, seen = reading.problems, set()
    if len(members) > _MEMBERS_MAX:
        problems.add("bomb", f"the archive has {len(members):,} members, more than {_MEMBERS_MAX:,}")
    total = sum(max(one["size"], 0) for one in members)
    if total > reading.options.unpacked_bytes_max:
        problems.add("bomb", f"the archive says it unpacks to {total:,} bytes, more than allowed")
    for one in members:
        name, plain = one["name"], one["name"].replace("\\", "/")
        parts = PurePosixPath(plain).parts
        if plain.startswith("/") or ".." in parts or (len(plain) > 1 and plain[1] == ":"):
            problems.add("traversal", "a member would land outside the folder", shown=repr(name)[:160])
        elif "\0" in name or any(len(part.encode("utf-8", "replace")) > 255 for part in parts) or len(name) > 1024:
            problems.add("name", "a member's name cannot be a file's", shown=repr(name)[:160])
        elif one["kind"] == "link":
            problems.add("link", "a member is a link", shown=repr(name)[:160])
        elif one["kind"] == "device":
            problems.add("device", "a member is neither a file nor a folder", shown=repr(name)[:160])
        elif one["kind"] == "encrypted":
            problems.add("encrypted", "a member is encrypted", shown=repr(name)[:160])
        elif one["kind"] == "file":
            if str(PurePosixPath(plain)) in seen:
                problems.add("twice", "a name is there twice", shown=repr(name)[:160])
            seen.add(str(PurePosixPath(plain)))


def _leftover(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or not parts or parts[-1].startswith("._") or parts[-1] in (".DS_Store", "Thumbs.db")


def _write(path: Path, members: list[dict[str, Any]], into: Path, reading: Reading) -> bool:
    budget = Budget(path.stat().st_size, reading)
    wanted = {one["name"] for one in members}
    done = 0

    def keep(name: str, source: IO[bytes]) -> None:
        nonlocal done
        target = into / PurePosixPath(name.replace("\\", "/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        with source, target.open("xb") as sink:
            budget.copy(source, sink)
        done += 1
        if done % 500 == 0:
            reading.progress(done, len(members))

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.orig_filename in wanted and not entry.is_dir():
                    keep(entry.orig_filename, archive.open(entry))
    else:
        with tarfile.open(path) as tar:
            for member in tar:
                source = tar.extractfile(member) if member.isreg() and member.name in wanted else None
                if source is not None:
                    keep(member.name, source)
    return True
