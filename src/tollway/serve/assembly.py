"""From a package on the shelf to an engine that can serve it: what the manifest says, in the engine's own words."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tollway.artifacts.store import ModelPackage
from tollway.kit.settings import Settings
from tollway.serve.engines import Engine, LlamaCpp, Rows
from tollway.serve.models import Model


def llama_cpp(model: Model, package: ModelPackage, settings: Settings, adapters: Sequence[Path]) -> Engine:
    """A GGUF package, with the adapters that share it."""
    manifest = package.manifest
    return LlamaCpp(
        Path(package.weights_path),
        model.name,
        version=manifest.version,
        kind="embedding" if model.kind == "embedding" else "chat",
        model_context_tokens=manifest.context_tokens,
        embedding_dimensions=manifest.embedding_dimensions,
        has_chat_template=manifest.has_chat_template,
        template_has_tools=manifest.template_has_tools,
        slots=settings.replica_slots,
        context_tokens=settings.replica_context_tokens,
        threads=settings.replica_threads,
        adapters=adapters,
    )


def rows(model: Model, package: ModelPackage, settings: Settings) -> Engine:
    """A package that answers row by row, in any format of `formats.ROWS`."""
    manifest = package.manifest
    options = _options(package) if model.kind in ("classification", "regression", "image-generation") else {}
    return Rows(
        package.folder,
        model.name,
        version=manifest.version,
        kind=model.kind,
        input="image" if model.kind == "image-generation" else manifest.input,
        format=manifest.weights.format,
        context_tokens=manifest.context_tokens,
        embedding_dimensions=manifest.embedding_dimensions,
        weights_bytes=manifest.weights.size_bytes,
        threads=settings.replica_threads,
        labels=manifest.labels,
        pairs=bool(options.get("pair")),
        image_size=int(options.get("size") or 0),
    )


def _options(package: ModelPackage) -> dict[str, Any]:
    """How its features were learnt; a package from elsewhere may not say."""
    try:
        told = json.loads((package.folder / "features.json").read_text(encoding="utf-8")).get("options")
    except (OSError, ValueError, AttributeError):
        return {}
    return told if isinstance(told, dict) else {}
