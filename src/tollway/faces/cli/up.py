"""`tollway up`: open the shop. Prints the logins once, at the first start; then serves until it is stopped."""

import json
import os
import socket
import sys
import time
from typing import Annotated, Any

import msgspec
import typer

from tollway.faces.cli.desk import Desk, command
from tollway.faces.cli.progress import Progress
from tollway.flows import first_start
from tollway.flows.gateway import Gateway
from tollway.kit.errors import Unavailable

app = typer.Typer(add_completion=False)
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@command(app)
def up(
    desk: Desk,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="TCP port; 8080 by default.")] = None,
    no_starter: Annotated[bool, typer.Option("--no-starter", help="No starter models and no demo buyer.")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Replicas live on a Ray cluster of this machine.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Open the console in a browser.")] = False,
) -> None:
    """Start the shop: gateway, console and models, in the foreground until Ctrl-C."""
    from tollway.faces.http import server

    started = time.monotonic()
    desk.flags = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    if ray:
        desk.flags["runtime"] = "ray://local"
    desk.make_home = True
    _require_free(desk.settings.host, desk.settings.port)
    if desk.settings.host not in LOOPBACK:
        desk.say(f"Warning: {desk.settings.host} is open to the network; put TLS in front (docs/operations.md).")
    shop = desk.shop
    os.umask(0o077)  # what the shop writes is its owner's alone, whatever the folder's own rights
    shop.own_the_shop()
    desk.note_address()
    made = _welcome(desk, not no_starter)
    if made.first and not desk.as_json:
        sys.stdout.write(letter(made))
        sys.stdout.flush()
    told = False

    def on_ready(_gateway: Gateway) -> None:
        nonlocal told
        told = True
        seconds = time.monotonic() - started
        if desk.as_json:
            data = msgspec.to_builtins(made) | {"curl": curl(made), "ready_s": round(seconds, 3)}
            sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
        else:
            sys.stdout.write(
                f"Ready in {seconds:.1f} s at {made.url}   console {made.url}/console   stop with Ctrl-C\n"
            )
        sys.stdout.flush()
        if not made.first:
            desk.say("New login: tollway login --reset      New key: tollway key create ORG")
        if open_:
            typer.launch(f"{made.url}/console")

    try:
        server.serve(shop, on_ready, lambda line: desk.say(line))
    finally:
        if desk.as_json and made.first and not told:  # never lose a password that is shown only once
            desk.say(letter(made))


def letter(made: first_start.Welcome) -> str:
    """The welcome of the first start: every secret once, and a line that works."""
    lines = [
        "",
        "Welcome to Tollway. This is shown once:",
        "",
        f"  Console    {made.url}/console",
        f"  Operator   {made.operator_email}   {made.operator_password}",
    ]
    if made.key:
        lines += [
            f"  Buyer      {made.buyer_email}       {made.buyer_password}   (organization demo)",
            f"  API key    {made.key}",
        ]
    if made.key and made.models:
        lines += ["", "Try it, as soon as it says Ready:", "", curl(made)]
    return "\n".join([*lines, "", ""])


def curl(made: first_start.Welcome) -> str:
    """A line to paste: the first call."""
    if not made.key or not made.models:
        return ""
    model = next((name for name in made.models if name == first_start.CHAT), made.models[0])
    body = {"model": model, "messages": [{"role": "user", "content": "What is a toll road?"}], "max_tokens": 60}
    return (
        f"curl {made.url}/v1/chat/completions -H 'Authorization: Bearer {made.key}' "
        f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'"
    )


def _welcome(desk: Desk, with_starter: bool) -> first_start.Welcome:
    current: dict[str, Any] = {"name": None, "line": None}

    def progress(name: str, done: int, total: int) -> None:
        if current["name"] != name:
            close()
            current.update(name=name, line=Progress(f"Importing {name}").__enter__())
        current["line"].bytes(done, total)

    def close() -> None:
        if current["line"] is not None:
            current["line"].__exit__(None)
            current["line"] = None

    try:
        return first_start.welcome(desk.shop, with_starter=with_starter, progress=progress)
    finally:
        close()


def _require_free(host: str, port: int) -> None:
    """Say that the port is taken before a minute of imports, not after."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Unavailable(
                f"The gateway cannot listen on {host}:{port}: {error.strerror}.",
                code="port_taken",
                hint=f"Stop what listens there, or: tollway up --port {port + 1}",
            ) from error
