"""`tollway audit`: prove that the books balance. Exit code 1 when they do not."""

import typer

from tollway.faces.cli.desk import Desk, command
from tollway.sell import ledger

app = typer.Typer(add_completion=False)


@command(app)
def audit(desk: Desk) -> None:
    """Prove that the books balance: every transaction, every balance, and the sum of all."""
    with desk.shop.db.read() as conn:
        problems = ledger.audit(conn)
    desk.answer(
        {"ok": not problems, "problems": problems},
        lambda: (
            "\n".join(problems)
            if problems
            else "The books balance: every transaction, every account, and the sum of all."
        ),
    )
    if problems:
        desk.then("tollway doctor", "restore from the last backup before more money moves")
        raise typer.Exit(1)
    desk.then("tollway economics")
