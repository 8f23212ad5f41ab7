"""`tollway model serving`: how many replicas a model has on this machine, and when it may leave memory."""

from typing import Annotated, Any

import msgspec
import typer

from tollway.faces.cli import tables
from tollway.faces.cli.desk import Desk, command
from tollway.flows import release
from tollway.kit.errors import BadRequest
from tollway.kit.money import parse_micros
from tollway.serve import models

Name = Annotated[str, typer.Argument(help="The name buyers call.", metavar="NAME")]


def add_to(app: typer.Typer) -> None:
    """Among the commands about models."""
    command(app, "serving")(serving)


def serving(
    desk: Desk,
    name: Name,
    replicas: Annotated[
        str | None, typer.Option("--replicas", help="How many, as 2 or 1-4; from 0 on: none while nobody calls.")
    ] = None,
    idle_s: Annotated[float | None, typer.Option("--idle-s", help="Unload after so long without a call.")] = None,
    wait_s: Annotated[
        float | None, typer.Option("--wait-s", help="Start another when calls would wait longer.")
    ] = None,
    pin: Annotated[bool | None, typer.Option("--pin/--no-pin", help="It never gives way to another model.")] = None,
    cost_limit: Annotated[
        str | None, typer.Option("--cost-limit", help="What its replicas may cost an hour; 0: no limit.")
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="As the settings say again.")] = False,
) -> None:
    """How a model is served: replicas, memory, cost. Without options: as it is."""
    with desk.shop.db.read() as conn:
        model = models.get_model(conn, name)
    now = models.Serving() if default else model.serving
    least, most = _replicas(replicas) if replicas is not None else (now.replicas_min, now.replicas_max)
    wanted = models.Serving(
        replicas_min=least,
        replicas_max=most,
        idle_s=now.idle_s if idle_s is None else idle_s,
        wait_s=now.wait_s if wait_s is None else wait_s,
        pinned=now.pinned if pin is None else pin,
        limit_micros_per_hour=now.limit_micros_per_hour if cost_limit is None else _micros(cost_limit),
    )
    served = release.serve(desk.shop, name, wanted)
    desk.until_noticed()
    desk.answer(msgspec.to_builtins(served), lambda: _serving_card(desk, served))
    desk.then("tollway status", "says whether it is ready")


def _replicas(text: str) -> tuple[int, int]:
    least, dash, most = text.partition("-")
    if not (least.isdigit() and (most.isdigit() or not dash)):
        raise BadRequest(f"{text!r} is no number of replicas.", hint="Write 2, or 1-4.")
    return int(least), max(1, int(most or least))


def _micros(text: str) -> int:
    try:
        return parse_micros(text)
    except ValueError as error:
        raise BadRequest(f"--cost-limit: {error}.", hint="Write it as 0.25.") from error


def _serving_card(desk: Desk, model: models.Model) -> Any:
    settings, own = desk.shop.settings, model.serving
    limit = own.limit_micros_per_hour
    least = settings.replicas_min if own.replicas_min is None else own.replicas_min
    most = settings.replicas_max if own.replicas_max is None else own.replicas_max
    return tables.record(
        {
            "model": model.name,
            "replicas": f"{least} to {most}" if least != most else str(least),
            "another when calls wait": f"{settings.replica_wait_s if own.wait_s is None else own.wait_s:g} s",
            "unloaded after": f"{settings.replica_idle_s if own.idle_s is None else own.idle_s:g} s"
            if not least
            else "never",
            "gives way to others": "no, pinned"
            if own.pinned
            else "when memory is short"
            if settings.memory_bytes_max
            else "no, memory_bytes_max is not set",
            "may cost an hour": f"{limit / 1e6:g} {settings.currency}" if limit else "any",
        }
    )
