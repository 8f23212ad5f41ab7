"""`tollway key …`: API keys of the buyers."""

from typing import Annotated

import msgspec
import typer

from tollway.faces.cli import find, next_step, tables
from tollway.faces.cli.desk import Desk, Yes, command, group, quoted
from tollway.sell import api_keys

app = group("API keys: issue, list, revoke.")
_DAY_MS = 86_400_000


@command(app, "create")
def create(
    desk: Desk,
    org: Annotated[str, typer.Argument(help="Name or id of the organization.", metavar="ORG")],
    name: Annotated[str, typer.Option("--name", help="What the key is for.")] = "default",
    scope: Annotated[list[str] | None, typer.Option("--scope", help="inference, usage; repeat for several.")] = None,
    model: Annotated[list[str] | None, typer.Option("--model", help="Only these models; repeat for several.")] = None,
    rpm: Annotated[int | None, typer.Option("--rpm", help="Requests a minute, below the plan's.")] = None,
    tpm: Annotated[int | None, typer.Option("--tpm", help="Tokens a minute, below the plan's.")] = None,
    concurrency: Annotated[int | None, typer.Option("--concurrency", help="Calls at the same time.")] = None,
    expires_days: Annotated[
        float | None, typer.Option("--expires-days", help="Ends by itself after this long.")
    ] = None,
) -> None:
    """Issue a key. It is shown this once; only its digest is stored."""
    now_ms = desk.now_ms
    expires_ms = None if expires_days is None else now_ms + round(expires_days * _DAY_MS)
    with desk.write() as conn:
        one = find.organization(conn, org)
        issued = api_keys.issue_key(
            conn, now_ms, desk.shop.secrets.pepper, one.id, name, scopes=scope or ("inference", "usage"),
            models=model, rpm=rpm, tpm=tpm, concurrency=concurrency, expires_ms=expires_ms,
        )  # fmt: skip
    data = {"id": issued.id, "key": issued.secret, "hint": issued.hint, "org_id": one.id, "expires_ms": expires_ms}
    desk.answer(data, lambda: f"{issued.secret}\n\n{issued.id}, for {one.name}. The key is not shown again.")
    if desk.as_json:  # what a program reads ends up in logs: it has the key already
        desk.then(f"tollway key list {quoted(one.name)}")
    else:
        desk.then(f"export TOLLWAY_KEY={issued.secret}", "the calls that `tollway deploy` prints use it")


@command(app, "list")
def list_(
    desk: Desk, org: Annotated[str | None, typer.Argument(help="Only this organization's.", metavar="ORG")] = None
) -> None:
    """Keys with their limits and state, newest first."""
    with desk.shop.db.read() as conn:
        names = find.names(conn)
        keys = api_keys.list_keys(conn, find.organization(conn, org).id if org else None)
    now_ms = desk.now_ms
    rows = [
        msgspec.to_builtins(key) | {"organization": names[key.org_id], "state": _state(key, now_ms)} for key in keys
    ]
    columns = {"hint": "key", "name": "name", "organization": "organization", "scopes": "scopes", "models": "models",
               "rpm": "rpm", "tpm": "tpm", "concurrency": "at once", "state": "state", "id": "id"}  # fmt: skip
    desk.answer(rows, lambda: tables.table(rows, columns))
    if rows:
        desk.then("tollway usage --by key", "what each was used for; `tollway key revoke` ends one")
    else:
        desk.then(*next_step.issue_key(desk))


@command(app, "revoke")
def revoke(
    desk: Desk,
    key_id: Annotated[str, typer.Argument(help="The key's id, from `key list`.", metavar="ID")],
    yes: Yes = False,
) -> None:
    """End a key for good; running gateways refuse it within a second."""
    with desk.shop.db.read() as conn:
        key = api_keys.get_key(conn, key_id)
        owner = find.names(conn)[key.org_id]
    desk.confirm(f"The key {key.hint} ({key.name}) stops working within a second and cannot be brought back.", yes)
    with desk.write() as conn:
        api_keys.revoke_key(conn, desk.now_ms, key_id)
    desk.answer({"id": key_id, "revoked": True}, lambda: f"{key_id} is revoked.")
    desk.then(f"tollway key create {quoted(owner)}", "issues another")


def _state(key: api_keys.ApiKey, now_ms: int) -> str:
    if key.revoked_ms is not None:
        return f"revoked {tables.moment(key.revoked_ms)}"
    if key.expires_ms is None:
        return "active"
    return f"{'expired' if key.expires_ms <= now_ms else 'until'} {tables.moment(key.expires_ms)}"
