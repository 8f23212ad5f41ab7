"""What can be tried for a package on this machine: its own weights and others made of them, on every engine that reads them.

`of` writes the weights that are not there yet into a scratch folder; each candidate knows how to be started.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from tollway.artifacts.store import ModelPackage
from tollway.artifacts.tuning import Choice
from tollway.kit import log
from tollway.kit.errors import Conflict, TollwayError
from tollway.kit.formats import FORMATS, ROWS
from tollway.kit.settings import Settings
from tollway.serve.engines import Engine, LlamaCpp, OpenVinoGenai, Rows, cpu_cores, cpu_threads

_log = log.get("flows.tune")
_GGUF: Final = ("q8_0", "q4_0")
_OPENVINO: Final = {"openvino-f16": ("bf16",), "openvino-int8": ("int8", "bf16", "f32"), "openvino-int4": ("f32",)}
"""Formats of weights, and what is computed in, the most promising first."""
_EXAMPLES: Final = 24
Tell = Callable[[str], None]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One way to serve a package. `reference`: the float model that the others are held against, itself no candidate."""

    choice: Choice
    engine: Engine
    own: bool = False
    first: bool = True  # else tried only for the formats that did best
    reference: bool = False
    lost: tuple[str, ...] = ()  # parameters that calls may use on the package's own engine, and that this one refuses

    def __str__(self) -> str:
        more = "".join(f", {value}" for value in self.choice.options.values())
        return f"{self.choice.engine} {self.choice.format}, {self.choice.threads} threads{more}"


def of(
    settings: Settings, package: ModelPackage, scratch: Path, *, quick: bool, lose_nothing: bool, tell: Tell
) -> tuple[list[Candidate], str]:
    """All of them, the reference first, and why some could not be made. With `lose_nothing` none that refuses calls which the
    package's own engine answers. Raises Conflict where there is nothing to choose."""
    manifest = package.manifest
    if manifest.kind == "chat" and manifest.engine == "llama_cpp":
        return _languages(settings, package, scratch, quick=quick, lose_nothing=lose_nothing, tell=tell)
    if manifest.engine in ROWS:
        found = _rows(settings, package)
        if len(found) > 1:
            return found, ""
    raise Conflict(
        f"There is nothing to choose from for {package.ref}: {', '.join(manifest.formats)} on {manifest.engine}.",
        code="nothing_to_tune",
        hint='More formats in [convert] of its recipe, such as "onnx" and "openvino", give more to try.',
    )


def examples(features: Any) -> list[Any]:
    """Inputs of a call that this model plausibly gets."""
    return [_as_input(row) for row in features.example(_EXAMPLES)]


def _as_input(row: dict[str, Any]) -> Any:
    if set(row) == {"text"}:
        return row["text"]
    if "image" in row and not isinstance(row["image"], (str, bytes)):
        import base64
        import io

        from PIL import Image

        held = io.BytesIO()
        Image.fromarray(row["image"]).save(held, "PNG")
        return {"image": "data:image/png;base64," + base64.b64encode(held.getvalue()).decode("ascii")}
    return row


def _languages(
    settings: Settings, package: ModelPackage, scratch: Path, *, quick: bool, lose_nothing: bool, tell: Tell
) -> tuple[list[Candidate], str]:
    name, cores = package.manifest.name, cpu_cores()
    usual = settings.replica_threads or cpu_threads()
    counts = [usual, *(one for one in (1, cores) if one != usual and not settings.replica_threads)]
    found: list[Candidate] = []

    def gguf(folder: str, form: str, weights: Path, *, own: bool = False) -> None:
        for threads in counts:
            choice = Choice(engine="llama_cpp", format=form, threads=threads, folder=folder)
            engine = _llama(settings, package, weights, threads)
            found.append(Candidate(choice=choice, engine=engine, own=own and threads == usual, first=threads == usual))

    from tollway.forge.convert import gguf_variants  # numpy and more, which a gateway has no use for

    tell("writing the float reference")
    reference = gguf_variants.write(package.weights_path, _in(scratch, "reference") / "weights.gguf", "f16")
    choice = Choice(engine="llama_cpp", format="gguf-f16", threads=usual)
    reference_engine = _llama(settings, package, reference, usual)
    found.append(Candidate(choice=choice, engine=reference_engine, reference=True))
    own = (package.manifest.weights.quantisation or "gguf").lower()
    gguf("", f"gguf-{own}", package.weights_path, own=True)
    for precision in _GGUF[:1] if quick else _GGUF:
        if precision != own:
            tell(f"writing gguf-{precision}")
            folder = f"gguf-{precision}"
            gguf(
                folder,
                folder,
                gguf_variants.write(package.weights_path, _in(scratch, folder) / "weights.gguf", precision),
            )
    lost = reference_engine.caps.lost_on(_genai(settings, package, scratch, usual, "f32").caps)
    if lost and lose_nothing:
        return found, f"OpenVINO was not tried: calls would lose {', '.join(lost)}."
    folders, left_out = _openvino(package, scratch, quick=quick, tell=tell)
    for form, place in folders.items():
        for precision in _OPENVINO[form][:1] if quick else _OPENVINO[form]:
            for threads in counts:
                choice = Choice(
                    engine="openvino_genai", format=form, threads=threads, folder=form, options={"precision": precision}
                )
                engine = _genai(settings, package, place, threads, precision)
                found.append(Candidate(choice=choice, engine=engine, first=threads == usual, lost=lost))
    _log.info("candidates", model=name, count=len(found))
    return found, left_out


def _openvino(package: ModelPackage, scratch: Path, *, quick: bool, tell: Tell) -> tuple[dict[str, Path], str]:
    """Folders in OpenVINO's format, by the format's name; none, and why, where its libraries are missing or do not know the
    model."""
    from tollway.forge.convert import openvino_lm  # numpy, likewise

    if missing := openvino_lm.missing():
        brings = "`make setup-factory` and pip install 'tollway[openvino]' bring it"
        return {}, f"OpenVINO was not tried: {', '.join(missing)} not installed; {brings}."
    tell("writing OpenVINO's format")
    outs = {one: scratch / f"openvino-{one}" for one in (("f16", "int8") if quick else ("f16", "int8", "int4"))}
    try:
        openvino_lm.write_all(package.weights_path, outs)
    except TollwayError as error:
        return {}, f"OpenVINO was not tried: {error.message}"
    return {f"openvino-{one}": folder for one, folder in outs.items()}, ""


def _llama(settings: Settings, package: ModelPackage, weights: Path, threads: int) -> Engine:
    manifest = package.manifest
    return LlamaCpp(
        weights, manifest.name, version=manifest.version, model_context_tokens=manifest.context_tokens,
        has_chat_template=manifest.has_chat_template, template_has_tools=manifest.template_has_tools, slots=settings.replica_slots,
        context_tokens=settings.replica_context_tokens, threads=threads,
    )  # fmt: skip


def _genai(settings: Settings, package: ModelPackage, folder: Path, threads: int, precision: str) -> Engine:
    manifest = package.manifest
    return OpenVinoGenai(
        folder, manifest.name, version=manifest.version, model_context_tokens=manifest.context_tokens,
        has_chat_template=manifest.has_chat_template, slots=settings.replica_slots,
        context_tokens=settings.replica_context_tokens, threads=threads, precision=precision,
    )  # fmt: skip


def _rows(settings: Settings, package: ModelPackage) -> list[Candidate]:
    """Every format that the package holds: torch's own first, where it is there, then the other float ones."""
    manifest = package.manifest
    forms = [form for form in manifest.formats if FORMATS[form].served and FORMATS[form].engine in ROWS]
    found = []
    for form in sorted(forms, key=lambda form: (bool(FORMATS[form].rounding), FORMATS[form].engine != "torch")):
        engine = Rows(
            package.folder, manifest.name, version=manifest.version, kind=manifest.kind, input=manifest.input, format=form,
            context_tokens=manifest.context_tokens, embedding_dimensions=manifest.embedding_dimensions,
            weights_bytes=manifest.weights_in(form).size_bytes, threads=settings.replica_threads,
        )  # fmt: skip
        choice = Choice(engine=FORMATS[form].engine, format=form, threads=settings.replica_threads or cpu_cores())
        found.append(Candidate(choice=choice, engine=engine, own=form == manifest.weights.format))
    return found


def _in(scratch: Path, folder: str) -> Path:
    (scratch / folder).mkdir()
    return scratch / folder
