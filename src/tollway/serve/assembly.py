"""From a package on the shelf to an engine that can serve it: what the manifest says, in the engine's own words."""

from collections.abc import Sequence
from pathlib import Path

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
    )
