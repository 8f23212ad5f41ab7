"""The house's own secrets: files in `<home>/keys`, made on first use, readable by their owner alone (0600).

They live outside the database, so that a stolen database opens nothing. Losing the pepper makes every API key and
session void, which is why a damaged file is an error and never silently replaced.
"""

import contextlib
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tollway.kit import durable
from tollway.kit.errors import Unavailable

_BYTES: Final = 32
PEPPER: Final = "pepper"
SIGNING: Final = "signing.key"


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """The secrets of one home. `repr` shows nothing, so that none ends in a log."""

    pepper: bytes
    signing_seed: bytes

    @classmethod
    def load(cls, folder: Path) -> "Secrets":
        """Read the secrets in `folder`, making those that do not exist yet."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(pepper=_read_or_make(folder / PEPPER), signing_seed=_read_or_make(folder / SIGNING))


def problems(folder: Path) -> list[tuple[str, str]]:
    """What is wrong with the files, each with the command that fixes it. For the doctor; reads no secret."""
    found = []
    for path in (folder, folder / PEPPER, folder / SIGNING):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            mode = "700" if path.is_dir() else "600"
            found.append((f"{path} can be read by others", f"chmod {mode} {path}"))
    return found


def _read_or_make(path: Path) -> bytes:
    with contextlib.suppress(FileExistsError):
        if not path.exists():
            _create(path, secrets.token_hex(_BYTES).encode())
    return _read(path)


def _create(path: Path, content: bytes) -> None:
    """All or nothing, and never over an existing file: written aside, synced, then linked into place."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    durable.sync(path.parent)


def _read(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise Unavailable(
            f"The secret {path} cannot be read ({error.strerror}).",
            code="unreadable_secret",
            hint="Run as the user who owns the home, or restore the file from a backup.",
        ) from error
    with os.fdopen(handle, "rb") as file:
        if os.fstat(handle).st_mode & 0o077:
            raise Unavailable(
                f"The secret {path} can be read by others.", code="open_secret", hint=f"Run `chmod 600 {path}`."
            )
        text = file.read(4096).strip()
    try:
        value = bytes.fromhex(text.decode("ascii"))
    except (UnicodeDecodeError, ValueError):
        value = b""
    if len(value) != _BYTES:
        raise Unavailable(
            f"The secret {path} is damaged.",
            code="damaged_secret",
            hint="Restore it from a backup. Without it, the API keys issued so far cannot be recognised.",
        )
    return value
