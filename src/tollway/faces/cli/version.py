"""`tollway version`: what is installed, for bug reports."""

from importlib import metadata
from platform import machine, python_version, system

import typer

from tollway import __version__
from tollway.faces.cli.desk import Desk, command

app = typer.Typer(add_completion=False)
_STANDS_ON = ("xllamacpp", "uvicorn", "sqlalchemy", "pysqlite3", "psycopg", "cryptography")


@command(app)
def version(desk: Desk) -> None:
    """Versions of Tollway and of what it stands on."""
    found = {"tollway": __version__, "python": python_version(), "platform": f"{system()} {machine()}"}
    for name in _STANDS_ON:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    desk.answer(found, lambda: "\n".join(f"{name:<14}{value}" for name, value in found.items()))
    desk.then("tollway doctor", "checks that all of it works here")
