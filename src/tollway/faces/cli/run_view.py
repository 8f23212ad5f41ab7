"""A run as people follow it on a terminal: one line a step, a bar for the step in work, what all of it took and cost so far.

The same events feed `run start`, which makes them, and `run watch`, which reads them from the run's folder. Where
nobody watches (a pipe, CI) one plain line a step is written, and one every half minute of a long one.

What is shown goes by the time of the events, not of their being read: who joins a run in the middle sees how long it takes.
"""

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from tollway.forge.desk import Event

_FIGURES = 4
_EVERY_S = 30.0


class RunView:
    """`with RunView() as view: view.show(event)`; talks to stderr only."""

    def __init__(
        self, micros_per_hour: int = 0, currency: str = "", quiet: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self._live = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._rate, self._currency = micros_per_hour, currency
        self._step = ""
        self._at: float | None = None  # the time of the event that is being shown
        self._clock = clock
        self._began = self._told = clock()
        self._working = False  # a step is being made: its time counts
        self._spent_s = 0.0  # by the steps before it
        self._figures: dict[str, float] = {}
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._live:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                ProgressColumn,
                SpinnerColumn,
                Task,
                TextColumn,
                TimeRemainingColumn,
            )
            from rich.table import Column
            from rich.text import Text

            so_far = self.so_far

            class SoFarColumn(ProgressColumn):
                max_refresh = 0.5

                def render(self, _task: Task) -> Text:
                    return Text(so_far())

            def whole() -> Column:
                return Column(no_wrap=True)

            rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # on a narrow terminal figures give way, not the bar
            self._bar = Progress(
                SpinnerColumn(table_column=whole()), TextColumn("{task.description:<10}", table_column=whole()),
                BarColumn(bar_width=20, table_column=Column(no_wrap=True, min_width=12)),
                MofNCompleteColumn(table_column=whole()), TimeRemainingColumn(table_column=whole()),
                SoFarColumn(table_column=whole()),
                TextColumn("{task.fields[figures]}", table_column=rest), transient=True, expand=True,
                get_time=self._now, console=Console(stderr=True, emoji=False),
            )  # fmt: skip
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, event: Event) -> None:
        """Bring the screen up to date with one event."""
        self._at = float(event["at_ms"]) / 1000 if "at_ms" in event else None
        self._change(event)
        self._at = None

    def _now(self) -> float:
        return self._clock() if self._at is None else self._at

    def so_far(self) -> str:
        """`0:03:12 so far, 0.0012 USD`: of the whole run, the step in work included."""
        spent_s = self._spent_s + (max(0.0, self._now() - self._began) if self._working else 0.0)
        cost = f", {spent_s * self._rate / 3600 / 1e6:.4f} {self._currency}" if self._rate else ""
        return f"{timedelta(seconds=int(spent_s))} so far{cost}"

    def _change(self, event: Event) -> None:
        match event["kind"]:
            case "step_started":
                self._start(event)
            case "progress":
                self._move(event)
            case "metric":
                self._figures[event["name"]] = float(event["value"])
            case "note":
                self._line(f"  {event['text']}")
            case "warning":
                self._line(f"  Note: {event['text']}")
            case "step_done":
                self._done(event)

    def _start(self, event: Event) -> None:
        self._step, self._figures = str(event["step"]), {}
        self._began = self._told = self._now()
        self._working = not event.get("cached")
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(self._step, total=None, figures="")

    def _move(self, event: Event) -> None:
        shown = {**self._figures, **{k: v for k, v in event.items() if k not in _KNOWN and isinstance(v, (int, float))}}
        text = "  ".join(f"{name} {_short(value)}" for name, value in list(shown.items())[:_FIGURES])
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=event["total"], completed=event["done"], figures=text)
        elif self._bar is None and self._now() - self._told >= _EVERY_S:
            self._told = self._now()
            self._line(f"  {self._step:<10} {self._left(event):<16} {self.so_far()}  {text}".rstrip())

    def _left(self, event: Event) -> str:
        """`35%, 4 min left`, as far as it went until now."""
        done, total = event["done"], event["total"]
        if not done or not total or done > total:
            return f"{done:,}" if done else "in work"
        seconds = (self._now() - self._began) * (total - done) / done
        return f"{done / total:.0%}, {f'{seconds / 60:.0f} min' if seconds >= 90 else f'{seconds:.0f} s'} left"

    def _done(self, event: Event) -> None:
        self._working = False
        self._spent_s += float(event["seconds"])
        took = "from the cache" if event["cached"] else f"{event['seconds']:.1f} s"
        shown = [f"{key} {_short(value)}" for key, value in (event.get("figures") or {}).items() if _is_figure(value)]
        self._line(f"  {event['step']:<10} {took:<16} {'  '.join(shown[:_FIGURES])}".rstrip())

    def _line(self, text: str) -> None:
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201


_KNOWN = {"kind", "done", "total", "unit", "at_ms", "step", "at"}


def _is_figure(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
