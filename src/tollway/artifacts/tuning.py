"""What was measured of a package on this machine, beside the package: `<home>/packages/<name>/<version>.tuned.toml`.

    tuning.read(package)                          {"choice": {...}, "tried": [{...}], "rows": {...}}; {} when nothing was
    tuning.write(package, {"rows": {...}})        replaces that part; None removes it
    tuning.choice(package)                        how to serve it here; None: as its manifest says
    tuning.lost(package)                          what calls can no longer use there: ["logprobs", "logit_bias"]
    tuning.require_sound(store, package)          that the weights made for this machine are those that were measured

It is not part of the signed package: another machine measures otherwise. Weights that were made for this machine lie in
`<version>.tuned/`; the choice names them with their hashes, sealed with the shop's key, and what does not match is not
served. The part `rows` belongs to the replicas that answer row by row.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tollway.artifacts import disk
from tollway.artifacts import manifest as manifests
from tollway.artifacts.store import ModelPackage, Store
from tollway.kit.errors import Conflict


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """How a package is served on this machine. `folder` (below the package's tuned folder) holds weights made for it; "":
    the package's own. `options` are the engine's. One without threads was not measured: earlier releases noted so what was
    chosen by name."""

    engine: str
    format: str
    threads: Annotated[int, msgspec.Meta(ge=1)]
    folder: str = ""
    options: dict[str, str | int] = {}
    files: dict[str, str] = {}  # path below `folder` -> SHA-256
    machine: str = ""
    seal: str = ""


def read(package: ModelPackage) -> dict[str, Any]:
    """Everything noted; {} where nothing is, or what is there cannot be read: it is only ever a help."""
    try:
        return tomllib.loads(_table(package).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}


def write(package: ModelPackage, parts: dict[str, Any]) -> None:
    """Replace these parts of the table; a part that is None goes. One writer at a time, across processes."""
    path = _table(package)
    with (path.parent / ".tuning.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        merged = {name: part for name, part in (read(package) | parts).items() if part is not None}
        if merged:
            disk.write_whole(path, manifests.toml(merged).encode())
        else:
            path.unlink(missing_ok=True)


def choice(package: ModelPackage) -> Choice | None:
    """How to serve it here. None: as its manifest says, also when the note was made on another kind of machine."""
    try:
        found = msgspec.convert(read(package).get("choice"), Choice)
    except msgspec.ValidationError:
        return None
    return found if found.machine == machine() else None


def lost(package: ModelPackage) -> list[str]:
    """The parameters of calls that the package's own engine takes, and the one that was chosen here refuses."""
    rows = read(package).get("tried", ()) if choice(package) is not None else ()
    return next((row.get("lost", []) for row in rows if row.get("verdict") == "chosen"), [])


def keep(store: Store, package: ModelPackage, made: Choice) -> Choice:
    """Seal a choice with the hashes of its files and note it; other tuned weights of the package go."""
    folder = tuned_folder(package)
    files = {}
    if made.folder:
        present, _ = disk.walk(folder / made.folder)
        files = {path: disk.sha256_of(folder / made.folder / path) for path in sorted(present)}
    made = msgspec.structs.replace(made, files=files, machine=machine(), seal="")
    made = msgspec.structs.replace(made, seal=store.seal(_note(package, made)))
    write(package, {"choice": msgspec.to_builtins(made)})
    for other in folder.iterdir() if folder.is_dir() else ():
        if other.name != made.folder:
            shutil.rmtree(other)
    return made


def forget(package: ModelPackage) -> bool:
    """Serve it as its manifest says again; whether anything was noted."""
    had = "choice" in read(package)
    write(package, {"choice": None, "tried": None, "tuned": None})
    shutil.rmtree(tuned_folder(package), ignore_errors=True)
    return had


def require_sound(store: Store, package: ModelPackage) -> None:
    """Raise Conflict when the weights made for this machine are not those that were measured."""
    made = choice(package)
    if made is None:
        return
    whole = made.seal == store.seal(_note(package, msgspec.structs.replace(made, seal="")))
    if whole and made.folder:
        folder = tuned_folder(package) / made.folder
        present, strange = disk.walk(folder) if folder.is_dir() else ({}, ["it is gone"])
        whole = not strange and present.keys() == made.files.keys()
        whole = whole and all(disk.sha256_of(folder / path) == sha256 for path, sha256 in made.files.items())
    if not whole:
        raise Conflict(
            f"What was tuned of {package.ref} is not what was measured.",
            code="package_damaged",
            hint=f"tollway model tune {package.manifest.name} measures again; with --undo it serves as before.",
        )


def stamp(package: ModelPackage) -> str:
    """Changes when the choice does."""
    made = choice(package)
    return made.seal if made is not None else ""


def tuned_folder(package: ModelPackage) -> Path:
    """Where weights made for this machine lie."""
    return package.folder.with_name(f"{package.manifest.version}.tuned")


def machine() -> str:
    """This kind of machine: what was measured on another says little."""
    model = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line for line in lines if line.startswith(("model name", "flags", "Features"))][:2]
        model = hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]
    return f"{platform.machine()}-{len(os.sched_getaffinity(0))}-{model}"


def _table(package: ModelPackage) -> Path:
    return package.folder.with_name(f"{package.manifest.version}.tuned.toml")


def _note(package: ModelPackage, made: Choice) -> bytes:
    return json.dumps(["tuned", package.manifest.digest, msgspec.to_builtins(made)], sort_keys=True).encode()
