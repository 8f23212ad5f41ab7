"""The shelf of model packages: `<home>/packages/<name>/<version>/`, written once, checked before use.

    shelf = store.Store(home / "packages", signing.Signer(seed), clock)
    package = shelf.import_gguf(path, "smollm2-135m", licence="apache-2.0")
    package = shelf.add_package("reviews", folder, About(kind="classification", labels=("bad", "good")))
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
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from tollway.artifacts import contents, disk, gguf
from tollway.artifacts import manifest as manifests
from tollway.artifacts.manifest import Figure, File, Generation, Lineage, Manifest, Source
from tollway.artifacts.signing import Signer
from tollway.kit import durable
from tollway.kit.clock import Clock
from tollway.kit.errors import BadRequest, Conflict, NotFound
from tollway.kit.said import say

WEIGHTS: Final = "weights.gguf"
CARD: Final = "card.md"
_NOTES: Final = ".verified"
_TOLD: Final = ("card", "report", "metrics", "parity", "example")  # what is said about a model is not the model
_ENCODERS: Final = frozenset({"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert",
                              "neo-bert", "gemma-embedding", "t5encoder"})  # fmt: skip

Progress = disk.Progress


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
    """What the importer says of a model; what a GGUF file says itself fills the gaps."""

    kind: str = ""
    task: str = ""
    input: str = ""
    serves: str = ""
    labels: tuple[str, ...] = ()
    metrics: dict[str, Figure] = {}
    architecture: str = ""
    parameters: int = 0
    context_tokens: int = 0
    embedding_dimensions: int = 0
    title: str = ""
    description: str = ""
    licence: str = ""
    source: Source = Source()
    generation: Generation = Generation()
    parity: dict[str, Figure] = {}
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
                say("package.unknown", "There is no model package {ref}.", ref=name + ("@" + version if version else "")),
                code="package_not_found",
                hint=say("package.list", "`tollway model list` shows what there is."),
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
        self._name_folder(name)
        _look_at_start(path)
        with self._aside() as aside:
            sha256, size_bytes = disk.copy(path, aside / WEIGHTS, progress)
            _expect(about.source, sha256, path)
            header = gguf.inspect(aside / WEIGHTS, path.name)
            weights = File(path=WEIGHTS, role="weights", format="gguf", quantisation=header.quantisation,
                           size_bytes=size_bytes, sha256=sha256)  # fmt: skip
            return self._place(aside, (weights,), _of_gguf(name, about, header, weights, path), about.card)

    def add_package(
        self,
        name: str,
        folder: Path,
        about: About,
        *,
        files: Mapping[str, Path] | None = None,
        progress: Progress | None = None,
    ) -> ModelPackage:
        """Copy a folder of files (and `files` besides: place in the package -> where it is now) onto the shelf as the next
        version of `name`. The same files again are the same version. Raises BadRequest for what cannot be a package."""
        self._name_folder(name)
        taken = contents.listed(folder, dict(files or {}))
        contents.described(dict.fromkeys(taken, ("", 0)))  # refused before gigabytes are copied
        total, before = sum(path.stat().st_size for path in taken.values()), 0
        with self._aside() as aside:
            copied: dict[str, tuple[str, int]] = {}
            for place, path in taken.items():
                (aside / place).parent.mkdir(parents=True, exist_ok=True)
                step = None if progress is None else _shifted(progress, before, total)
                copied[place] = disk.copy(path, aside / place, step)
                before += copied[place][1]
            found = contents.described(copied)
            manifest = _of_folder(name, about, found, contents.said_in(aside) | _said_by_gguf(aside, about, found))
            problems = manifests.problems_of(manifest)
            if problems:
                raise BadRequest("This cannot be a package: " + "; ".join(problems) + ".", code="invalid_package")
            return self._place(aside, found, manifest, about.card)

    @contextlib.contextmanager
    def _aside(self) -> Iterator[Path]:
        """A folder beside the shelf to fill; gone afterwards unless it was put on the shelf."""
        aside = self.root / f".import-{os.getpid()}-{secrets.token_hex(6)}"
        aside.mkdir(parents=True, mode=0o755)
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _place(self, aside: Path, files: tuple[File, ...], manifest: Manifest, card: str) -> ModelPackage:
        """Put a filled folder on the shelf under the next version number, unless the same files are there already."""
        final = self._name_folder(manifest.name)
        with self._lock():
            same = self._same_files(manifest.name, files)
            if same is not None:
                return same
            version = self._next_version(manifest.name)
            created = datetime.fromtimestamp(self._clock.now_ms() // 1000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            manifest = msgspec.structs.replace(manifest, version=version, created=created, files=files)
            manifest = self._write(aside, manifest, card)
            durable.sync_tree(aside)
            final.mkdir(parents=True, exist_ok=True, mode=0o755)
            aside.rename(final / version)
            durable.sync(final)
            self._note_version(manifest.name, version)
        package = ModelPackage(final / version, manifest)
        present, _ = disk.walk(package.folder)
        self._remember(package, {file.path: file.sha256 for file in manifest.files}, present)
        return package

    def _same_files(self, name: str, files: tuple[File, ...]) -> ModelPackage | None:
        wanted = {(file.path, file.sha256) for file in files if file.role not in _TOLD}
        for version in reversed(self._versions(name)):
            with contextlib.suppress(BadRequest, Conflict):
                package = self._read(name, version)
                there = {(file.path, file.sha256) for file in package.manifest.files if file.role not in _TOLD}
                if there == wanted and self.verify(package).ok:
                    return package
        return None

    def _write(self, folder: Path, manifest: Manifest, text: str) -> Manifest:
        """Add the card, seal the manifest and write both."""
        if text or not any(file.path == CARD for file in manifest.files):
            card = (text or contents.card_of(manifest)).encode()
            (folder / CARD).write_bytes(card)
            sha256 = hashlib.sha256(card).hexdigest()
            listed = File(path=CARD, role="card", format="markdown", size_bytes=len(card), sha256=sha256)
            others = tuple(file for file in manifest.files if file.path != CARD)
            manifest = msgspec.structs.replace(manifest, files=(*others, listed))
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
        disk.write_whole(self._name_folder(name) / ".last", version.encode())

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
        present, strange = disk.walk(package.folder)
        problems += strange
        listed = {file.path: file for file in manifest.files if manifests.is_safe_path(file.path)}
        known = {} if deep else self._recall(package)
        hashed: dict[str, str] = {}
        for path in sorted(listed.keys() & present.keys()):
            hashed[path] = known.get(path) or disk.sha256_of(
                package.folder / path, progress, manifest.weights.size_bytes
            )
            if hashed[path] != listed[path].sha256 or present[path].st_size != listed[path].size_bytes:
                problems.append(f"{path} was changed")
        problems += _missing_and_extra(package.folder, listed, present)
        if not problems and hashed.keys() != known.keys():
            self._remember(package, hashed, present)  # as they were before they were read
        read = sum(present[path].st_size for path in hashed if path not in known)
        return Verdict(package.ref, tuple(problems), read)

    def seal(self, note: bytes) -> str:
        """A keyed checksum of a note that only this shop reads again."""
        return self._signer.seal(note)

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
                if disk.identity((package.folder / path).lstat()) == identity:
                    known[path] = sha256
        return known

    def _remember(self, package: ModelPackage, hashes: dict[str, str], present: dict[str, os.stat_result]) -> None:
        body = {path: [sha, *disk.identity(present[path])] for path, sha in hashes.items()}
        note = {"files": body, "seal": self._signer.seal(self._note_bytes(package, body))}
        with contextlib.suppress(OSError):  # a read-only shelf is checked in full every time
            disk.write_whole(self._notes_path(package), json.dumps(note).encode())

    def _notes_path(self, package: ModelPackage) -> Path:
        return self.root / f"{_NOTES}-{package.manifest.name}-{package.manifest.version}.json"

    @staticmethod
    def _note_bytes(package: ModelPackage, body: Any) -> bytes:
        return json.dumps([package.ref, package.manifest.digest, body], sort_keys=True).encode()


def _missing_and_extra(folder: Path, listed: dict[str, File], present: dict[str, os.stat_result]) -> list[str]:
    """What is listed but absent and the other way round; a file that only moved is called renamed."""
    problems = []
    missing = {path: listed[path] for path in sorted(listed.keys() - present.keys())}
    for path in sorted(present.keys() - listed.keys()):
        twin = next((old for old, file in missing.items() if file.size_bytes == present[path].st_size), None)
        if twin and disk.sha256_of(folder / path) == missing[twin].sha256:
            problems.append(f"{twin} was renamed to {path}")
            del missing[twin]
        else:
            problems.append(f"{path} does not belong to it")
    return problems + [f"{path} is missing" for path in missing]


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
            f"{path.name} is not a GGUF file.", code="invalid_model_file",
            hint="Other models come in by a recipe: their folder as [model] base, [train] method = \"none\".",
        )


def _expect(source: Source, sha256: str, path: Path) -> None:
    if source.file == path.name and source.sha256 and source.sha256 != sha256:
        raise BadRequest(
            f"{path.name} is not the file it should be: SHA-256 {sha256}, expected {source.sha256}.",
            code="unexpected_weights",
            hint="Get it again from its source; do not use this copy.",
        )


def _of_gguf(name: str, about: About, header: gguf.Header, weights: File, path: Path) -> Manifest:
    """What a GGUF file and its importer say, as a manifest yet without version, time and signature."""
    encoder = header.pooling is not None or header.architecture in _ENCODERS
    kind = about.kind or ("embedding" if encoder else "chat")
    source = about.source if about.source.sha256 else msgspec.structs.replace(
        about.source, sha256=weights.sha256, file=about.source.file or path.name
    )  # fmt: skip
    return Manifest(
        name=name,
        version="",
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
        vocabulary=header.vocabulary,
        source=source,
        generation=about.generation,
        parity=about.parity,
        lineage=about.lineage,
        created="",
        files=(weights,),
        task=about.task,
        metrics=about.metrics,
    )


def _of_folder(name: str, about: About, files: tuple[File, ...], told: dict[str, Any]) -> Manifest:
    """What the maker of a folder says of it, and where that is silent what the files tell, as a manifest yet without
    version, time and signature. A figure that is no number (there was nothing to measure) is left out."""
    said = {
        field: getattr(about, field) for field in About.__struct_fields__ if field not in ("card", "serves", "title")
    }
    said |= {field: value for field, value in told.items() if not said.get(field)}
    for field in ("metrics", "parity"):
        said[field] = {key: one for key, one in said[field].items() if not isinstance(one, float) or math.isfinite(one)}
    serves = contents.served_format(files, about.serves)
    return Manifest(name=name, version="1", title=about.title or name, created="", files=files, serves=serves, **said)


def _said_by_gguf(folder: Path, about: About, files: tuple[File, ...]) -> dict[str, Any]:
    """What a language model's file says: how a conversation is written (without that, it cannot be asked to chat), and how
    long one may be (texts of its training may have been cut shorter)."""
    weights = next((file for file in files if file.role == "weights" and file.format == "gguf"), None)
    if about.kind != "chat" or weights is None:
        return {}
    header = gguf.inspect(folder / weights.path)
    return {
        "context_tokens": header.context_tokens,
        "has_chat_template": bool(header.chat_template),
        "template_has_tools": "tools" in header.chat_template,
        "vocabulary": header.vocabulary,
    }


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    """Progress of one file as progress of all."""
    return lambda done, _total: progress(before + done, total)
