"""`tollway export …`: the shop's models where there is no gateway."""

from pathlib import Path
from typing import Annotated

import typer

from tollway.faces.cli import find
from tollway.faces.cli.desk import Desk, command, group

app = group("Take a model, or the shop, elsewhere.")


@command(app, "edge")
def edge(
    desk: Desk,
    model: Annotated[str, typer.Argument(help="A model, or NAME@VERSION.", metavar="MODEL")],
    org: Annotated[str, typer.Option("--org", help="The organization that pays for what the device uses.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder.", metavar="DIR")],
    format_: Annotated[str, typer.Option("--format", help="onnx, onnx-int8, litert …; what is served by default.")] = "",
    name: Annotated[str, typer.Option("--name", help="What to call the device.")] = "",
) -> None:
    """A folder that runs a model on a small device, offline, and counts what is used in a signed log."""
    from tollway.flows import export_edge

    with desk.shop.db.read() as conn:
        org_id = find.organization(conn, org).id
    made = export_edge.export(desk.shop, model, org_id, out, form=format_, name=name)
    lines = [
        f"{made.model}@{made.version} ({made.format}) is in {made.folder}: {made.size_bytes / 1e6:.1f} MB, device {made.device}.",
        f"It needs Python 3.11 and {', '.join(made.needs)}. device.json holds its key: copy the folder, do not publish it.",
    ]
    desk.answer(made, lambda: "\n".join(lines))
    desk.then(f'python {made.folder}/edge.py classify "…"', f"and later: TOLLWAY_KEY=… python {made.folder}/edge.py sync")
