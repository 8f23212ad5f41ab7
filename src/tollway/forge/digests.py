"""What goes into a step, as a digest: equal digests are the same work done before."""

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_LIBRARIES: Final = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "tokenizers",
    "onnx",
    "onnxruntime",
    "scikit-learn",
    "numpy",
)


def digest_of(inputs: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of what goes into a step (pydantic models included)."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.lru_cache(maxsize=32)
def code_of(rooms: tuple[str, ...]) -> str:
    """A digest of the source files of some of our packages and of the versions of the libraries they stand on."""
    root = Path(__file__).resolve().parents[1]
    seen = hashlib.sha256()
    for room in sorted(rooms):
        where = root / room.replace(".", "/")
        files = sorted(where.rglob("*.py")) if where.is_dir() else [where.with_suffix(".py")]
        for file in files:
            seen.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    for library in _LIBRARIES:
        try:
            seen.update(f"{library} {importlib.metadata.version(library)}".encode())
        except importlib.metadata.PackageNotFoundError:
            continue
    return seen.hexdigest()[:16]


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    return str(value)
