"""What lies in a folder that is to become a package: which file is what, and what may not come in.

Weights are known by their ending. Nothing that is unpickled when it is loaded is let in, whatever its name says.
"""

import contextlib
import json
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any, Final

from tollway.artifacts import manifest as manifests
from tollway.artifacts.manifest import File, Manifest
from tollway.kit import formats
from tollway.kit.errors import BadRequest

_PICKLED: Final = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".bin")
_NAMED: Final = {
    "features.json": ("features", "json"),
    "tokenizer.json": ("tokenizer", "json"),
    "model.toml": ("config", "toml"),
    "config.json": ("config", "json"),
    "card.md": ("card", "markdown"),
    "report.html": ("report", "html"),
    "metrics.json": ("metrics", "json"),
    "training.json": ("metrics", "json"),
    "parity.json": ("parity", "json"),
    "example.json": ("example", "json"),
}


def role_of(path: str, all_paths: set[str]) -> tuple[str, str]:
    """The role and format of a file by its place and ending. Raises BadRequest for what is pickled."""
    pure = PurePosixPath(path)
    if pure.name in _NAMED:
        return _NAMED[pure.name]
    if pure.suffix == ".bin" and str(pure.with_suffix(".xml")) in all_paths:
        return "part", formats.of_file(pure.with_suffix(".xml")) or ""
    if pure.name == "model.bin" and str(pure.with_name("vocabulary.txt")) in all_paths:
        return "weights", "ctranslate2"  # plain numbers with names; its engine reads nothing else
    if pure.suffix in _PICKLED:
        raise BadRequest(
            f"{path} may run code when it is loaded.",
            code="pickled_weights",
            hint="Save the weights as .safetensors and try again.",
        )
    form = formats.of_file(pure)
    if form is not None:
        return "weights", form
    if pure.suffix == ".data" and str(pure.with_suffix("")) in all_paths:
        return "part", formats.of_file(pure.with_suffix("")) or ""
    if pure.stem.lower() in ("licence", "license", "notice"):
        return "licence", "text"
    return "other", pure.suffix.removeprefix(".")


def described(copied: dict[str, tuple[str, int]]) -> tuple[File, ...]:
    """The files of a package from (SHA-256, size) by path. One file a format is its weights: the one nearest the top."""
    files = []
    taken: set[str] = set()
    for path in sorted(copied, key=lambda path: (path.count("/"), len(path), path)):
        role, form = role_of(path, set(copied))
        if role == "weights" and form in taken:
            role = "other"
        elif role == "weights":
            taken.add(form)
        sha256, size_bytes = copied[path]
        files.append(File(path=path, role=role, format=form, size_bytes=size_bytes, sha256=sha256))
    return tuple(sorted(files, key=lambda file: file.path))


def served_format(files: tuple[File, ...], wanted: str) -> str:
    """The format to serve: the wanted one, else the best there is. Raises BadRequest when there is none."""
    there = [file.format for file in files if file.role == "weights"]
    if wanted and wanted not in there:
        raise BadRequest(
            f"There are no weights in the format {wanted!r} here, only {', '.join(sorted(there)) or 'none at all'}.",
            code="invalid_package",
        )
    found = wanted or next((form for form in formats.FORMATS if form in there), "")
    if not found:
        raise BadRequest(
            "There are no weights here.",
            code="invalid_package",
            hint=f"A package has a file ending in {', '.join(formats.ENDINGS)}.",
        )
    return found


def said_in(folder: Path) -> dict[str, Any]:
    """What model.toml and features.json say of a model: architecture, parameters, labels, how much of a text it reads."""
    told: dict[str, Any] = {}
    with contextlib.suppress(OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        spec = tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))
        told["architecture"] = spec.get("architecture")
        told["parameters"] = spec.get("parameters")
    with contextlib.suppress(OSError, ValueError):
        features = json.loads((folder / "features.json").read_text(encoding="utf-8"))
        target, options = features.get("target"), features.get("options")
        told["labels"] = tuple(map(str, target.get("labels") or ())) if isinstance(target, dict) else ()
        told["context_tokens"] = options.get("max_length") if isinstance(options, dict) else 0
    kinds = {"architecture": str, "parameters": int, "labels": tuple, "context_tokens": int}
    return {field: value for field, value in told.items() if value and type(value) is kinds[field]}


def listed(folder: Path, paths: dict[str, Path]) -> dict[str, Path]:
    """The files to take in: everything in `folder`, and `paths` (their place in the package -> where they are now).
    Raises BadRequest for links, special files and places outside the package."""
    from tollway.artifacts import disk

    found, strange = disk.walk(folder) if folder.is_dir() else ({}, [f"{folder} is not a folder"])
    strange = [one for one in strange if "is empty" not in one]
    taken = {path: folder / path for path in found} | paths
    strange += [f"the path {path!r} leaves the package" for path in taken if not manifests.is_safe_path(path)]
    if strange:
        raise BadRequest("This folder cannot become a package: " + "; ".join(strange) + ".", code="invalid_package")
    return taken


def card_of(manifest: Manifest) -> str:
    """A plain model card from what is known."""
    weights = manifest.weights
    rows = [
        ("Kind", manifest.kind),
        ("Task", manifest.task),
        ("Labels", ", ".join(manifest.labels[:20]) + (" …" if len(manifest.labels) > 20 else "")),
        ("Architecture", manifest.architecture),
        ("Parameters", f"{manifest.parameters:,}"),
        ("Context", f"{manifest.context_tokens:,} tokens" if manifest.context_tokens else ""),
        ("Formats", ", ".join(manifest.formats)),
        ("Metrics", ", ".join(f"{name} {value}" for name, value in manifest.metrics.items())),
        ("Made by", manifest.lineage.run),
        ("Trained on", ", ".join(manifest.lineage.datasets)),
        ("Parent", manifest.lineage.parent),
        ("Quantisation", weights.quantisation),
        ("Licence", manifest.licence or "not stated by the source"),
        ("Source", " ".join(filter(None, (manifest.source.package, manifest.source.file)))),
        ("Weights SHA-256", weights.sha256),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows if value)
    about = manifest.description or "No description was given when this model was imported."
    return f"# {manifest.title}\n\n{about}\n\n| | |\n|---|---|\n{table}\n"
