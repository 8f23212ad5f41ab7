"""`tollway login`: where the console is and who may sign in; `--reset` sets and shows a new password."""

from typing import Annotated

import typer

from tollway.faces.cli import find, tables
from tollway.faces.cli.desk import Desk, Yes, command
from tollway.guard import passwords
from tollway.sell import accounts

app = typer.Typer(add_completion=False)


@command(app)
def login(
    desk: Desk,
    email: Annotated[
        str | None, typer.Argument(help="Whose; the first operator's by default.", metavar="EMAIL")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Set a new password and show it once.")] = False,
    yes: Yes = False,
) -> None:
    """The console's address and who signs in there. Passwords are stored as hashes: a lost one is reset, not shown."""
    with desk.shop.db.read() as conn:
        operators = accounts.list_members(conn, None)
        person = find.member(conn, email) if email else operators[0] if operators else None
    data: dict[str, str | None] = {"console": f"{desk.url}/console", "email": person.email if person else None}
    if reset:
        person_email = email or (person.email if person else "operator@localhost")
        desk.confirm(f"The old password of {person_email} stops working and its sessions end.", yes)
        data |= {"email": person_email, "password": passwords.new_password()}
        with desk.write() as conn:
            if person is None:
                accounts.create_member(conn, desk.now_ms, person_email, str(data["password"]), "operator")
            else:
                accounts.set_password(conn, person.id, str(data["password"]))
    desk.answer(data, lambda: tables.record(data))
    desk.then(
        "sign in there; the password is not shown again" if reset else "tollway login --reset",
        "" if reset else "sets a new password",
    )
