"""The `tollway` command: which commands there are, loaded only when used, and what an error looks like.

Keeping each command's module out of the start is what makes `tollway --help` answer in a blink: it imports no database,
no web framework, no engine. A test keeps it so.
"""

import importlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]
from typer.core import TyperGroup
from typer.main import get_command as to_command

from tollway.kit.errors import BadRequest, TollwayError, Unavailable

COMPLETE: Final = "_TOLLWAY_COMPLETE"
RUN, MAKE, SERVE, SELL, LOOK = "Run the shop", "Make models", "Serve models", "Sell them", "See how it goes"
_FACTORY: Final = frozenset({"torch", "transformers", "pyarrow", "sklearn", "onnx", "onnxscript", "peft", "optuna", "scipy", "yaml"})

_UsageError: Any = typer.BadParameter.__base__  # Typer brings its own copy of click, and this is the way to the class

# name -> (module, panel of the help, one line)
COMMANDS: Final = {
    "up": ("up", RUN, "Start the shop: gateway, console and models."),
    "status": ("status", RUN, "What is running, and today's business."),
    "login": ("login", RUN, "The console's address and a new operator password."),
    "config": ("config", RUN, "Every setting, its value and where that came from."),
    "doctor": ("doctor", RUN, "Check this machine and say how to fix what is wrong."),
    "dataset": ("dataset", MAKE, "Data: import, check, split, clean, mask, augment."),
    "recipe": ("recipe", MAKE, "Recipes: how a model is made, in one TOML file."),
    "run": ("run", MAKE, "Execute recipes: start, watch, compare, report."),
    "model": ("model", SERVE, "Import, add, list, verify and retire models."),
    "deploy": ("deploy", SERVE, "Make a model version the one that buyers reach."),
    "export": ("export", SERVE, "Take a model to a device, or the shop to a cluster."),
    "device": ("device", SERVE, "Devices that answer on their own, and their usage."),
    "org": ("org", SELL, "Organizations: who buys."),
    "member": ("member", SELL, "People who sign in to the console."),
    "key": ("key", SELL, "API keys: issue, list, revoke."),
    "plan": ("plan", SELL, "Plans: what is sold, in versions."),
    "price": ("price", SELL, "The prices of a plan."),
    "subscription": ("subscription", SELL, "Which organization is on which plan."),
    "wallet": ("wallet", SELL, "Prepaid money: balance, top-up, grant."),
    "invoice": ("invoice", SELL, "Draft, finalise, pay, void, PDF."),
    "usage": ("usage", LOOK, "What was used, by day, model, key or organization."),
    "economics": ("economics", LOOK, "Unit cost and margin; what the machine cost and earned."),
    "audit": ("audit", LOOK, "Prove that the books balance."),
    "version": ("version", LOOK, "Versions of Tollway and of what it stands on."),
    "completion": ("completion", LOOK, "The line that makes your shell complete commands."),
}


class Root(TyperGroup):
    """Knows all commands by name and loads the one that is asked for; for the help, names are enough."""

    _for_help = False

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> Any:
        with _mistakes_told(as_json="--json" in args):
            return super().make_context(info_name, args, *more, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _mistakes_told(as_json="--json" in ctx.args):
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, panel, line = COMMANDS[cmd_name]
        if self._for_help:
            return TyperGroup(name=cmd_name, help=line, rich_help_panel=panel)
        command = to_command(importlib.import_module(f"tollway.faces.cli.{module}").app)
        command.name, command.help = cmd_name, command.help or line
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._for_help = True
        super().format_help(ctx, formatter)
        self._for_help = False

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = {name: TyperGroup(name=name) for name in COMMANDS}  # what a typo is compared with
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Root,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn a model into a subscription API, and see whether it makes money.",
    epilog="Start with: tollway up      Every command takes --home DIR and --json.",
)


@app.callback()
def _root() -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code. Errors are short: what and why, what to do; no traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if COMPLETE in os.environ:  # the shell asks what could come next (see `tollway completion`)
        completion_init()
    if arguments in (["--version"], ["-V"]):
        arguments = ["version"]
    try:
        _require_command_first(arguments)
        app(args=arguments, prog_name="tollway")
    except TollwayError as error:
        _tell(error, as_json="--json" in arguments)
        sys.exit(error.exit_code)
    except Exception as error:
        trouble = _database_trouble(error) or _missing_factory(error)
        if trouble is None:
            raise
        _tell(trouble, as_json="--json" in arguments)
        sys.exit(trouble.exit_code)


@contextmanager
def _mistakes_told(as_json: bool) -> Iterator[None]:
    """A command line that cannot be read is told on stderr by Typer; whoever asked for JSON has it on stdout as well."""
    try:
        yield
    except _UsageError as error:
        if as_json:
            path = error.ctx.command_path if error.ctx is not None else "tollway"
            _print_error("invalid_request", error.format_message(), f"See `{path} -h`.")
        raise


def _require_command_first(arguments: list[str]) -> None:
    first = arguments[0].partition("=")[0] if arguments else ""
    if first in ("--home", "--json"):
        example = f"tollway status {arguments[0]}" + (" DIR" if arguments[0] == "--home" else "")
        raise BadRequest(
            f"{first} stands behind the command.", code="option_before_command", hint=f"For example: {example}"
        )


def _tell(error: TollwayError, as_json: bool) -> None:
    sys.stderr.write(f"Error: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"Do this: {error.hint}\n")
    if as_json:
        _print_error(error.code, error.message, error.hint)


def _print_error(code: str, message: str, hint: str | None) -> None:
    body = {"error": {"code": code, "message": message, "hint": hint}}
    sys.stdout.write(json.dumps(body, ensure_ascii=False) + "\n")


def _missing_factory(error: Exception) -> TollwayError | None:
    """A library of the factory that is not installed: `make run` alone does not bring them."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if name not in _FACTORY:
        return None
    return Unavailable(
        f"Making models needs {name}, which is not installed.",
        code="factory_not_installed",
        hint="Run `make setup-factory`, or pip install 'tollway[factory]'.",
    )


def _database_trouble(error: Exception) -> TollwayError | None:
    """A full disk, a lock that lasts, a server that went away: the driver's first line, without SQL and values."""
    sqlalchemy = sys.modules.get("sqlalchemy")  # not loaded means: it cannot be one of its errors
    if sqlalchemy is None or not isinstance(error, sqlalchemy.exc.DBAPIError):
        return None
    said = (str(error.orig).strip().splitlines() or ["no reason given"])[0][:200]
    return Unavailable(f"The database said: {said}.", code="database_unavailable", hint="`tollway doctor` shows why.")
