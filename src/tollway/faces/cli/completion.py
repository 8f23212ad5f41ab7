"""`tollway completion`: the text that teaches a shell to complete our commands."""

import os
from pathlib import Path
from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]

from tollway.faces.cli.desk import Desk, command
from tollway.faces.cli.root import COMPLETE
from tollway.kit.errors import BadRequest

app = typer.Typer(add_completion=False)
SHELLS = {"bash": "~/.bashrc", "zsh": "~/.zshrc", "fish": "~/.config/fish/completions/tollway.fish"}


@command(app)
def completion(
    desk: Desk,
    shell: Annotated[str | None, typer.Argument(help="bash, zsh or fish; the running one by default.")] = None,
) -> None:
    """Print the script that makes your shell complete tollway commands."""
    name = shell or Path(os.environ.get("SHELL", "")).name or "bash"
    if name not in SHELLS:
        raise BadRequest(f"There is no completion for {name!r}.", hint=f"Use one of: {', '.join(SHELLS)}.")
    script = get_completion_script(prog_name="tollway", complete_var=COMPLETE, shell=name)
    desk.answer({"shell": name, "script": script}, lambda: script)
    desk.then(f"tollway completion {name} >> {SHELLS[name]}", "then open a new shell")
