"""Things by the name a person types, with "did you mean" when there is none."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import sqlalchemy as sa

from tollway.faces.cli.desk import nearest
from tollway.kit.errors import NotFound
from tollway.sell import accounts, catalog

Thing = TypeVar("Thing")


def organization(conn: sa.Connection, text: str) -> accounts.Organization:
    """An organization by id or name."""
    return _found(
        lambda: accounts.get_organization(conn, text),
        text,
        lambda: [one.name for one in accounts.list_organizations(conn)],
        "organization",
        "tollway org list",
    )


def plan(conn: sa.Connection, name: str, version: int | None = None) -> catalog.PlanVersion:
    """The newest (or a given) version of a plan."""
    return _found(
        lambda: catalog.get_plan(conn, name, version),
        name if version is None else f"{name}, version {version}",
        lambda: [one.plan_name for one in catalog.list_plans(conn)],
        "plan",
        "tollway plan list",
    )


def names(conn: sa.Connection) -> dict[str, str]:
    """Organization names by id, for tables."""
    return {one.id: one.name for one in accounts.list_organizations(conn)}


def member(conn: sa.Connection, email: str) -> accounts.Member:
    """A person by address."""
    found = accounts.find_member(conn, email)
    if found is None:
        known = [one.email for org_id in (None, *names(conn)) for one in accounts.list_members(conn, org_id)]
        raise NotFound(
            f"There is no member {email!r}.{nearest(email, known)}", hint="`tollway member list` shows them."
        )
    return found


def _found(look: Callable[[], Thing], text: str, known: Callable[[], Iterable[str]], what: str, listing: str) -> Thing:
    try:
        return look()
    except NotFound as error:
        raise NotFound(
            f"There is no {what} {text!r}.{nearest(text, known())}", code=error.code, hint=f"`{listing}` shows them."
        ) from error
