"""From a package on the shelf to an engine that can serve it: what the manifest says, in the engine's own words."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tollway.artifacts import tuning
from tollway.artifacts.store import ModelPackage
from tollway.artifacts.tuning import Choice
from tollway.kit.errors import Conflict
from tollway.kit.formats import ROWS, for_engine
from tollway.kit.settings import Settings
from tollway.serve.engines import Engine, LlamaCpp, OpenVinoGenai, Rows, Speech
from tollway.serve.models import Model


def engine(model: Model, package: ModelPackage, settings: Settings, adapters: Sequence[Path] = ()) -> Engine:
    """What executes a model of a package on this machine: the engine that was chosen by name, else as it was tuned here,
    else as its manifest says."""
    tuned = tuning.choice(package)
    if model.engine in ROWS:
        return rows(model, package, settings, tuned)
    if model.engine == "speech":
        return speech(model, package, settings)
    if tuned is not None and tuned.engine == "openvino_genai" and not adapters and _as_measured(settings, tuned):
        return openvino_genai(model, package, settings, tuned)
    return llama_cpp(model, package, settings, adapters, tuned)


def llama_cpp(
    model: Model, package: ModelPackage, settings: Settings, adapters: Sequence[Path], tuned: Choice | None = None
) -> Engine:
    """A GGUF package, with the adapters that share it."""
    manifest = package.manifest
    weights, threads = package.weights_path, settings.replica_threads
    if tuned is not None and tuned.engine == "llama_cpp":
        weights = _tuned_weights(package, tuned) or weights
        threads = threads or tuned.threads
    return LlamaCpp(
        Path(weights),
        model.name,
        version=manifest.version,
        kind="embedding" if model.kind == "embedding" else "chat",
        model_context_tokens=manifest.context_tokens,
        vocabulary=manifest.vocabulary,
        embedding_dimensions=manifest.embedding_dimensions,
        has_chat_template=manifest.has_chat_template,
        template_has_tools=manifest.template_has_tools,
        slots=settings.replica_slots,
        context_tokens=settings.replica_context_tokens,
        threads=threads,
        adapters=adapters,
    )


def openvino_genai(model: Model, package: ModelPackage, settings: Settings, tuned: Choice) -> Engine:
    """The throughput engine, on weights that were made of the package on this machine."""
    manifest = package.manifest
    return OpenVinoGenai(
        tuning.tuned_folder(package) / tuned.folder,
        model.name,
        version=manifest.version,
        model_context_tokens=manifest.context_tokens,
        has_chat_template=manifest.has_chat_template,
        slots=settings.replica_slots,
        context_tokens=settings.replica_context_tokens,
        threads=tuned.threads,
        precision=str(tuned.options.get("precision", "f32")),
    )


def _as_measured(settings: Settings, tuned: Choice) -> bool:
    """Whether it would run with the threads that it was measured with: with others it may not even start."""
    return settings.replica_threads in (0, tuned.threads)


def _tuned_weights(package: ModelPackage, tuned: Choice) -> Path | None:
    """The file made for this machine; None: the package's own."""
    return next((tuning.tuned_folder(package) / tuned.folder / name for name in tuned.files), None)


def rows(model: Model, package: ModelPackage, settings: Settings, tuned: Choice | None = None) -> Engine:
    """A package that answers row by row, in any format of `formats.ROWS`."""
    manifest = package.manifest
    form = manifest.weights.format
    if model.chosen_engine:
        form = for_engine(manifest.formats, model.chosen_engine)
        if not form:
            raise Conflict(
                f"{package.ref}, as it lies on this machine, has no format for {model.chosen_engine}.",
                code="unsupported_engine",
                hint="All gateways of a shop need the same packages: copy it from where it was deployed.",
            )
    elif tuned is not None and tuned.format in manifest.formats:
        form = tuned.format
    options = _options(package) if model.kind in ("classification", "regression", "image-generation") else {}
    return Rows(
        package.folder,
        model.name,
        version=manifest.version,
        kind=model.kind,
        input="image" if model.kind == "image-generation" else manifest.input,
        format=form,
        context_tokens=manifest.context_tokens,
        embedding_dimensions=manifest.embedding_dimensions,
        weights_bytes=manifest.weights_in(form).size_bytes,
        threads=settings.replica_threads,
        labels=manifest.labels,
        pairs=bool(options.get("pair")),
        image_size=int(options.get("size") or 0),
        explain_inside="pt2" in manifest.formats,
    )


def speech(model: Model, package: ModelPackage, settings: Settings) -> Engine:
    """A package that hears or speaks; its labels are the languages, or the voices."""
    return Speech(
        package.folder,
        model.name,
        version=package.manifest.version,
        kind=model.kind,
        labels=package.manifest.labels,
        seconds_max=settings.audio_seconds_max,
        threads=settings.replica_threads,
    )


def _options(package: ModelPackage) -> dict[str, Any]:
    """How its features were learnt; a package from elsewhere may not say."""
    try:
        told = json.loads((package.folder / "features.json").read_text(encoding="utf-8")).get("options")
    except (OSError, ValueError, AttributeError):
        return {}
    return told if isinstance(told, dict) else {}
