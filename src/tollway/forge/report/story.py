"""What a report tells, gathered from a run's folder and its steps' outputs into plain data. Nothing here draws.

A step that came from the cache has its curves in the events of the run that made it; they are read from there. A step
whose output was cleared away still has its figures in the run's record, and the report says what is no longer there.
"""

import json
import tomllib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tollway.forge import evaluate, explain
from tollway.forge.evaluate import Scores
from tollway.forge.steps import Record, Runs
from tollway.kit.errors import NotFound

Curve = list[tuple[float, float]]


@dataclass
class Story:
    """Everything the page, the card and the comparison need."""

    record: Record
    folder: Path
    recipe: dict[str, Any]
    scores: Scores | None = None
    call: Any = None  # an input as a caller would send it
    curves: dict[str, Curve] = field(default_factory=dict)
    explanations: dict[str, Any] = field(default_factory=dict)
    compression: list[dict[str, Any]] = field(default_factory=list)
    formats: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    warnings: list[tuple[str, dict[str, Any] | None]] = field(default_factory=list)  # words, with their code and figures
    missing: list[str] = field(default_factory=list)

    @property
    def micros_per_hour(self) -> int:
        """The machine's price that this run reckoned with; 0 when every step came from the cache."""
        return round(self.record.cost_micros * 3600 / self.record.seconds) if self.record.seconds else 0

    @property
    def watts(self) -> float:
        return self.record.energy_wh * 3600 / self.record.seconds if self.record.seconds else 0.0

    def part(self, name: str) -> dict[str, Any]:
        """A table of the recipe."""
        return dict(self.recipe.get(name) or {})


def gather(runs: Runs, record: Record) -> Story:
    """Read what a run left."""
    folder = runs.folder(record)
    story = Story(record, folder, _recipe(folder / "recipe.toml"))
    steps = {str(row["name"]): row for row in record.steps}
    for name, row in steps.items():
        output = runs.output(record, name)
        if output is None:
            story.missing.append(name)
        _take(story, name, output, dict(row.get("figures") or {}))
    events = runs.events(record)
    story.warnings = [(str(one.get("text", "")), one.get("said")) for one in events if one.get("kind") == "warning"]
    story.curves = _curves(_made_by(runs, record, steps.get("train"), events))
    return story


def _take(story: Story, name: str, output: Path | None, figures: dict[str, Any]) -> None:
    if name == "prepare":
        story.data = figures | _json(output, "meta.json")
    elif name == "train":
        story.training = figures
    elif name == "compress":
        story.compression = _rows(figures)
    elif name == "convert":
        story.formats = [
            dict(row) for row in figures.get("formats") or _json(output, "parity.json").get("formats") or []
        ]
    elif name == "evaluate" and output is not None:
        story.call = _json(output, "example.json").get("input")
        try:
            story.scores = evaluate.read(output)
        except NotFound:
            story.missing.append(name)
    elif name == "explain" and output is not None:
        story.explanations = explain.read(output)


def _rows(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The table of a compression: whichever of its figures is a list of rows."""
    for name in ("steps", "table", "rows"):
        if isinstance(figures.get(name), list):
            return [dict(row) for row in figures[name] if isinstance(row, dict)]
    return next(
        (
            [dict(row) for row in value]
            for value in figures.values()
            if isinstance(value, list) and value and isinstance(value[0], dict)
        ),
        [],
    )


def _recipe(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return {}


def _json(folder: Path | None, name: str) -> dict[str, Any]:
    path = folder / name if folder is not None else None
    if path is None or not path.is_file():
        return {}
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _made_by(
    runs: Runs, record: Record, step: dict[str, Any] | None, events: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The events of the run that really did a step."""
    maker = str((step or {}).get("run") or record.id)
    if maker == record.id:
        return events
    try:
        return runs.events(runs.get(maker))
    except (NotFound, OSError):
        return []


def _curves(events: list[dict[str, Any]]) -> dict[str, Curve]:
    """Figures over time of the training, in order; a run that was resumed tells a stretch twice: the later one counts."""
    found: defaultdict[str, dict[float, float]] = defaultdict(dict)
    for event in events:
        if event.get("kind") == "metric" and event.get("step") == "train" and event.get("at") is not None:
            value = event.get("value")
            if isinstance(value, (int, float)):
                found[str(event["name"])][float(event["at"])] = float(value)
    return {name: sorted(points.items()) for name, points in found.items() if len(points) > 1}
