"""The worker of one adaptation: `flows/adapt.py` in a process of its own, so that training takes nothing from the gateway.

Started as `python -m tollway.flows.adaptation_child`; reads its orders (`Orders`) as one line of JSON from standard input and
answers with one line of JSON. It dies with the gateway; started again, the run's finished steps come from the cache.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from tollway.kit.errors import TollwayError
from tollway.kit.said import coded


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """Which model to adapt, in which home."""

    home: str
    model: str
    share: int
    parent: int


def main() -> int:
    from tollway.flows import adapt
    from tollway.kit.settings import Settings
    from tollway.serve.engines import child
    from tollway.shop import Shop

    orders = msgspec.json.decode(sys.stdin.buffer.readline(), type=Orders)
    child.settle(orders.parent)
    os.nice(10)
    try:
        with contextlib.redirect_stdout(sys.stderr), Shop.open(Settings(Path(orders.home))) as shop:
            made = adapt.adapt(shop, orders.model, share=orders.share)
    except TollwayError as error:
        _say({"code": error.code, "why": str(error), "said": coded(error.said)})
        return 1
    _say({"package": made.run.record.package, "run": made.run.id, "dataset": made.dataset, "taken": made.taken})
    return 0


def _say(word: dict[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(word) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


if __name__ == "__main__":
    sys.exit(main())
