"""`tollway org …`: the organizations that buy."""

from typing import Annotated

import msgspec
import typer

from tollway.faces.cli import find, next_step, tables
from tollway.faces.cli.desk import Desk, Yes, command, group, quoted
from tollway.flows import wallets
from tollway.sell import accounts, catalog

app = group("Organizations: who buys.")
Org = Annotated[str, typer.Argument(help="Name or id of the organization.", metavar="ORG")]


@command(app, "create")
def create(
    desk: Desk,
    name: Annotated[str, typer.Argument(help="How the organization is called.")],
    email: Annotated[str, typer.Option("--email", help="Where invoices go.")] = "",
) -> None:
    """Open an account for a buyer."""
    with desk.write() as conn:
        made = accounts.create_organization(conn, desk.now_ms, name, email)
    desk.answer(made, lambda: f"Organization {made.name} ({made.id})")
    desk.then(*next_step.plan_for(desk, made.name))


@command(app, "list")
def list_(desk: Desk) -> None:
    """All organizations with plan and wallet."""
    with desk.shop.db.read() as conn:
        rows = []
        for one in accounts.list_organizations(conn):
            plan, wallet = catalog.running_plan(conn, one.id), wallets.wallet_of(conn, one.id, desk.settings.currency)
            rows.append(
                msgspec.to_builtins(one)
                | {
                    "plan": plan.plan_name if plan else None,
                    "currency": wallet.currency,
                    "wallet_micros": wallet.micros,
                }
            )
    desk.answer(
        rows,
        lambda: tables.table(
            [
                row
                | {
                    "wallet": tables.money(row["wallet_micros"], row["currency"]),
                    "state": "suspended" if row["suspended_ms"] else "active",
                }
                for row in rows
            ],
            {"name": "organization", "id": "id", "plan": "plan", "wallet": "wallet", "state": "state"},
        ),
    )
    desk.then(f"tollway org show {quoted(rows[0]['name'])}" if rows else "tollway org create first-buyer")


@command(app, "show")
def show(desk: Desk, org: Org) -> None:
    """One organization: plan, wallet, people."""
    with desk.shop.db.read() as conn:
        one = find.organization(conn, org)
        plan, wallet = catalog.running_plan(conn, one.id), wallets.wallet_of(conn, one.id, desk.settings.currency)
        people = accounts.list_members(conn, one.id)
    data = msgspec.to_builtins(one) | {
        "plan": plan.plan_name if plan else None,
        "plan_version": plan.version if plan else None,
        "currency": wallet.currency,
        "wallet_micros": wallet.micros,
        "members": [person.email for person in people],
    }
    desk.answer(
        data,
        lambda: tables.record(
            {
                "name": one.name,
                "id": one.id,
                "invoices go to": one.billing_email,
                "since": tables.moment(one.created_ms),
                "state": f"suspended {tables.moment(one.suspended_ms)}" if one.suspended_ms else "active",
                "plan": f"{plan.plan_name}, version {plan.version}" if plan else "none",
                "wallet": tables.money(wallet.micros, wallet.currency),
                "members": data["members"],
            }
        ),
    )
    desk.then(f"tollway usage {quoted(one.name)}")


@command(app, "suspend")
def suspend(desk: Desk, org: Org, yes: Yes = False) -> None:
    """Stop serving an organization: all its keys are refused until `resume`."""
    with desk.shop.db.read() as conn:
        one = find.organization(conn, org)
    desk.confirm(f"All API keys of {one.name} will be refused at once.", yes)
    with desk.write() as conn:
        accounts.suspend(conn, desk.now_ms, one.id)
    desk.answer({"id": one.id, "suspended": True}, lambda: f"{one.name} is suspended.")
    desk.then(f"tollway org resume {quoted(one.name)}", "undoes it")


@command(app, "resume")
def resume(desk: Desk, org: Org) -> None:
    """Serve a suspended organization again."""
    with desk.write() as conn:
        one = find.organization(conn, org)
        accounts.resume(conn, one.id)
    desk.answer({"id": one.id, "suspended": False}, lambda: f"{one.name} is active.")
    desk.then(f"tollway org show {quoted(one.name)}")
