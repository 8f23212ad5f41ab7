"""`tollway member …`: the people who sign in to the console."""

from typing import Annotated

import msgspec
import typer

from tollway.faces.cli import find, tables
from tollway.faces.cli.desk import Desk, command, group
from tollway.guard import passwords
from tollway.kit.errors import BadRequest
from tollway.sell import accounts

app = group("People who sign in to the console.")
ROLES = ("operator", "owner", "member")


def password_from(stdin: bool) -> tuple[str, bool]:
    """The password to set and whether it was made here. Never an option's value: process lists show those."""
    if stdin:
        return typer.get_text_stream("stdin").readline().rstrip("\n"), False
    return passwords.new_password(), True


@command(app, "create")
def create(
    desk: Desk,
    email: Annotated[str, typer.Argument(help="The address this person signs in with.")],
    org: Annotated[str | None, typer.Option("--org", help="Organization; operators have none.")] = None,
    role: Annotated[str, typer.Option("--role", help="operator, owner or member.")] = "member",
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
) -> None:
    """Give a person access; a password is generated and shown once unless one is piped in."""
    if role not in ROLES:
        raise BadRequest(f"{role!r} is not a role.", hint=f"Use one of: {', '.join(ROLES)}.")
    if (role == "operator") == (org is not None):
        raise BadRequest("Operators belong to no organization; owners and members belong to one.",
                         hint="Add --org NAME, or use --role operator without it.")  # fmt: skip
    password, made_here = password_from(password_stdin)
    with desk.write() as conn:
        org_id = find.organization(conn, org).id if org else None
        member = accounts.create_member(conn, desk.now_ms, email, password, role, org_id)
    data = msgspec.to_builtins(member) | ({"password": password} if made_here else {})
    shown = {"e-mail": member.email, "role": member.role} | (
        {"password": f"{password}   (shown this once)"} if made_here else {}
    )
    desk.answer(data, lambda: tables.record(shown))
    desk.then(f"sign in at {desk.url}/console")


@command(app, "list")
def list_(
    desk: Desk, org: Annotated[str | None, typer.Option("--org", help="Only this organization's.")] = None
) -> None:
    """Everybody, or the members of one organization."""
    with desk.shop.db.read() as conn:
        names = find.names(conn)
        wanted: list[str | None] = [find.organization(conn, org).id] if org else [None, *names]
        people = [person for org_id in wanted for person in accounts.list_members(conn, org_id)]
    unique = {person.id: person for person in people}.values()
    rows = [msgspec.to_builtins(person) | {"organization": names.get(person.org_id or "")} for person in unique]
    columns = {"email": "e-mail", "role": "role", "organization": "organization", "id": "id"}
    desk.answer(rows, lambda: tables.table(rows, columns))
    desk.then("tollway login", "where they sign in; `tollway member password` sets a new password")


@command(app, "password")
def password(
    desk: Desk,
    email: Annotated[str, typer.Argument(help="Whose password.")],
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
) -> None:
    """Set a new password: generated and shown once, or read from stdin."""
    new, made_here = password_from(password_stdin)
    with desk.write() as conn:
        accounts.set_password(conn, find.member(conn, email).id, new)
    data = {"email": email} | ({"password": new} if made_here else {})
    desk.answer(
        data,
        lambda: tables.record({"e-mail": email} | ({"password": f"{new}   (shown this once)"} if made_here else {})),
    )
    desk.then(f"sign in at {desk.url}/console")
