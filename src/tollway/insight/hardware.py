"""What the machine cost, moment by moment: for a chart. The books of whole hours are in `insight.economics`."""

from typing import Any, Final

import sqlalchemy as sa

from tollway.insight import economics
from tollway.kit.money import PICOS_PER_MICRO
from tollway.serve import tables as served

_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 60 * _MINUTE_MS
_HOUR_US: Final = _HOUR_MS * 1000


def cost_over(conn: sa.Connection, settings: Any, from_ms: int, to_ms: int, step_ms: int, now_ms: int) -> list[int]:
    """The cost of each step in picos: an hour costs as long as its longest-lived replica was alive, as in the books.

    An hour's cost is spread evenly over its minutes that have passed, and each minute belongs to one step.
    """
    price = economics.machine_price(settings)
    costs = [0] * ((to_ms - from_ms) // step_ms)
    for hour_ms, alive_us in _hours(conn, from_ms - from_ms % _HOUR_MS, to_ms):
        picos = price.micros_per_hour * PICOS_PER_MICRO * min(alive_us, _HOUR_US) // _HOUR_US
        minutes = min(60, max(1, (now_ms - hour_ms) // _MINUTE_MS + 1))
        for start_ms in range(hour_ms, hour_ms + minutes * _MINUTE_MS, _MINUTE_MS):
            if from_ms <= start_ms < to_ms:
                costs[(start_ms - from_ms) // step_ms] += picos // minutes
    return costs


def _hours(conn: sa.Connection, from_ms: int, to_ms: int) -> list[tuple[int, int]]:
    """Per hour: (start, microseconds in which the longest-living replica was alive)."""
    hour = served.replica_hour.c
    alive = sa.func.max(hour.busy_us + hour.failed_us + hour.idle_us + hour.shadow_us)
    query = sa.select(hour.hour_ms, alive).where(hour.hour_ms >= from_ms, hour.hour_ms < to_ms)
    rows = conn.execute(query.group_by(hour.hour_ms).order_by(hour.hour_ms))
    return [(int(row[0]), int(row[1])) for row in rows]
