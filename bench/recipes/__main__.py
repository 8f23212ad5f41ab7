"""`python -m bench.recipes [NAME ...]`: make every reference recipe in a home of its own; one JSON line a gate.

A recipe that misses a gate is a line with its error and the exit code 1. `--home DIR` keeps what was made; a second run
then takes everything from the cache, which is itself a figure: `recipe_cached_rerun_s`.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", help="recipes; all by default")
    parser.add_argument("--home", type=Path, help="keep what is made here")
    given = parser.parse_args()
    names = given.names or sorted(path.stem for path in RECIPES.glob("*.toml"))
    with tempfile.TemporaryDirectory(prefix="tollway-recipes-") as scratch:
        home = given.home or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        missed = [name for name in names if not _one(home, name)]
    if missed:
        print(f"Missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def _one(home: Path, name: str) -> bool:
    path = RECIPES / f"{name}.toml"
    recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    made = _tollway(home, "dataset", "sample", recipe["data"]["dataset"].partition("@")[0])
    began = time.monotonic()
    run = made if isinstance(made.get("error"), dict) else _tollway(home, "run", "start", str(path))
    took = time.monotonic() - began
    print(f"{name}: {took:.0f} s{_figures(run)}", file=sys.stderr)
    if isinstance(run.get("error"), dict):
        _say(f"recipe_{_plain(name)}", None, "", None, error=run["error"]["message"])
        return False
    met = {gate["name"]: gate["value"] for gate in run["metrics"].get("gates", [])}
    for gate, wanted in recipe.get("evaluate", {}).get("require", {}).items():
        bar = float(re.sub(r"[<>=\s]", "", wanted))
        _say(f"recipe_{_plain(name)}_{_plain(gate)}", met.get(gate), gate, bar, seconds=round(took, 1))
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    again = _tollway(home, "run", "start", str(path))
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    made = [step["name"] for step in again.get("steps", []) if not step["cached"]]
    _say(
        f"recipe_{_plain(name)}_cached_rerun_s",
        None if made else round(took, 2),
        "s",
        2.0,
        cpu_s=round(work, 2),
        made_again=made,
    )
    return not made


def _figures(run: dict[str, Any]) -> str:
    """The main figure with its interval, and how far the others on the same rows are from it."""
    found = run.get("metrics", {})
    main = found.get("primary", "")
    if main not in found:
        return ""
    low, high = found.get("intervals", {}).get(main) or (None, None)
    others = "".join(
        f", {name} {value:+.4g}" for name, value in found.items() if name.startswith("vs.") and value is not None
    )
    return f", {main} {found[main]:.4g} ({low} to {high}){others}"


def _tollway(home: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tollway", *arguments, "--home", str(home), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={
            name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
        },  # as users have it
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        answer = {"error": {"message": f"exit code {done.returncode}"}}
    return answer


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def _say(name: str, value: Any, unit: str, bar: float | None, **more: Any) -> None:
    line = {"name": name, "value": value, "unit": unit, "bar": bar, "peer": "its own gate", **more}
    print(json.dumps(line, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    sys.exit(main())
