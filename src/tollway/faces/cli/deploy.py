"""`tollway deploy NAME`: which version of a model buyers reach."""

from typing import Annotated

import msgspec
import typer

from tollway.faces.cli.desk import Desk, command, nearest
from tollway.flows import release
from tollway.kit.errors import NotFound

app = typer.Typer(add_completion=False)


@command(app)
def deploy(
    desk: Desk,
    name: Annotated[str, typer.Argument(help="A package on the shelf.", metavar="NAME")],
    version: Annotated[
        str | None, typer.Option("--version", help="The newest by default; an older one rolls back.")
    ] = None,
) -> None:
    """Make a model version the one that buyers reach. Running gateways move over within a second."""
    try:
        offered = release.deploy(desk.shop, name, version)
    except NotFound as error:
        known = {package.manifest.name for package in desk.shop.store.list()} - {name}
        error.message += nearest(name, known)
        raise
    desk.settle()
    desk.answer(msgspec.to_builtins(offered), lambda: f"{name} is answered by version {offered.version}.")
    desk.then(f"tollway model show {name}")
