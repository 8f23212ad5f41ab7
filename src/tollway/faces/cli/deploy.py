"""`tollway deploy NAME`: which version of a model buyers reach, and what they pay for it."""

import json
from typing import Annotated

import msgspec
import typer

from tollway.faces.cli.desk import Desk, amount, command, nearest, pairs
from tollway.flows import release
from tollway.kit.errors import BadRequest, NotFound
from tollway.kit.formats import ROWS
from tollway.sell import catalog

app = typer.Typer(add_completion=False)


@command(app)
def deploy(
    desk: Desk,
    name: Annotated[str, typer.Argument(help="A package on the shelf.", metavar="NAME")],
    version: Annotated[
        str | None, typer.Option("--version", help="The newest by default; an older one rolls back.")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option("--price", help="METER=PRICE per 1M units, for this model on --plan; repeat. "
                     f"Meters: {', '.join(catalog.METERS)}."),
    ] = None,
    plan: Annotated[
        str | None, typer.Option("--plan", help="The plan it is sold on: a known one, or the name of a new one.")
    ] = None,
    move: Annotated[
        bool, typer.Option("--move-subscribers", help="Those on the plan get the new prices at once.")
    ] = False,
) -> None:  # fmt: skip
    """Make a model version the one that buyers reach, with its price. Running gateways move over within a second."""
    prices = [(_meter(meter), amount(text)) for meter, text in pairs(price or [], "--price")]
    wanted = release.plan_to_sell_on(desk.shop, plan) if prices or plan else None
    try:
        offered = release.deploy(desk.shop, name, version)
    except NotFound as error:
        known = {package.manifest.name for package in desk.shop.store.list()} - {name}
        error.message += nearest(name, known)
        raise
    sold, moved = release.sell(desk.shop, name, wanted, prices, move=move) if wanted else (None, 0)
    desk.settle()
    path, body = release.sample_call(desk.shop, offered)
    curl = _curl(desk.settings.url + path, body)
    data = msgspec.to_builtins(offered) | {"curl": curl, "path": path, "plan": sold and msgspec.to_builtins(sold)}
    lines = [f"{name} is answered by version {offered.version}."]
    if sold is not None:
        lines.append(
            f"It is sold on {sold.plan_name}, version {sold.version}" + (f"; {moved} moved to it." if moved else ".")
        )
    desk.answer(data | {"moved": moved}, lambda: "\n".join([*lines, "", curl]))
    if sold is not None and not move:
        desk.then(f"tollway subscription start ORG {sold.plan_name}", "puts an organization on these prices")
    else:
        desk.then(f"tollway model lineage {name}" if offered.engine in ROWS else f"tollway model show {name}")


def _meter(name: str) -> str:
    if name not in catalog.METERS:
        raise BadRequest(
            f"There is no meter {name!r}.{nearest(name, catalog.METERS)}",
            hint=f"Use one of: {', '.join(catalog.METERS)}.",
        )
    return name


def _curl(url: str, body: dict[str, object]) -> str:
    """A call to copy; the key comes from the environment."""
    text = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
    return f"curl {url} -H \"Authorization: Bearer $TOLLWAY_KEY\" -H 'Content-Type: application/json' \\\n  -d '{text}'"
