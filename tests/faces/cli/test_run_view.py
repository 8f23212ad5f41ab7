"""A run on a terminal: what is shown goes by the time of the events, whenever they are read."""

import io

import pytest
from rich.console import Console

from tollway.faces.cli import run_view


def events(*progress: tuple[float, int]) -> list[dict[str, object]]:
    """A step of 100 that began at second 0; `(second, done)` each."""
    begun = {"kind": "step_started", "step": "train", "cached": False, "at_ms": 0}
    return [begun, *({"kind": "progress", "done": done, "total": 100, "at_ms": s * 1000, "loss": 0.5} for s, done in progress)]


def test_where_nobody_watches_a_long_step_speaks_every_half_minute(capsys):
    with run_view.RunView(3_600_000_000, "USD") as view:
        for event in events((10, 1), (31, 10), (40, 12), (62, 20), (63, 21)):
            view.show(event)
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[:4] for line in said] == [["train", "10%,", "5", "min"], ["train", "20%,", "4", "min"]]
    assert "0:00:31 so far, 31.0000 USD  loss 0.5" in said[0]


def test_seconds_are_said_when_little_is_left(capsys):
    with run_view.RunView() as view:
        for event in events((60, 80)):
            view.show(event)
    assert "80%, 15 s left" in capsys.readouterr().err


@pytest.mark.parametrize("width", [80, 110, 160])
def test_on_a_narrow_terminal_the_figures_give_way(width, monkeypatch):
    monkeypatch.setattr(run_view.sys.stderr, "isatty", lambda: True, raising=False)
    screen = io.StringIO()
    with run_view.RunView(3_600_000_000, "USD", clock=lambda: 21.5) as view:
        begun, *later = events((10, 10), (20, 20))
        view.show(begun)
        for event in later:
            view.show({**event, "train.loss": 0.123456789, "train.accuracy": 0.987654321, "train.rate": 0.000123456})
        Console(file=screen, width=width).print(view._bar.get_renderable())
    (line,) = screen.getvalue().rstrip().splitlines()
    assert "train" in line and "20/100" in line and "0:01:20" in line and "0:00:21 so far, 21.5000 USD" in line


def test_who_joins_in_the_middle_sees_how_long_it_takes(monkeypatch):
    """All events are read at once, as `run watch` does: what is left follows from when they happened."""
    monkeypatch.setattr(run_view.sys.stderr, "isatty", lambda: True, raising=False)
    screen = io.StringIO()
    with run_view.RunView(3_600_000_000, "USD", clock=lambda: 33.0) as view:
        view._bar.console.file = screen
        assert isinstance(view._bar.console, Console)
        for event in events((10, 10), (20, 20), (30, 30)):
            view.show(event)
        (task,) = view._bar.tasks
        assert task.speed == 1.0 and task.time_remaining == 70
        assert view.so_far() == "0:00:33 so far, 33.0000 USD", "it goes on between two events"


def test_what_is_so_far_is_the_whole_run_s_and_what_came_from_the_cache_costs_nothing():
    now = 40.0
    with run_view.RunView(3_600_000_000, "USD", quiet=True, clock=lambda: now) as view:
        view.show({"kind": "step_started", "step": "data", "cached": True, "at_ms": 0})
        assert view.so_far().startswith("0:00:00")
        view.show({"kind": "step_done", "step": "data", "cached": True, "seconds": 0.0, "at_ms": 0})
        view.show({"kind": "step_started", "step": "train", "cached": False, "at_ms": 10_000})
        assert view.so_far() == "0:00:30 so far, 30.0000 USD"
        view.show({"kind": "step_done", "step": "train", "cached": False, "seconds": 29.5, "at_ms": 40_000})
        now = 60.0
        assert view.so_far() == "0:00:29 so far, 29.5000 USD", "between two steps nothing is made"
