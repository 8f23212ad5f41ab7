"""Several runs side by side: a row for each figure and each setting that differs, a column for each run; for
`tollway run compare`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tollway.forge.report.story import Story, gather
from tollway.forge.steps import Record, Runs
from tollway.kit.money import to_decimal


def compare(runs: Runs, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Figures, time and cost: `[{"figure": "accuracy", "movies·ab12": 0.87, ...}]`, the main metric first."""
    stories = [gather(runs, record) for record in records]
    names = _names(records)
    rows: list[dict[str, Any]] = []
    for figure, values in _figures(stories).items():
        rows.append({"figure": figure, **dict(zip(names, values, strict=True))})
    return rows


def _names(records: Sequence[Record]) -> list[str]:
    """A recipe's name with the end of its run's id, so that two runs of one recipe differ."""
    return [f"{record.recipe}·{record.id[-4:]}" for record in records]


def _figures(stories: Sequence[Story]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {
        "task": [story.record.task for story in stories],
        "state": [story.record.alive_state for story in stories],
        "dataset": [story.record.dataset or None for story in stories],
    }
    metrics = list(dict.fromkeys(name for story in stories if story.scores for name in _ordered(story)))
    for name in metrics:
        found[name] = [_value(story, name) for story in stories]
        if name == metrics[0]:
            found[f"{name} from"] = [_end(story, name, "low") for story in stories]
            found[f"{name} to"] = [_end(story, name, "high") for story in stories]
    found["against baseline"] = [_baseline(story) for story in stories]
    found["gates"] = [_gates(story) for story in stories]
    found["bytes"] = [next((row.get("bytes") for row in story.formats if row.get("bytes")), None) for story in stories]
    found["seconds"] = [round(story.record.made_seconds or story.record.seconds, 1) for story in stories]
    found["cost"] = [f"{to_decimal(story.record.cost_micros):.4f} {story.record.currency}" for story in stories]
    found["energy_wh"] = [round(story.record.energy_wh, 3) for story in stories]
    return {name: values for name, values in (found | _settings(stories)).items() if any(value is not None for value in values)}


def _settings(stories: Sequence[Story]) -> dict[str, list[Any]]:
    """What the recipes do not have in common: why the figures above may differ."""
    flat = [_flat(story.recipe) for story in stories]
    names = [name for name in dict.fromkeys(name for one in flat for name in one) if name not in _ABOVE]
    rows = {f"[{name.replace('.', '] ', 1)}": [one.get(name) for one in flat] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


_ABOVE: Final = ("recipe.name", "recipe.task", "data.dataset")


def _flat(table: Mapping[str, Any], head: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{head}{name}.")
        else:
            found[f"{head}{name}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return found


def _ordered(story: Story) -> list[str]:
    scores = story.scores
    assert scores is not None
    return [scores.primary, *(name for name in scores.metrics if "." not in name and name != scores.primary)]


def _value(story: Story, name: str) -> float | None:
    one = story.scores.metrics.get(name) if story.scores else None
    return None if one is None or one.value is None else round(one.value, 5)


def _end(story: Story, name: str, side: str) -> float | None:
    one = story.scores.metrics.get(name) if story.scores else None
    value = getattr(one, side, None)
    return None if value is None else round(value, 5)


def _baseline(story: Story) -> float | None:
    listed = [one for one in story.scores.comparisons if one.kind == "baseline"] if story.scores else []
    return None if not listed or listed[-1].difference.value is None else round(listed[-1].difference.value, 5)


def _gates(story: Story) -> str | None:
    if story.scores is None or not story.scores.gates:
        return None
    passed = sum(gate.passed for gate in story.scores.gates)
    return f"{passed} of {len(story.scores.gates)}"
