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


def stamp(path: Path) -> list[tuple[str, int, int]]:
    """What lies at a path that anybody may write to, as it is now: names, sizes, times. [] where there is nothing."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    seen = [(one, one.stat()) for one in files]
    return [(str(one), state.st_size, state.st_mtime_ns) for one, state in seen]


def code_of(rooms: tuple[str, ...]) -> str:
    """A digest of the source files of some of our packages and of the versions of the libraries they stand on."""
    seen = hashlib.sha256()
    for room in sorted(rooms):
        seen.update(_room(room))
    seen.update(_libraries())
    return seen.hexdigest()[:16]


@functools.cache
def _room(room: str) -> bytes:
    """Several steps stand on the same room: it is read once."""
    root = Path(__file__).resolve().parents[1]
    where = root / room.replace(".", "/")
    seen = hashlib.sha256()
    for file in sorted(where.rglob("*.py")) if where.is_dir() else [where.with_suffix(".py")]:
        seen.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return seen.digest()


@functools.cache
def _libraries() -> bytes:
    found = []
    for library in _LIBRARIES:
        try:
            found.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return "\n".join(found).encode()


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    return str(value)
