"""A real home with a real SQLite, and the command line run in this process."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tollway.faces.cli import main


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home."""
    made = tmp_path / "home"
    made.mkdir()
    return made


@pytest.fixture
def tollway(home: Path, capsys, monkeypatch) -> Callable[..., Ran]:
    """`tollway("org", "list")`: run it on the home, give back exit code, stdout and stderr."""
    monkeypatch.setenv("TOLLWAY_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        code = 0
        try:
            main(list(arguments))
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


@pytest.fixture
def ask(tollway) -> Callable[..., Any]:
    """`ask("org", "list")`: run it with --json, insist that it worked, give back the document."""

    def run(*arguments: str) -> Any:
        ran = tollway(*arguments, "--json")
        assert ran.code == 0, ran.err
        return ran.data

    return run


@pytest.fixture
def shop(ask) -> dict[str, Any]:
    """A plan, and an organization subscribed to it with ten dollars and a key."""
    ask("plan", "create", "pro", "--flat-fee", "9", "--price", "output_tokens=2", "--price", "input_tokens=0.5")
    org = ask("org", "create", "acme", "--email", "billing@acme.example")
    ask("subscription", "start", "acme", "pro")
    ask("wallet", "top-up", "acme", "10", "--reference", "first")
    return {"org": org, "key": ask("key", "create", "acme", "--name", "web")}
