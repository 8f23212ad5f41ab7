"""Files that outlive a loss of power: what they hold, and under which name, is on the disk when these functions return."""

import os
from pathlib import Path


def write(path: Path, content: str | bytes) -> None:
    """The whole of it or what was there before: written aside, then put in its place."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """A file's bytes, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """A folder with all that is in it."""
    for path in folder.rglob("*"):
        if path.is_file() or path.is_dir():  # not where a link leads nowhere
            sync(path)
    sync(folder)
