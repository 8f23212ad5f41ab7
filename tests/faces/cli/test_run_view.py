"""A run on a terminal: what is shown goes by the time of the events, whenever they are read."""

import io

from rich.console import Console

from tollway.faces.cli import run_view


def events(*progress: tuple[float, int]) -> list[dict[str, object]]:
    """A step of 100 that began at second 0; `(second, done)` each."""
    begun = {"kind": "step_started", "step": "train", "cached": False, "at_ms": 0}
    return [begun, *({"kind": "progress", "done": done, "total": 100, "at_ms": s * 1000, "loss": 0.5} for s, done in progress)]


def test_where_nobody_watches_a_long_step_speaks_every_half_minute(capsys):
    with run_view.RunView() as view:
        for event in events((10, 1), (31, 10), (40, 12), (62, 20), (63, 21)):
            view.show(event)
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[:4] for line in said] == [["train", "10%,", "5", "min"], ["train", "20%,", "4", "min"]]
    assert "loss 0.5" in said[0]


def test_seconds_are_said_when_little_is_left(capsys):
    with run_view.RunView() as view:
        for event in events((60, 80)):
            view.show(event)
    assert "80%, 15 s left" in capsys.readouterr().err


def test_who_joins_in_the_middle_sees_how_long_it_takes(monkeypatch):
    """All events are read at once, as `run watch` does: what is left follows from when they happened."""
    monkeypatch.setattr(run_view.sys.stderr, "isatty", lambda: True, raising=False)
    screen = io.StringIO()
    with run_view.RunView(3_600_000_000, "USD") as view:
        view._bar.console.file = screen
        assert isinstance(view._bar.console, Console)
        for event in events((10, 10), (20, 20), (30, 30)):
            view.show(event)
        (task,) = view._bar.tasks
        assert task.speed == 1.0 and task.time_remaining == 70
        assert "30.0000 USD" in task.fields["figures"]
