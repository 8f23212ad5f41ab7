"""GGUF files as bases: one becomes a Hugging Face folder, once, in a process with limits that trusts nothing of it.

    gguf_base.folder_of(Path("any.gguf"), home)      # for models.base("any.gguf")
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from tollway.artifacts import gguf
from tollway.forge.models import lm_gguf_import
from tollway.kit import sandbox
from tollway.kit.errors import BadRequest, TooLarge

_MOST_PARAMETERS: Final = 20_000_000_000
_ROOM_BYTES: Final = 2 << 30


def folder_of(path: Path, home: Path | None = None) -> Path:
    """The folder of a GGUF file, made the first time that these bytes are a base. Raises BadRequest."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache(home) / f"{path.stem}-{digest[:12]}"
    return folder if (folder / "model.safetensors").is_file() else import_gguf(path, folder)


def cache(home: Path | None) -> Path:
    """Where made bases are kept: in the home, else where the user keeps such things."""
    if home is not None:
        return home / "bases"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tollway" / "bases"


def import_gguf(path: Path, folder: Path) -> Path:
    """Write the Llama-style GGUF file at `path` as a Hugging Face folder in float32; all of it or nothing.

    The header is checked first, and the work is done in a limited process that can use little more memory than the weights.
    Raises BadRequest with the reason when the file is something else.
    """
    header = readable(path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _in_child(path, aside, header.parameters)
        with contextlib.suppress(OSError):  # another process was quicker: its folder is the same
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def readable(path: Path) -> gguf.Header:
    """The header of a file that can become a base, as far as a header says. Raises BadRequest."""
    header = gguf.inspect(path)
    if header.architecture != "llama" or header.parameters > _MOST_PARAMETERS:
        raise BadRequest(
            f"{path.name} is a {header.architecture} model of {header.parameters / 1e9:.1f} billion parameters.",
            code="unsupported_model",
            hint=f"Llama-style files (Llama, SmolLM2, TinyLlama) of up to {_MOST_PARAMETERS // 10**9} billion are imported.",
        )
    return header


def _in_child(path: Path, folder: Path, parameters: int) -> None:
    limits = sandbox.ResourceLimits(
        memory_bytes=_ROOM_BYTES + 12 * parameters,  # the file mapped, one float32 copy, and the largest tensor once more
        cpu_s=1200,
        wall_s=1800,
        file_bytes=_ROOM_BYTES + 5 * parameters,
    )
    orders = {"path": str(path.absolute()), "folder": str(folder.absolute())}
    try:
        sandbox.call(f"{lm_gguf_import.__name__}:written", orders, writable=folder, limits=limits)
    except TooLarge:
        raise lm_gguf_import.refusal(path, "reading it needs more memory or time than allowed") from None
