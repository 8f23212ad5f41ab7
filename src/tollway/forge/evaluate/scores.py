"""Scores: everything an evaluation found, as plain data that is stored as `scores.json` and shown by the report.

Reading them needs nothing heavy: a run that finds everything in the cache loads no numpy.
"""

from pathlib import Path
from typing import Any

import msgspec

from tollway.forge.evaluate import gates
from tollway.forge.evaluate.gates import Gate
from tollway.kit.errors import NotFound

FILE_NAME = "scores.json"


class Figure(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value with its 95 % interval; bounds are None when there were too few rows or replicates to say."""

    value: float | None
    low: float | None = None
    high: float | None = None
    higher: bool = True


class Difference(msgspec.Struct, frozen=True):
    """Ours minus theirs in the direction of better (positive = ours is better), with its paired interval."""

    value: float | None
    low: float | None = None
    high: float | None = None
    better_share: float | None = None  # share of the resamples in which ours was strictly better


class Slice(msgspec.Struct, frozen=True):
    """One part of the rows: the column's value, how many rows, the main metric with its interval."""

    column: str
    value: str
    rows: int
    figure: Figure
    difference: float | None
    small: bool


class Gap(msgspec.Struct, frozen=True):
    """How far the groups of a column are apart; `worst` is the widest of the three, and what a gate compares."""

    column: str
    parity: Figure | None
    opportunity: Figure | None
    quality: Figure | None
    groups: list[str]
    left_out: list[str]

    @property
    def worst(self) -> float | None:
        known = [one.value for one in (self.parity, self.opportunity, self.quality) if one and one.value is not None]
        return max(known, default=None)


class Comparison(msgspec.Struct, frozen=True):
    """Another model on the same rows: its figures, and how much better ours is in the main metric (paired)."""

    name: str
    kind: str  # baseline | parent
    metrics: dict[str, float | None]
    difference: Difference


class Noise(msgspec.Struct, frozen=True):
    """The main metric on disturbed rows, and how much of it is lost (paired, positive = lost)."""

    kind: str
    level: float
    value: float | None
    lost: float | None
    low: float | None
    high: float | None
    rows: int


class Calibration(msgspec.Struct, frozen=True):
    """How far scores can be read as probabilities. `temperature` was fitted on the validation rows."""

    points: list[dict[str, float]]
    ece: float
    temperature: float | None = None
    ece_after: float | None = None


class Scores(msgspec.Struct, kw_only=True):
    """What a model is worth on rows it has not seen."""

    task: str
    format: str = ""
    rows: int
    units: int
    replicates: int
    primary: str
    metrics: dict[str, Figure]
    labels: list[str] = []
    confusion: list[list[int]] = []
    calibration: Calibration | None = None
    comparisons: list[Comparison] = []
    slices: list[Slice] = []
    gaps: list[Gap] = []
    noise: list[Noise] = []
    gates: list[Gate] = []
    examples: dict[str, list[dict[str, Any]]] = {}
    notes: list[str] = []
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every gate held."""
        return all(gate.passed for gate in self.gates)

    @property
    def figures(self) -> dict[str, Any]:
        """The essentials as plain JSON: the numbers by name first (they travel with the package), then how sure they are."""
        found: dict[str, Any] = {name: one.value for name, one in self.metrics.items() if "." not in name}
        others = {f"vs.{one.name}": one.difference.value for one in self.comparisons}
        return found | others | {
            **({"not_better_than": ", ".join(self.not_better_than)} if self.not_better_than else {}),
            "rows": self.rows, "primary": self.primary, "format": self.format, "passed": self.passed,
            "intervals": {name: [one.low, one.high] for name, one in self.metrics.items() if "." not in name},
            "gates": [msgspec.to_builtins(one) for one in self.gates],
        }  # fmt: skip

    @property
    def baselines(self) -> list[str]:
        """The simple models beside it, the simplest first."""
        return [one.name for one in self.comparisons if one.kind == "baseline"]

    @property
    def not_better_than(self) -> list[str]:
        """The simple models that are as good on these rows, or better: what has to be said before anything else."""
        return [
            one.name
            for one in self.comparisons
            if one.kind == "baseline" and one.difference.value is not None and one.difference.value <= 0
        ]

    def enforce(self) -> None:
        """Raise Conflict naming every gate that failed."""
        gates.enforce(self.gates, self.task)

    def named(self) -> dict[str, float | None]:
        """Every figure a gate may name."""
        found: dict[str, float | None] = {}
        for name, one in self.metrics.items():
            found |= {name: one.value, f"low.{name}": one.low, f"high.{name}": one.high}
        for other in self.comparisons:
            sides = [other.name] + (["parent"] if other.kind == "parent" else [])
            for side in sides:
                found |= _against(side, other.difference)
            if other.kind == "baseline":  # the last one is the strongest
                found |= _against("baseline", other.difference)
        for column in dict.fromkeys(one.column for one in self.slices):
            found[f"slice.{column}"] = self._worst(column)
        for gap in self.gaps:
            found[f"gap.{gap.column}"] = gap.worst
            for kind in ("parity", "opportunity", "quality"):
                figure = getattr(gap, kind)
                found[f"gap.{gap.column}.{kind}"] = figure.value if figure else None
        for level in self.noise:  # the strongest level comes last
            found[f"noise.{level.kind}"] = level.lost
        return found

    def _worst(self, column: str) -> float | None:
        values = [
            one.figure.value
            for one in self.slices
            if one.column == column and not one.small and one.figure.value is not None
        ]
        if not values:
            return None
        return min(values) if self.metrics[self.primary].higher else max(values)

    def save(self, folder: Path) -> Path:
        """Write `scores.json`; undefined figures are null."""
        path = folder / FILE_NAME
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))
        return path


def _against(side: str, apart: Difference) -> dict[str, float | None]:
    return {f"vs.{side}": apart.value, f"vs.{side}.low": apart.low, f"vs.{side}.high": apart.high}


def read(folder: Path) -> Scores:
    """The scores of an evaluation step's folder. Raises NotFound."""
    try:
        return msgspec.json.decode((folder / FILE_NAME).read_bytes(), type=Scores)
    except FileNotFoundError:
        raise NotFound(f"{folder.name} has no {FILE_NAME}.", hint="Run the recipe's evaluation first.") from None
