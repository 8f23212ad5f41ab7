"""`tollway org …`: the organizations that buy."""

from typing import Annotated

import msgspec
import typer

from tollway.faces.cli import find, tables
from tollway.faces.cli.desk import Desk, Yes, command, group, quoted
from tollway.sell import accounts, catalog, ledger

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
    desk.then(f"tollway subscription start {quoted(made.name)} starter", "then: tollway key create")


@command(app, "list")
def list_(desk: Desk) -> None:
    """All organizations with plan and wallet."""
    with desk.shop.db.read() as conn:
        versions = catalog.plan_versions(conn)
        rows = []
        for one in accounts.list_organizations(conn):
            running = catalog.running_subscription(conn, one.id)
            plan = versions[running.plan_version_id] if running else None
            currency = plan.terms.currency if plan else desk.settings.currency
            rows.append(
                msgspec.to_builtins(one)
                | {
                    "plan": plan.plan_name if plan else None,
                    "currency": currency,
                    "wallet_micros": ledger.wallet_micros(conn, one.id, currency),
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
    desk.then("tollway org show NAME" if rows else "tollway org create NAME")


@command(app, "show")
def show(desk: Desk, org: Org) -> None:
    """One organization: plan, wallet, people."""
    with desk.shop.db.read() as conn:
        one = find.organization(conn, org)
        running = catalog.running_subscription(conn, one.id)
        plan = catalog.plan_versions(conn)[running.plan_version_id] if running else None
        currency = plan.terms.currency if plan else desk.settings.currency
        wallet = ledger.wallet_micros(conn, one.id, currency)
        people = accounts.list_members(conn, one.id)
    data = msgspec.to_builtins(one) | {
        "plan": plan.plan_name if plan else None,
        "plan_version": plan.version if plan else None,
        "currency": currency,
        "wallet_micros": wallet,
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
                "wallet": tables.money(wallet, currency),
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
