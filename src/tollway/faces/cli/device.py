"""`tollway device …`: what was exported to devices, how far their usage is in the books."""

from typing import Annotated

import msgspec
import typer

from tollway.faces.cli import find, tables
from tollway.faces.cli.desk import Desk, Yes, command, group
from tollway.kit.clock import from_ms
from tollway.sell import edge_devices
from tollway.sell.edge_devices import EdgeDevice

app = group("Devices that answer on their own, and their usage.")


@command(app, "list")
def list_(
    desk: Desk, org: Annotated[str | None, typer.Option("--org", help="Only this organization's.")] = None
) -> None:
    """Devices, newest first: model, entries in the books, when they were last heard."""
    with desk.shop.db.read() as conn:
        org_id = find.organization(conn, org).id if org else None
        devices = edge_devices.list_devices(conn, org_id)
    columns = {"id": "device", "name": "name", "model": "model", "entries": "entries", "heard": "last heard", "state": "state"}
    desk.answer(devices, lambda: tables.table([_row(one) for one in devices], columns, empty="No devices yet."))
    desk.then("tollway model list", "`tollway export edge` takes one of them to a device")


@command(app, "revoke")
def revoke(
    desk: Desk, device: Annotated[str, typer.Argument(help="Its id.", metavar="DEVICE")], yes: Yes = False
) -> None:
    """Take no more usage from a device. What it sent stays billed; it goes on answering where it is."""
    with desk.shop.db.read() as conn:
        found = edge_devices.get(conn, device)
    desk.confirm(f"Take nothing more from {found.name} ({found.head_n} entries are in the books)?", yes)
    with desk.write() as conn:
        gone = edge_devices.revoke(conn, desk.now_ms, device)
    desk.answer(gone, lambda: f"{gone.name} is revoked: what it sends is refused.")
    desk.then("tollway device list")


def _row(device: EdgeDevice) -> dict[str, str]:
    shown = msgspec.structs.asdict(device)
    heard = from_ms(device.synced_ms).strftime("%Y-%m-%d %H:%M") if device.synced_ms else "never"
    state = "revoked" if device.revoked_ms else "active"
    return {name: str(shown[name]) for name in ("id", "name")} | {
        "model": f"{device.model}@{device.model_version}",
        "entries": f"{device.head_n:,}",
        "heard": heard,
        "state": state,
    }
