"""An engine chosen by its name for a package on this machine, unmeasured; what was measured is `tune.py`'s.

    choice = engine_choice.find(package, "torch")       raises BadRequest where that engine cannot serve it
    step = engine_choice.keep(store, package, choice)   noted; what the deployment that did it remembers as its policy
    engine_choice.take_back(store, deployment)          as it was before that
    engine_choice.forget(conn, package)                 something else says how it is served now
    engine_choice.engine_of(deployment)                 its name; "" for one that chose none
    engine_choice.step_of(deployment)                   what it remembers of that, and `rules_of` of a rollout
"""

import importlib.util
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from tollway.artifacts import tuning
from tollway.artifacts.store import ModelPackage, Store
from tollway.artifacts.tuning import Choice
from tollway.kit.errors import BadRequest
from tollway.kit.formats import FORMATS, ROWS
from tollway.serve import deployments
from tollway.serve.deployments import Record

_STEP: Final = ("choice", "choice_before")  # beside the rules of a rollout, where it is one
_MODULES: Final = {"onnx": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert", "torch": "torch"}


def find(package: ModelPackage, engine: str) -> Choice:
    """The first of its formats that the engine reads, float ones before the others. Raises BadRequest where there is none,
    or the engine is not installed."""
    forms = [one for one in package.manifest.formats if one in FORMATS and FORMATS[one].served]
    found = sorted((one for one in forms if FORMATS[one].engine == engine), key=lambda one: bool(FORMATS[one].rounding))
    engines = sorted({FORMATS[one].engine for one in forms})
    if engine not in ROWS or not found:
        raise BadRequest(
            f"{package.ref} cannot be served on {engine!r}: its formats are for {', '.join(engines) or 'no engine'}.",
            code="unsupported_engine",
            hint="Language models: tollway model tune NAME. Others: add the format to [convert] of its recipe "
            '("pt2" for torch).',
        )
    if importlib.util.find_spec(_MODULES[engine]) is None:
        raise BadRequest(
            f"The engine {engine} is not installed.", code="not_installed",
            hint=f"pip install 'tollway[{'factory' if engine == 'torch' else engine}]'",
        )  # fmt: skip
    return Choice(engine=engine, format=found[0])


def keep(store: Store, package: ModelPackage, choice: Choice) -> dict[str, Any]:
    """Serve the package so from now on. Returns both choices, this one and the one before; {} when nothing changed."""
    before = tuning.choice(package)
    kept = tuning.keep(store, package, choice)
    if before == kept:
        return {}
    return {"choice": msgspec.to_builtins(kept), "choice_before": msgspec.to_builtins(before) if before else {}}


def step_of(made: Record) -> dict[str, Any]:
    """What `keep` gave to the deployment; {} for one that chose no engine."""
    return {key: made.policy[key] for key in _STEP if key in made.policy}


def rules_of(made: Record) -> dict[str, Any]:
    """The rest of what it remembers: the rules of a rollout."""
    return {key: value for key, value in made.policy.items() if key not in _STEP}


def take_back(store: Store, made: Record) -> None:
    """Serve a deployment's package as before it; nothing happens for one that chose no engine."""
    if "choice_before" in made.policy:
        tuning.write(store.get(made.model, made.version), {"choice": made.policy["choice_before"] or None})


def forget(conn: sa.Connection, package: ModelPackage) -> None:
    """What answers was measured since, or is served as its manifest says again: no deployment's choice holds any more."""
    stable = deployments.running(conn, package.manifest.name).get("stable")
    if stable is not None and stable.version == package.manifest.version and "choice" in stable.policy:
        deployments.reshape(conn, stable, 0, {})


def engine_of(made: Record) -> str:
    """The engine that a deployment chose."""
    return str(made.policy.get("choice", {}).get("engine", ""))
