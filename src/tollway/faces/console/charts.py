"""Charts: a sparkline as SVG path data, and the description of a uPlot chart with the table that stands behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tollway.faces.console.ranges import Range
from tollway.faces.console.visit import Visit
from tollway.kit.clock import day_of, from_ms
from tollway.kit.money import MICROS, PICOS_PER_MICRO

SPARK_WIDTH = 120
SPARK_HEIGHT = 28


@dataclass(frozen=True, slots=True)
class Series:
    """One line or set of bars: its label, its values as integers, and the kind that says how to write a value."""

    label: str
    values: Sequence[int]
    kind: str  # number | money (picos) | duration (microseconds)
    tone: str = "accent"  # accent | quiet | bad


@dataclass(frozen=True, slots=True)
class Chart:
    """All a template needs to draw one chart and its table."""

    id: str
    title: str
    summary: str
    spec: dict[str, Any]
    heads: list[str]
    rows: list[list[str]]
    empty: bool


def chart(
    visit: Visit, chart_id: str, title: str, starts_ms: Sequence[int], by_day: bool, series: Sequence[Series]
) -> Chart:
    """Values leave here twice: as plain numbers for drawing, and written out per locale for the table and the label."""
    spec = {
        "x": [start // 1000 for start in starts_ms],
        "byDay": by_day,
        "currency": visit.currency,
        "series": [
            {
                "label": one.label,
                "kind": one.kind,
                "tone": one.tone,
                "values": [_plain(value, one.kind) for value in one.values],
            }
            for one in series
        ],
    }
    rows = [
        [_bucket(visit, start, by_day), *(_written(visit, one.values[place], one.kind) for one in series)]
        for place, start in enumerate(starts_ms)
    ]
    parts = []
    for one in series:
        peak = max(one.values, default=0)
        total = _written(visit, sum(one.values), one.kind)
        parts.append(visit.t("chart.summary", label=one.label, total=total, peak=_written(visit, peak, one.kind)))
    empty = not any(any(one.values) for one in series)
    heads = [visit.t("chart.time"), *(one.label for one in series)]
    return Chart(chart_id, title, " ".join(parts), spec, heads, rows[::-1], empty)


def of_overview(visit: Visit, span: Range, found: Any, money: Sequence[Series]) -> list[Chart]:
    """The charts of an overview: requests, tokens, money."""
    t, series = visit.t, found.series
    tokens_in = [a + b for a, b in zip(series["input_tokens"], series["cached_tokens"], strict=True)]
    return [
        chart(
            visit,
            "requests",
            t("chart.requests"),
            found.starts_ms,
            span.by_day,
            [Series(t("meter.requests"), series["requests"], "number")],
        ),
        chart(
            visit,
            "tokens",
            t("chart.tokens"),
            found.starts_ms,
            span.by_day,
            [
                Series(t("chart.out"), series["output_tokens"], "number"),
                Series(t("chart.in"), tokens_in, "number", "quiet"),
            ],
        ),
        chart(visit, "money", t("chart.money"), found.starts_ms, span.by_day, money),
    ]


def sparkline(values: Sequence[int]) -> dict[str, str]:
    """SVG path data (`line`, and the `area` between it and zero) in a box of SPARK_WIDTH x SPARK_HEIGHT."""
    if len(values) < 2:
        return {"line": "", "area": ""}
    low, high = min(0, min(values)), max(0, max(values))
    reach = high - low or 1

    def height(value: int) -> str:
        y = (SPARK_HEIGHT - 2) * 10 - (value - low) * (SPARK_HEIGHT - 4) * 10 // reach
        return f"{y // 10}.{y % 10}"

    steps = len(values) - 1
    points = []
    for place, value in enumerate(values):
        x = place * SPARK_WIDTH * 10 // steps
        points.append(f"{x // 10}.{x % 10},{height(value)}")
    line = "M" + "L".join(points)
    ground = height(0) if low < 0 else str(SPARK_HEIGHT)
    return {"line": line, "area": f"{line}L{SPARK_WIDTH},{ground}L0,{ground}Z"}


def _plain(value: int, kind: str) -> float:
    """For drawing only: pixels may be floats, books may not."""
    if kind == "money":
        return value / (MICROS * PICOS_PER_MICRO)
    return value / 1000 if kind == "duration" else value


def _written(visit: Visit, value: int, kind: str) -> str:
    if kind == "money":
        return visit.fmt.picos(value, visit.currency)
    return visit.fmt.duration(value) if kind == "duration" else visit.fmt.number(value)


def _bucket(visit: Visit, start_ms: int, by_day: bool) -> str:
    return visit.fmt.day(day_of(start_ms)) if by_day else f"{visit.fmt.date(start_ms)} {from_ms(start_ms):%H:%M}"
