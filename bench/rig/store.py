"""Where benches keep what is costly to make: compiled tools and the environments of peers.

`$TOLLWAY_BENCH_CACHE`, else `$XDG_CACHE_HOME/tollway-bench`, else `bench/.cache` (ignored by git). Safe to delete.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]


class Missing(Exception):
    """Something a bench needs is not on this machine; the message says what and how to get it."""


def folder() -> Path:
    """The cache folder, made when absent."""
    if named := os.environ.get("TOLLWAY_BENCH_CACHE"):
        place = Path(named)
    elif xdg := os.environ.get("XDG_CACHE_HOME"):
        place = Path(xdg) / "tollway-bench"
    else:
        place = BENCH / ".cache"
    place.mkdir(parents=True, exist_ok=True)
    return place


def native(name: str) -> Path:
    """The program compiled from `native/<name>.c`; compiled again only when its source changes."""
    source = BENCH / "native" / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    program = folder() / "native" / f"{name}-{digest}"
    if program.exists():
        return program
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        raise Missing(
            "no C compiler: the mock upstream and the load generator are C programs compiled here.\n"
            "Install one (Debian, Ubuntu: apt install gcc libc6-dev) and run the bench again."
        )
    program.parent.mkdir(parents=True, exist_ok=True)
    draft = program.with_suffix(f".{os.getpid()}")
    done = subprocess.run([compiler, "-O2", "-o", draft, source], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise Missing(f"{compiler} could not compile {source.name}:\n{done.stderr[-2000:]}")
    draft.replace(program)
    return program


def environment(name: str, *requirements: str, timeout_s: int = 600) -> Path:
    """A virtual environment of its own holding `requirements`, made once; returns its `bin` folder."""
    place = folder() / name
    ready = place / ".ready"
    if ready.exists() and ready.read_text() == "\n".join(requirements):
        return place / "bin"
    print(f"bench: installing {' '.join(requirements)} into {place} (once; takes about a minute)", file=sys.stderr)
    shutil.rmtree(place, ignore_errors=True)
    steps = [
        [sys.executable, "-m", "venv", str(place)],
        [str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *requirements],
    ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, timeout=timeout_s)
        if done.returncode:
            raise Missing(f"could not install {' '.join(requirements)}:\n{done.stderr[-2000:]}")
    ready.write_text("\n".join(requirements))
    return place / "bin"
