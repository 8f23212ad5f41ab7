"""Rows, money, times and counts as people read them: right-aligned figures, UTC, an exact amount with its currency."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tollway.kit.clock import from_ms
from tollway.kit.money import PICOS_PER_MICRO, format_micros


def table(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    empty: str = "Nothing yet.",
    marks: Mapping[str, str] | None = None,
) -> "Rows | str":
    """A table of `rows`; `columns` maps keys to headings. Numbers stand to the right. No rows: one sentence.

    `marks` replaces whole values by coloured ones.
    """
    return Rows(rows, columns, marks or {}) if rows else empty


class Rows:
    """A table where it fits; in a terminal too narrow for it every row becomes a card, so that no id is ever cut in two."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], marks: Mapping[str, str]) -> None:
        self._headings = list(columns.values())
        self._numeric = [_numeric(rows, key) for key in columns]
        shown = [[_cell(row.get(key)) for key in columns] for row in rows]
        self._cells = [[marks.get(cell, cell) for cell in row] for row in shown]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        drawn = self._table()
        least = Measurement.get(console, options.update(width=10_000), drawn).minimum
        yield drawn if least <= options.max_width else self._cards()

    def _table(self) -> Table:
        drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for heading, numeric in zip(self._headings, self._numeric, strict=True):
            drawn.add_column(heading, justify="right" if numeric else "left", overflow="fold")
        for row in self._cells:
            drawn.add_row(*row)
        return drawn

    def _cards(self) -> Group:
        cards = [record(dict(zip(self._headings, row, strict=True)), plain=False) for row in self._cells]
        return Group(*[part for card in cards for part in (card, Text(""))])


def record(fields: Mapping[str, Any], *, plain: bool = True) -> Table:
    """One thing: its fields below each other. `plain`: the values are data, not yet made fit for the screen."""
    drawn = Table(box=None, show_header=False, pad_edge=False)
    drawn.add_column(style="bold")
    drawn.add_column(overflow="fold")
    for name, value in fields.items():
        drawn.add_row(name, _cell(value) if plain else value)
    return drawn


def money(micros: int | None, currency: str) -> str:
    """`$12.50`, exact; a dash for nothing known."""
    return "-" if micros is None else format_micros(micros, currency)


def money_of_picos(picos: int, currency: str) -> str:
    """Rated usage, cut to whole micros for the eye (the books keep the rest)."""
    return format_micros(picos // PICOS_PER_MICRO, currency)


def moment(at_ms: int | None) -> str:
    """`2026-01-31 14:05 UTC`, or a dash."""
    return "-" if at_ms is None else from_ms(at_ms).strftime("%Y-%m-%d %H:%M UTC")


def share(value: float | None) -> str:
    """A share of one as a percentage."""
    return "-" if value is None else f"{value:.1%}"


def _numeric(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    values = [row.get(key) for row in rows]
    return any(isinstance(value, int) and not isinstance(value, bool) for value in values) or all(
        isinstance(value, str) and value[:1] in "$€£¥-0123456789" and value[-1:].isdigit() for value in values
    )


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value).replace("[", "\\[")
