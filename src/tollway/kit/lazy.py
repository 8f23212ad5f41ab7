"""A package's face whose parts are loaded when they are first asked for: what a command does not use costs it nothing.

    _LAZY = {"Scores": "scores", "simple_baselines": "baselines.simple"}    # the name = its module, or module.name
    __getattr__ = lazy.parts(__name__, _LAZY)                               # beside the same imports under TYPE_CHECKING

A name must not be that of a submodule: importing the submodule would take its place.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def parts(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The package's `__getattr__`: finds a name where `places` says, and keeps it."""

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, known_as = places[name].partition(".")
        found = getattr(importlib.import_module(f"{package}.{module}"), known_as or name)
        setattr(sys.modules[package], name, found)
        return found

    return find
