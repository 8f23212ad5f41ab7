"""The shelf of model packages: `<home>/packages/<name>/<version>/`, written once, checked before use.

    shelf = store.Store(home / "packages", signing.Signer(seed), clock)
    package = shelf.import_gguf(path, "smollm2-135m", licence="apache-2.0")
    shelf.verify(package).require()

A package appears whole or not at all: it is copied aside, synced and renamed into place. The same weights imported
twice under a name are the same version; version numbers are never used again.

Checking means hashing every byte. To keep the second start fast, the hash of a file that matched is noted together
with its device, inode, size, mtime and ctime, and trusted while all five stay the same (ctime moves on every write and
no program can set it back). The notes are sealed with a key from outside the packages folder: whoever can write
packages cannot forge them. `verify(..., deep=True)` ignores the notes; use it against silent disk faults.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from tollway.artifacts import gguf
from tollway.artifacts import manifest as manifests
from tollway.artifacts.manifest import File, Generation, Lineage, Manifest, Source
from tollway.artifacts.signing import Signer
from tollway.kit.clock import Clock
from tollway.kit.errors import BadRequest, Conflict, NotFound

WEIGHTS: Final = "weights.gguf"
CARD: Final = "card.md"
_CHUNK: Final = 1 << 20
_NOTES: Final = ".verified"
_ENCODERS: Final = frozenset({"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert",
                              "neo-bert", "gemma-embedding", "t5encoder"})  # fmt: skip

Progress: TypeAlias = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A package on the shelf. Reading it says nothing about its integrity: `Store.verify` does."""

    folder: Path
    manifest: Manifest

    @property
    def ref(self) -> str:
        return f"{self.manifest.name}@{self.manifest.version}"

    @property
    def weights_path(self) -> Path:
        return self.folder / self.manifest.weights.path


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a check: every problem found, and how many bytes had to be read for it."""

    ref: str
    problems: tuple[str, ...]
    hashed_bytes: int

    @property
    def ok(self) -> bool:
        return not self.problems

    def require(self) -> None:
        """Raise Conflict listing all problems, if there are any."""
        if self.problems:
            raise Conflict(
                f"Model package {self.ref} is not what was signed: " + "; ".join(self.problems) + ".",
                code="package_damaged",
                hint="Remove it and import the model again from a source you trust.",
            )


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What the importer says of a model; what the file says itself fills the gaps."""

    kind: str = ""
    title: str = ""
    description: str = ""
    licence: str = ""
    source: Source = Source()
    generation: Generation = Generation()
    parity: dict[str, float | int | str] = {}
    lineage: Lineage = Lineage()
    card: str = ""


class Store:
    """The packages of one home."""

    def __init__(self, root: Path, signer: Signer, clock: Clock) -> None:
        self.root = root
        self._signer = signer
        self._clock = clock

    # -- finding -------------------------------------------------------------------------------------------------

    def get(self, name: str, version: str | None = None) -> ModelPackage:
        """A package by name, the newest version unless one is named."""
        versions = self._versions(name)
        wanted = version or (versions[-1] if versions else "")
        if wanted not in versions:
            raise NotFound(
                f"There is no model package {name}{'@' + version if version else ''}.",
                code="package_not_found",
                hint="`tollway model list` shows what there is.",
            )
        return self._read(name, wanted)

    def list(self) -> Sequence[ModelPackage]:
        """Every readable package, by name and version. `audit` also names those that cannot be read."""
        found = []
        for name, version in self._refs():
            with contextlib.suppress(BadRequest, Conflict):
                found.append(self._read(name, version))
        return found

    def audit(self, *, deep: bool = False) -> Sequence[Verdict]:
        """Check every package on the shelf, readable or not."""
        verdicts = []
        for name, version in self._refs():
            try:
                verdicts.append(self.verify(self._read(name, version), deep=deep))
            except (BadRequest, Conflict) as error:
                verdicts.append(Verdict(f"{name}@{version}", (error.message.rstrip("."),), 0))
        return verdicts

    def _refs(self) -> Iterator[tuple[str, str]]:
        if self.root.is_dir():
            for entry in sorted(self.root.iterdir()):
                if manifests.NAME.fullmatch(entry.name):
                    yield from ((entry.name, version) for version in self._versions(entry.name))

    def _versions(self, name: str) -> Sequence[str]:
        folder = self._name_folder(name)
        if folder.is_symlink() or not folder.is_dir():
            return []
        return sorted((e.name for e in folder.iterdir() if manifests.VERSION.fullmatch(e.name)), key=int)

    def _name_folder(self, name: str) -> Path:
        if not manifests.NAME.fullmatch(name):
            raise BadRequest(
                f"{name[:120]!r} cannot name a model.", code="invalid_name", hint="Use a-z, 0-9, dot, dash, underscore."
            )
        return self.root / name

    def _read(self, name: str, version: str) -> ModelPackage:
        folder = self._name_folder(name) / version
        path = folder / manifests.FILE_NAME
        if folder.is_symlink() or path.is_symlink():
            raise Conflict(f"Model package {name}@{version} is a link, not a folder.", code="package_damaged")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Conflict(
                f"The manifest of {name}@{version} cannot be read ({error}).",
                code="package_damaged",
                hint="Remove the package and import the model again.",
            ) from None
        manifest = manifests.decode(text)
        problems = manifests.problems_of(manifest)
        if (manifest.name, manifest.version) != (name, version):
            problems.append(f"it is {manifest.name}@{manifest.version}, in the place of {name}@{version}")
        if problems:
            raise Conflict(
                f"The manifest of {name}@{version} is not valid: " + "; ".join(problems) + ".", code="package_damaged"
            )
        return ModelPackage(folder, manifest)

    # -- importing -----------------------------------------------------------------------------------------------

    def import_gguf(
        self, path: Path, name: str, about: About | None = None, *, progress: Progress | None = None
    ) -> ModelPackage:
        """Copy a GGUF file onto the shelf as the next version of `name`, inspected, described and signed."""
        about = about or About()
        final = self._name_folder(name)
        _look_at_start(path)
        final.mkdir(parents=True, exist_ok=True, mode=0o755)
        aside = self.root / f".import-{os.getpid()}-{secrets.token_hex(6)}"
        aside.mkdir(mode=0o755)
        try:
            sha256, size_bytes = _copy(path, aside / WEIGHTS, progress)
            _expect(about.source, sha256, path)
            header = gguf.inspect(aside / WEIGHTS)
            with self._lock():
                same = self._same_weights(name, sha256)
                if same is not None:
                    return same
                version = self._next_version(name)
                manifest = self._describe(name, version, about, header, sha256, size_bytes, path)
                manifest = self._write(aside, manifest, about)
                _sync(aside)
                aside.rename(final / version)
                _sync(final)
                self._note_version(name, version)
            package = ModelPackage(final / version, manifest)
            present, _ = _walk(package.folder)
            self._remember(package, {file.path: file.sha256 for file in manifest.files}, present)
            return package
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            with contextlib.suppress(OSError):
                final.rmdir()  # only succeeds when nothing was ever put there

    def _same_weights(self, name: str, sha256: str) -> ModelPackage | None:
        for version in reversed(self._versions(name)):
            with contextlib.suppress(BadRequest, Conflict):
                package = self._read(name, version)
                if package.manifest.weights.sha256 == sha256 and self.verify(package).ok:
                    return package
        return None

    def _describe(
        self, name: str, version: str, about: About, header: gguf.Header, sha256: str, size_bytes: int, path: Path
    ) -> Manifest:
        encoder = header.pooling is not None or header.architecture in _ENCODERS
        kind = about.kind or ("embedding" if encoder else "chat")
        source = about.source if about.source.sha256 else msgspec.structs.replace(
            about.source, sha256=sha256, file=about.source.file or path.name
        )  # fmt: skip
        return Manifest(
            name=name,
            version=version,
            kind=kind,
            title=about.title or header.name or name,
            description=about.description,
            licence=about.licence or header.licence,
            architecture=header.architecture,
            parameters=header.parameters,
            context_tokens=header.context_tokens,
            embedding_dimensions=header.embedding_length if kind == "embedding" else 0,
            has_chat_template=bool(header.chat_template),
            template_has_tools="tools" in header.chat_template,
            source=source,
            generation=about.generation,
            parity=about.parity,
            lineage=about.lineage,
            created=datetime.fromtimestamp(self._clock.now_ms() // 1000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            files=(
                File(path=WEIGHTS, role="weights", format="gguf", quantisation=header.quantisation,
                     size_bytes=size_bytes, sha256=sha256),
            ),
        )  # fmt: skip

    def _write(self, folder: Path, manifest: Manifest, about: About) -> Manifest:
        """Add the card, seal the manifest and write both."""
        card = (about.card or _card(manifest)).encode()
        (folder / CARD).write_bytes(card)
        listed = File(
            path=CARD, role="card", format="markdown", size_bytes=len(card), sha256=hashlib.sha256(card).hexdigest()
        )
        manifest = msgspec.structs.replace(manifest, files=(*manifest.files, listed))
        digest = manifests.digest_of(manifest)
        manifest = msgspec.structs.replace(
            manifest, digest=digest, signed_by=self._signer.key_id, signature=self._signer.sign(digest)
        )
        (folder / manifests.FILE_NAME).write_text(manifests.encode(manifest), encoding="utf-8")
        return manifest

    def _next_version(self, name: str) -> str:
        """One more than the highest ever given, removed ones included."""
        folder = self._name_folder(name)
        given = [int(version) for version in self._versions(name)]
        with contextlib.suppress(OSError, ValueError):
            given.append(int((folder / ".last").read_text(encoding="ascii")))
        return str(max(given, default=0) + 1)

    def _note_version(self, name: str, version: str) -> None:
        _write_whole(self._name_folder(name) / ".last", version.encode())

    def remove(self, name: str, version: str) -> None:
        """Take a package off the shelf. It disappears at once; its number is not given again."""
        with self._lock():
            if version not in self._versions(name):
                raise NotFound(f"There is no model package {name}@{version}.", code="package_not_found")
            self._note_version(name, str(int(self._next_version(name)) - 1))
            folder = self._name_folder(name) / version
            if folder.is_symlink():
                folder.unlink()
                return
            aside = self.root / f".remove-{os.getpid()}-{secrets.token_hex(6)}"
            folder.rename(aside)
        shutil.rmtree(aside)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One importer or remover at a time, across processes."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # -- checking ------------------------------------------------------------------------------------------------

    def verify(self, package: ModelPackage, *, deep: bool = False, progress: Progress | None = None) -> Verdict:
        """Hold a package against its signature and hashes; all problems at once. Refuses what it does not know."""
        manifest = package.manifest
        problems = manifests.problems_of(manifest)
        if manifests.digest_of(manifest) != manifest.digest:
            problems.append("its manifest was changed after it was signed")
        elif not self._signer.check(manifest.digest, manifest.signature):
            problems.append(f"it is not signed by this shop's key {self._signer.key_id}")
        expected = (self.root / manifest.name / manifest.version).absolute()
        if package.folder.absolute() != expected or package.folder.is_symlink():
            problems.append("it is not in its own place on the shelf")
        present, strange = _walk(package.folder)
        problems += strange
        listed = {file.path: file for file in manifest.files if manifests.is_safe_path(file.path)}
        known = {} if deep else self._recall(package)
        hashed: dict[str, str] = {}
        for path in sorted(listed.keys() & present.keys()):
            hashed[path] = known.get(path) or _hash(package.folder / path, progress, manifest.weights.size_bytes)
            if hashed[path] != listed[path].sha256 or present[path].st_size != listed[path].size_bytes:
                problems.append(f"{path} was changed")
        problems += _missing_and_extra(package.folder, listed, present)
        if not problems and hashed.keys() != known.keys():
            self._remember(package, hashed, present)  # as they were before they were read
        read = sum(present[path].st_size for path in hashed if path not in known)
        return Verdict(package.ref, tuple(problems), read)

    def _recall(self, package: ModelPackage) -> dict[str, str]:
        """Hashes noted earlier of files whose identity on disk is unchanged since; empty if the notes are not ours."""
        try:
            noted = json.loads(self._notes_path(package).read_bytes())
            body, seal = noted["files"], noted["seal"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        if seal != self._signer.seal(self._note_bytes(package, body)) or not isinstance(body, dict):
            return {}
        known = {}
        for path, (sha256, *identity) in body.items():
            with contextlib.suppress(OSError):
                if _identity((package.folder / path).lstat()) == identity:
                    known[path] = sha256
        return known

    def _remember(self, package: ModelPackage, hashes: dict[str, str], present: dict[str, os.stat_result]) -> None:
        body = {path: [sha, *_identity(present[path])] for path, sha in hashes.items()}
        note = {"files": body, "seal": self._signer.seal(self._note_bytes(package, body))}
        with contextlib.suppress(OSError):  # a read-only shelf is checked in full every time
            _write_whole(self._notes_path(package), json.dumps(note).encode())

    def _notes_path(self, package: ModelPackage) -> Path:
        return self.root / f"{_NOTES}-{package.manifest.name}-{package.manifest.version}.json"

    @staticmethod
    def _note_bytes(package: ModelPackage, body: Any) -> bytes:
        return json.dumps([package.ref, package.manifest.digest, body], sort_keys=True).encode()


def _identity(found: os.stat_result) -> list[int]:
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _walk(folder: Path) -> tuple[dict[str, os.stat_result], list[str]]:
    """Regular files inside `folder` by relative path, and what else is there (links, devices, empty folders)."""
    files: dict[str, os.stat_result] = {}
    strange: list[str] = []
    pending = [folder]
    while pending:
        here = pending.pop()
        entries = sorted(os.scandir(here), key=lambda entry: entry.name) if here.is_dir() else []
        if not entries:
            strange.append(f"the folder {here.relative_to(folder).as_posix()} is empty")
        for entry in entries:
            path = Path(entry.path)
            relative = path.relative_to(folder).as_posix()
            found = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                pending.append(path)
            elif not stat.S_ISREG(found.st_mode):
                strange.append(f"{relative} is a link or a special file")
            elif relative != manifests.FILE_NAME:
                files[relative] = found
    return files, strange


def _missing_and_extra(folder: Path, listed: dict[str, File], present: dict[str, os.stat_result]) -> list[str]:
    """What is listed but absent and the other way round; a file that only moved is called renamed."""
    problems = []
    missing = {path: listed[path] for path in sorted(listed.keys() - present.keys())}
    for path in sorted(present.keys() - listed.keys()):
        twin = next((old for old, file in missing.items() if file.size_bytes == present[path].st_size), None)
        if twin and _hash(folder / path, None, 0) == missing[twin].sha256:
            problems.append(f"{twin} was renamed to {path}")
            del missing[twin]
        else:
            problems.append(f"{path} does not belong to it")
    return problems + [f"{path} is missing" for path in missing]


def _hash(path: Path, progress: Progress | None, total: int) -> str:
    digest = hashlib.sha256()
    done = 0
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, max(total, done))
    return digest.hexdigest()


def _copy(source: Path, target: Path, progress: Progress | None) -> tuple[str, int]:
    """Copy while hashing, so that what was hashed is what was stored; synced. Returns SHA-256 and size."""
    digest = hashlib.sha256()
    done = 0
    with source.open("rb") as reader, target.open("xb") as writer:
        total = os.fstat(reader.fileno()).st_size
        while chunk := reader.read(_CHUNK):
            writer.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, max(total, done))
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest(), done


def _look_at_start(path: Path) -> None:
    """Refuse what is clearly no GGUF file before copying gigabytes of it."""
    try:
        if not path.is_file():
            raise BadRequest(f"{path} is not a file.", code="invalid_model_file", hint="Name a .gguf file.")
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.", code="invalid_model_file") from None
    if start != b"GGUF":
        raise BadRequest(
            f"{path.name} is not a GGUF file.", code="invalid_model_file", hint="Convert the model to GGUF first."
        )


def _expect(source: Source, sha256: str, path: Path) -> None:
    if source.file == path.name and source.sha256 and source.sha256 != sha256:
        raise BadRequest(
            f"{path.name} is not the file it should be: SHA-256 {sha256}, expected {source.sha256}.",
            code="unexpected_weights",
            hint="Get it again from its source; do not use this copy.",
        )


def _write_whole(path: Path, content: bytes) -> None:
    """Replace a small file in one step."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    aside.write_bytes(content)
    aside.rename(path)


def _sync(folder: Path) -> None:
    """Make the folder and the small files in it durable (the weights were synced when copied)."""
    for path in [*folder.iterdir(), folder]:
        if path.is_file() and path.name == WEIGHTS:
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _card(manifest: Manifest) -> str:
    """A plain model card from what is known."""
    weights = manifest.weights
    rows = [
        ("Kind", manifest.kind),
        ("Architecture", manifest.architecture),
        ("Parameters", f"{manifest.parameters:,}"),
        ("Context", f"{manifest.context_tokens:,} tokens"),
        ("Quantisation", weights.quantisation),
        ("Licence", manifest.licence or "not stated by the source"),
        ("Source", " ".join(filter(None, (manifest.source.package, manifest.source.file)))),
        ("Weights SHA-256", weights.sha256),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    about = manifest.description or "No description was given when this model was imported."
    return f"# {manifest.title}\n\n{about}\n\n| | |\n|---|---|\n{table}\n"
