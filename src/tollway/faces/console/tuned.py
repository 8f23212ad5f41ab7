"""What tuning measured of a model, on its page: every way of serving it that was tried, and which one serves."""

from typing import Any

import msgspec

from tollway.artifacts import tuning
from tollway.faces.console.visit import Visit
from tollway.flows import tune
from tollway.kit.errors import TollwayError


def engine(visit: Visit, found: dict[str, Any]) -> str:
    """What serves the model on this machine: the engine chosen by name, else the one that tuning chose, else its package's
    own."""
    if found["chosen_engine"]:
        return str(found["chosen_engine"])
    if found["engine"] == "upstream" or found["base"] or getattr(visit.shop, "store", None) is None:
        return str(found["engine"])
    try:
        chosen = tuning.choice(visit.shop.store.get(found["name"], found["version"]))
    except TollwayError:
        chosen = None
    return chosen.engine if chosen else str(found["engine"])


def panel(visit: Visit, found: dict[str, Any]) -> dict[str, Any]:
    """The stored table of the version on offer; {} for what was never tuned or is served elsewhere."""
    if found["engine"] == "upstream" or found["base"] or getattr(visit.shop, "store", None) is None:
        return {}
    try:
        table = tune.measured(visit.shop, found["name"], found["version"])
        lost = tuning.lost(visit.shop.store.get(found["name"], found["version"]))
    except TollwayError:
        return {}
    rows = [  # a table of an older release has no reasons
        {"why": ""} | row | {"said": msgspec.json.decode(row.get("said") or "{}")} for row in table.get("tried", [])
    ]
    if not rows or "tuned" not in table:
        return {}
    return {"tuned": table["tuned"], "rows": rows, "name": found["name"], "lost": [] if found["chosen_engine"] else lost}
