"""Where a home keeps what models are made of and how that went: its datasets and its runs, for flows and faces alike."""

from pathlib import Path
from typing import TYPE_CHECKING

from tollway.kit.clock import Clock

if TYPE_CHECKING:
    from tollway.forge.data import Shelf
    from tollway.forge.steps import Runs


def datasets(home: Path, clock: Clock) -> "Shelf":
    """The shelf of datasets."""
    from tollway.forge import data  # lazy: the gateway reads no tables

    return data.Shelf(home / "datasets", clock)


def runs(home: Path, clock: Clock) -> "Runs":
    """The runs of recipes."""
    from tollway.forge.steps import Runs  # lazy: the gateway makes no models

    return Runs(home, clock)
