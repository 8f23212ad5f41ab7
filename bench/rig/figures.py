"""Figures: the JSON lines a bench prints on stdout, and how several rounds become one value."""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from bench.rig.processes import talk


@dataclass(frozen=True)
class Figure:
    """One measured thing. `at_least` tells on which side of the bar it should be; `values` holds one per round."""

    name: str
    values: Sequence[float]
    unit: str
    bar: float | None
    peer: str | None
    at_least: bool = True

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        if self.bar is None:
            return True
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def line(self) -> str:
        """The JSON line."""
        rounded = float(f"{self.value:.4g}")
        return json.dumps({"name": self.name, "value": rounded, "unit": self.unit, "bar": self.bar, "peer": self.peer})


def publish(figures: Sequence[Figure]) -> bool:
    """Prints the figures (JSON on stdout, spread and verdict on stderr). True when every bar holds."""
    talk("")
    for figure in figures:
        print(figure.line(), flush=True)
    width = max((len(figure.name) for figure in figures), default=0)
    for figure in figures:
        wish = "" if figure.bar is None else f"  bar {'>=' if figure.at_least else '<='} {figure.bar:g}"
        verdict = "" if figure.bar is None else ("  ok" if figure.holds else "  MISSED")
        spread = f"{min(figure.values):.4g}..{max(figure.values):.4g} over {len(figure.values)}"
        talk(f"{figure.name:<{width}}  {figure.value:>8.4g} {figure.unit:<8} ({spread}){wish}{verdict}")
    sys.stdout.flush()
    return all(figure.holds for figure in figures)
