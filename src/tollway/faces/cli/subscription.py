"""`tollway subscription …`: which organization is on which plan version."""

from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
import typer

from tollway.faces.cli import find, tables
from tollway.faces.cli.desk import Desk, Yes, command, group, quoted
from tollway.kit.errors import NotFound
from tollway.sell import accounts, catalog, unpriced
from tollway.serve import models

app = group("Which organization is on which plan.")
Org = Annotated[str, typer.Argument(help="Name or id of the organization.", metavar="ORG")]
_COLUMNS = {"organization": "organization", "plan": "plan", "version": "version", "started": "since", "id": "id"}


@command(app, "start")
def start(
    desk: Desk,
    org: Org,
    plan: Annotated[str, typer.Argument(help="The plan's short name.", metavar="PLAN")],
    version: Annotated[int | None, typer.Option("--version", help="The newest by default.")] = None,
) -> None:
    """Subscribe an organization; a running subscription ends at the same moment, and what only that included is named."""
    with desk.write() as conn:
        one = find.organization(conn, org)
        chosen = find.plan(conn, plan, version)
        before = catalog.running_plan(conn, one.id)
        made = catalog.subscribe(conn, desk.now_ms, one.id, chosen.id)
        lost = _lost(conn, before, chosen)
    data = _row(made, one.name, chosen)
    desk.answer(data, lambda: tables.table([data], _COLUMNS))
    if before is not None and lost:
        desk.say(
            f"Warning: calls of {one.name} to {', '.join(lost)} are refused from now on; {before.plan_name} included them.",
            f"The way back: tollway subscription start {quoted(one.name)} {before.plan_name} --version {before.version}",
        )
    step = (
        f"tollway wallet top-up {quoted(one.name)} 10"
        if chosen.terms.overage == "wallet"
        else f"tollway key create {quoted(one.name)}"
    )
    desk.then(step)


@command(app, "list")
def list_(desk: Desk) -> None:
    """All running subscriptions."""
    with desk.shop.db.read() as conn:
        versions = catalog.plan_versions(conn)
        rows = [
            _row(running, one.name, versions[running.plan_version_id])
            for one in accounts.list_organizations(conn)
            if (running := catalog.running_subscription(conn, one.id)) is not None
        ]
    desk.answer(rows, lambda: tables.table(rows, _COLUMNS))
    if rows:
        desk.then(f"tollway subscription show {quoted(rows[0]['organization'])}")
    else:
        desk.then("tollway plan list", "what organizations can be put on: tollway subscription start")


@command(app, "show")
def show(desk: Desk, org: Org) -> None:
    """The running subscription of an organization."""
    with desk.shop.db.read() as conn:
        one = find.organization(conn, org)
        running = _running(conn, one)
        data = _row(running, one.name, catalog.plan_versions(conn)[running.plan_version_id])
    desk.answer(data, lambda: tables.table([data], _COLUMNS))
    desk.then(f"tollway invoice draft {quoted(one.name)}")


@command(app, "cancel")
def cancel(desk: Desk, org: Org, yes: Yes = False) -> None:
    """End the running subscription now; its calls are refused from then on."""
    with desk.shop.db.read() as conn:
        one = find.organization(conn, org)
        running = _running(conn, one)
    desk.confirm(f"{one.name} is served no longer from now on; the last invoice can still be drafted.", yes)
    with desk.write() as conn:
        catalog.cancel(conn, desk.now_ms, one.id)
    desk.answer({"id": running.id, "ended": True}, lambda: f"The subscription of {one.name} has ended.")
    desk.then(f"tollway invoice draft {quoted(one.name)}")


def _lost(conn: sa.Connection, before: catalog.PlanVersion | None, after: catalog.PlanVersion) -> list[str]:
    """Models on offer to all that the plan before included and the next one does not."""
    if before is None:
        return []
    names = [one.name for one in models.list_models(conn) if not one.org_id]
    return [one for one in names if unpriced.sells(before.terms, one) and not unpriced.sells(after.terms, one)]


def _running(conn: sa.Connection, one: accounts.Organization) -> catalog.Subscription:
    running = catalog.running_subscription(conn, one.id)
    if running is None:
        raise NotFound(
            f"{one.name} has no running subscription.", hint=f"`tollway subscription start {quoted(one.name)} PLAN`."
        )
    return running


def _row(one: catalog.Subscription, organization: str, plan: catalog.PlanVersion) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(one)
    return plain | {
        "organization": organization,
        "plan": plan.plan_name,
        "version": plan.version,
        "started": tables.moment(one.started_ms),
    }
