"""What every command works at: the home, the shop behind it, and two ways to speak.

Data goes to stdout (a table, or with `--json` exactly one JSON document), talk goes to stderr. A command is a function
that takes a `Desk` and its own options; `command` adds `--home` and `--json` to it and opens and closes the desk.
"""

import contextlib
import functools
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollway.kit.errors import BadRequest, Conflict, NotFound
from tollway.kit.settings import ADDRESS, Settings

if TYPE_CHECKING:
    import sqlalchemy as sa
    from rich.console import RenderableType

    from tollway.shop import Shop

Home = Annotated[
    Path | None, typer.Option("--home", help="The shop's directory.", show_default="$TOLLWAY_HOME or ~/.tollway")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def home_of(given: Path | None) -> Path:
    """The directory meant: the option, $TOLLWAY_HOME, or ~/.tollway."""
    return (given or Path(os.environ.get("TOLLWAY_HOME") or Path.home() / ".tollway")).expanduser().absolute()


class Desk:
    """One command's place of work. The shop opens when first asked for, so that `--help` and `version` need none."""

    def __init__(self, home: Path | None = None, as_json: bool = False) -> None:
        self.home = home_of(home)
        self.as_json = as_json
        self.flags: dict[str, Any] = {}
        self.make_home = False

    @cached_property
    def settings(self) -> Settings:
        """The settings of this home; flags a command took (`--port`) come first."""
        return Settings(self.home, self.flags)

    @cached_property
    def shop(self) -> "Shop":
        """The shop in this home: database (migrated), secrets, packages. Only `up` makes a home that is not there."""
        from tollway.kit import log
        from tollway.shop import Shop

        log.configure(self.settings.log_level)
        if not self.home.exists() and not self.make_home:
            raise NotFound(f"There is no shop in {self.home}.", hint=f"Start one with `tollway up --home {self.home}`.")
        return Shop.open(self.settings)

    @property
    def url(self) -> str:
        """Where the shop is reached: what the running gateway noted, or what the settings say."""
        return self.settings.reached_at

    def note_address(self) -> None:
        """Leave word of the address for other commands; `--port` is known to nobody else."""
        (self.home / ADDRESS).write_text(self.settings.url + "\n", encoding="utf-8")

    @property
    def now_ms(self) -> int:
        return self.shop.clock.now_ms()

    @contextmanager
    def write(self) -> "Iterator[sa.Connection]":
        """A write transaction; when the block ends, a running gateway knows of it too."""
        with self.shop.db.write() as conn:
            yield conn
        self.until_noticed()

    def until_noticed(self) -> None:
        """Give a running gateway the moment it needs to notice a change, so that what we print next is true there."""
        if (self.home / "gateway.lock").exists():
            from tollway.watch import doctor

            if doctor.running_pid(self.home) is not None:
                time.sleep(self.settings.refresh_s + 0.1)

    def close(self) -> None:
        if "shop" in self.__dict__:
            self.shop.close()

    # Speaking -------------------------------------------------------------------------------------------------------

    def answer(self, data: Any, view: "Callable[[], RenderableType | str] | None" = None) -> None:
        """The command's result: `data` as JSON, or what `view` draws for people."""
        if self.as_json:
            import msgspec

            plain = msgspec.to_builtins(data, builtin_types=(), enc_hook=str)
            sys.stdout.write(json.dumps(plain, ensure_ascii=False, indent=2) + "\n")
        elif view is not None:
            from rich.console import Console

            # A pipe has no width; a fixed wide one keeps rows on one line there.
            console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 180)
            shown = view()
            if isinstance(shown, str):  # as it is: what is to be pasted must not be broken into lines, nor read as markup
                console.print(shown, soft_wrap=True, markup=False)
            else:
                console.print(shown)

    def say(self, *lines: str) -> None:
        """Talk, on stderr: never mixed into the data."""
        with contextlib.suppress(OSError):  # nobody listens, or the disk behind stderr is full
            for line in lines:
                print(line, file=sys.stderr)  # noqa: T201

    def then(self, command: str, why: str = "") -> None:
        """The next step: how every command ends."""
        self.say(f"Next: {command}" + (f"   ({why})" if why else ""))

    def confirm(self, effect: str, yes: bool) -> None:
        """Say what will happen and ask, unless `--yes`; without a terminal to ask on, refuse."""
        if yes:
            return
        if not sys.stdin.isatty():
            raise Conflict(f"{effect} This needs a yes.", code="needs_confirmation", hint="Add --yes.")
        self.say(effect)
        if not typer.confirm("Go on?", err=True):
            raise typer.Exit(1)


def command(app: typer.Typer, name: str | None = None, **options: Any) -> Callable[[Callable[..., None]], Any]:
    """Register `function(desk, …)` as a command that also takes `--home` and `--json`."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "desk"]
        keyword = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter("home", keyword, default=None, annotation=Home),
            inspect.Parameter("as_json", keyword, default=False, annotation=AsJson),
        ]

        @functools.wraps(function)
        def run(*, home: Path | None = None, as_json: bool = False, **arguments: Any) -> None:
            desk = Desk(home, as_json)
            try:
                function(desk, **arguments)
            finally:
                desk.close()

        run.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *shared]}
        app.command(name, **options)(run)
        return run

    return register


def group(help_line: str) -> typer.Typer:
    """A group of commands, such as `tollway org …`."""
    app = typer.Typer(help=help_line, no_args_is_help=True, add_completion=False)
    app.callback()(lambda: None)  # a group of one stays a group
    return app


# Reading what people type ---------------------------------------------------------------------------------------------


def amount(text: str) -> int:
    """An amount of money as micros; BadRequest instead of ValueError."""
    from tollway.kit.money import parse_micros

    try:
        return parse_micros(text)
    except ValueError as error:
        raise BadRequest(f"{error}.", hint="Write it as a decimal number, for example 12.50.") from error


def pairs(given: Iterable[str], what: str) -> list[tuple[str, str]]:
    """`NAME=VALUE` options as pairs; BadRequest for anything else."""
    found = []
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise BadRequest(
                f"{text!r} is not a {what}.", hint=f"Write it as METER=VALUE, for example {what} output_tokens=2."
            )
        found.append((name.strip(), value.strip()))
    return found


def day(text: str) -> str:
    """A UTC day such as 2026-01-31, checked."""
    from datetime import date

    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise BadRequest(f"{text!r} is not a day.", hint="Write it as 2026-01-31 (UTC).") from error


def quoted(text: str) -> str:
    """A name as a shell takes it, for the commands we suggest."""
    from shlex import quote

    return quote(text)


def nearest(wanted: str, known: Iterable[str]) -> str:
    """` Did you mean X?`, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(wanted, list(known), n=1)
    return f" Did you mean `{close[0]}`?" if close else ""
