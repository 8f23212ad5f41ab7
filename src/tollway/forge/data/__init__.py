"""Datasets: import, versions, checks, splits, cleaning, masking, augmentation, reports; and the first step of every run.

    shelf = data.Shelf(home / "datasets", clock)      # <home>/datasets/<name>/<n>/, immutable, known by digest
    version = shelf.get("movies@2")                   # version.read("train") -> pyarrow.Table
    prepared = data.prepare(recipe.data, task, shelf, desk)
    samples.load("movies")                            # real data that comes inside packages

Nothing here is imported with torch; pyarrow and scikit-learn are loaded by the functions that need them.
"""

from typing import TYPE_CHECKING

from tollway.forge.data.prepare import Prepared, check, known_columns, prepare
from tollway.forge.data.schema import KINDS, Column
from tollway.forge.data.shelf import SPLITS, Shelf, Version
from tollway.kit import lazy

if TYPE_CHECKING:
    from tollway.forge.data.importing import Imported, Options, import_

__all__ = [
    "KINDS",
    "SPLITS",
    "Column",
    "Imported",
    "Options",
    "Prepared",
    "Shelf",
    "Version",
    "check",
    "import_",
    "known_columns",
    "prepare",
]  # fmt: skip

_LAZY = {"Imported": "importing", "Options": "importing", "import_": "importing"}
__getattr__ = lazy.parts(__name__, _LAZY)
