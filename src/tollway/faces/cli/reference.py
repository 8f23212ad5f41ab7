"""Writes docs/cli.md and docs/settings.md from the commands and the table of settings themselves.

    python -m tollway.faces.cli.reference cli > docs/cli.md
    python -m tollway.faces.cli.reference settings > docs/settings.md

A test compares, so that neither page can fall behind.
"""

import importlib
import inspect
import sys
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from tollway.faces.cli.root import COMMANDS
from tollway.kit.settings import TABLE

_SHARED = ("home", "as_json")


def cli() -> str:
    """docs/cli.md: every command with its arguments and options."""
    lines = [
        "# The command line",
        "",
        "Written by `make docs` from the commands themselves.",
        "",
        "Every command takes `--home DIR` (default `$TOLLWAY_HOME`, or `~/.tollway`) and `--json`: exactly one JSON document",
        "on stdout. Tables go to stdout too; everything else, also the next step, goes to stderr. With `--json` an error is",
        '`{"error": {"code", "message", "hint"}}`.',
        "",
        "| exit code | meaning |",
        "|---|---|",
        *[f"| {code} | {meaning} |" for code, meaning in sorted(_exit_codes().items())],
        "",
    ]
    panel = ""
    for name, (_, of_panel, line) in COMMANDS.items():
        if of_panel != panel:
            panel = of_panel
            lines += [f"## {panel}", ""]
        lines += [f"### tollway {name}", "", line, ""]
        for path, command in _leaves(name, _load(name)):
            lines += _described(path, command, alone=path == name)
    return "\n".join(lines).rstrip() + "\n"


def settings() -> str:
    """docs/settings.md: the table of settings."""
    lines = [
        "# Settings",
        "",
        "Written by `make docs` from the table in `src/tollway/kit/settings.py`.",
        "",
        "A flag of `tollway up` comes before the environment, the environment before `tollway.toml` in the home, that before",
        "the default. `tollway config show` says where each value came from. They are read once, at the start.",
        "",
        "| in `tollway.toml` | in the environment | kind | default | meaning |",
        "|---|---|---|---|---|",
    ]
    for one in TABLE:
        default = "" if one.default == "" else f"`{one.default}`"
        lines.append(f"| `{one.name}` | `TOLLWAY_{one.name.upper()}` | {one.kind.__name__} | {default} | {one.help} |")
    return "\n".join(lines) + "\n"


def recipes() -> str:
    """docs/recipes.md: every setting of a recipe, and what each architecture can be told."""
    from tollway.forge import recipe
    from tollway.forge.models import options

    lines = [
        "# Recipes", "",
        "A recipe is one TOML file: how a model is made. `tollway recipe new NAME --dataset DATASET` writes one that works;",
        "`tollway recipe check FILE` names every problem in it at once; `tollway run start FILE` makes the model.",
        "[How to make a model](factory.md)", "",
        "## Tasks", "", ", ".join(f"`{task}`" for task in recipe.TASKS) + ".", "",
    ]  # fmt: skip
    for part, field in recipe.Recipe.model_fields.items():
        kind = recipe.part_of(field.annotation)
        said = inspect.cleandoc(kind.__doc__ or "").partition(": ")[2]
        lines += [f"## `[{part}]`", "", said[0].upper() + said[1:], ""]
        lines += _table([row for row in recipe.settings() if row["part"] == part])
    lines += ["## Architectures: `[model] architecture` and its `options`", ""]
    for name, one in options.ARCHITECTURES.items():
        lines += [f"### `{name}`", "", f"{one.help[0].upper()}{one.help[1:]}. For {', '.join(one.tasks)}.", ""]
        lines += _table(recipe.rows_of("", one.options))
    return "\n".join(lines).rstrip() + "\n"


def _table(rows: list[dict[str, str]]) -> list[str]:
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    lines += [f"| `{row['name']}` | `{row['default']}` | {row['help'].replace('|', '/')} |" for row in rows]
    return [*lines, ""]


def _load(name: str) -> Any:
    return get_command(importlib.import_module(f"tollway.faces.cli.{COMMANDS[name][0]}").app)


def _leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", {})
    if not children:
        yield path, command
    for name, child in children.items():
        yield from _leaves(f"{path} {name}", child)


def _described(path: str, command: Any, alone: bool) -> list[str]:
    own = [one for one in command.params if one.name not in (*_SHARED, "help")]
    arguments = [one for one in own if one.param_type_name == "argument"]
    shown = " ".join([path, *(_placeholder(one) for one in arguments)])
    lines = [f"#### `tollway {shown}`", ""] if not alone else [f"`tollway {shown}`", ""]
    if not alone:
        lines += [inspect.cleandoc(command.help or ""), ""]
    for one in own:
        name = f"`{_placeholder(one)}`" if one in arguments else ", ".join(f"`{text}`" for text in one.opts)
        default = f" Default: `{one.default}`." if _worth_telling(one) else ""
        lines.append(f"- {name}: {one.help}{default}")
    return [*lines, ""] if own else lines


def _placeholder(argument: Any) -> str:
    name = argument.metavar or argument.name.upper().strip("_")
    return name if argument.required else f"[{name}]"


def _worth_telling(parameter: Any) -> bool:
    return (
        parameter.default not in (None, "", False, ...) and not callable(parameter.default) and bool(parameter.default)
    )


def _exit_codes() -> dict[int, str]:
    from tollway.kit import errors

    meanings: dict[int, list[str]] = {0: ["It worked."], 1: ["Something went wrong on our side, or a check failed."]}
    for one in vars(errors).values():
        if isinstance(one, type) and issubclass(one, errors.TollwayError) and one is not errors.TollwayError:
            meanings.setdefault(one.exit_code, []).append((one.__doc__ or "").strip())
    return {code: " ".join(texts) for code, texts in meanings.items()}


if __name__ == "__main__":
    pages = {"cli": cli, "settings": settings, "recipes": recipes}
    sys.stdout.write(pages[sys.argv[1]]())
