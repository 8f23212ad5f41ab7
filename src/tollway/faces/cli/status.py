"""`tollway status`: is it running, what does it serve, what happened today."""

import json
import urllib.error
import urllib.request
from typing import Any

import typer

from tollway.faces.cli import tables
from tollway.faces.cli.desk import Desk, command
from tollway.kit.clock import day_of
from tollway.sell import accounts, usage
from tollway.serve import models
from tollway.watch import doctor

app = typer.Typer(add_completion=False)


@command(app)
def status(desk: Desk) -> None:
    """What is running, and today's business."""
    today = day_of(desk.now_ms)
    with desk.shop.db.read() as conn:
        offered = models.list_models(conn)
        organizations = len(accounts.list_organizations(conn))
        use = usage.by_day(conn, None, today, today)[0]
    pid = doctor.running_pid(desk.home)
    ready = _ready(desk.url)
    data: dict[str, Any] = {
        "home": str(desk.home),
        "url": desk.url,
        "running": pid is not None or ready is not None,
        "pid": pid,
        "ready": ready,
        "database": desk.shop.db.version(),
        "models": [model.name for model in offered],
        "organizations": organizations,
        "today": {name: getattr(use, name) for name in _TODAY},
    }
    desk.answer(data, lambda: _drawn(data, desk.settings.currency))
    desk.then("tollway usage" if data["running"] else f"tollway up --home {desk.home}")


_TODAY = ("requests", "input_tokens", "cached_tokens", "output_tokens", "price_picos")


def _ready(url: str) -> bool | None:
    """What the gateway says of itself; None when it does not answer at this address (another --port, perhaps)."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:  # noqa: S310  # our own address
            json.loads(answer.read() or b"null")
            return True
    except urllib.error.HTTPError:
        return False
    except (OSError, ValueError):
        return None


def _drawn(data: dict[str, Any], currency: str) -> Any:
    words = {True: "ready", False: "not ready yet", None: f"not answering at {data['url']}"}
    today = data["today"]
    tokens = today["input_tokens"] + today["cached_tokens"] + today["output_tokens"]
    return tables.record(
        {
            "gateway": f"running (process {data['pid'] or 'elsewhere'}), {words[data['ready']]}"
            if data["running"]
            else "not running",
            "address": data["url"],
            "home": data["home"],
            "database": data["database"],
            "models": data["models"] or "none",
            "organizations": data["organizations"],
            "today": f"{today['requests']:,} requests, {tokens:,} tokens, "
            f"{tables.money_of_picos(today['price_picos'], currency)} sold",
        }
    )
