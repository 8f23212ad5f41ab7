"""`tollway config show`: every setting, its value, and whether a flag, a variable, the file or the default gave it."""

from tollway.faces.cli import tables
from tollway.faces.cli.desk import Desk, command, group

app = group("Every setting, its value and where that came from.")


@command(app, "show")
def show(desk: Desk) -> None:
    """The table of settings: value, source, meaning."""
    rows = desk.settings.rows()
    columns = {"name": "setting", "value": "value", "source": "from", "help": "meaning"}
    desk.answer(
        {"home": str(desk.home), "settings": rows},
        lambda: tables.table([row | {"value": str(row["value"])} for row in rows], columns),
    )
    desk.then(
        f"edit {desk.home / 'tollway.toml'}", "or set a variable; a running gateway reads them at its next start"
    )
