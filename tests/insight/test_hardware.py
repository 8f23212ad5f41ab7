"""What the machine cost over time: each hour once, as long as its longest-lived replica was alive, on minutes that have passed."""

from pathlib import Path

import sqlalchemy as sa

from tollway.insight import hardware
from tollway.kit.db import Database
from tollway.kit.settings import Settings
from tollway.serve.tables import replica_hour

MINUTE, HOUR = 60_000, 3_600_000
NOON = 490_000 * HOUR
PRICE = 60_000_000 * 1_000_000  # picos an hour: a whole micro a minute and more


def alive(conn: sa.Connection, model: str, hour_ms: int, minutes: int) -> None:
    row = {"model": model, "model_version": "1", "hour_ms": hour_ms, "failed_us": 0, "shadow_us": 0, "busy_us": 0}
    conn.execute(replica_hour.insert().values(row | {"idle_us": minutes * 60_000_000}))


def test_an_hour_is_paid_once_and_spread_over_its_minutes(db: Database, tmp_path: Path) -> None:
    settings = Settings(tmp_path, environment={"TOLLWAY_MACHINE_PRICE_PER_HOUR": "60"})
    with db.write() as conn:
        alive(conn, "a", NOON, 60)
        alive(conn, "b", NOON, 30)  # beside it: the same machine
        alive(conn, "a", NOON + HOUR, 15)
    end = NOON + 2 * HOUR
    with db.read() as conn:
        halves = hardware.cost_over(conn, settings, NOON, end, 30 * MINUTE, end)
        assert halves == [PRICE // 2, PRICE // 2, PRICE // 8, PRICE // 8]
        running = hardware.cost_over(conn, settings, NOON, end, 30 * MINUTE, NOON + HOUR + 14 * MINUTE)
        assert running == [PRICE // 2, PRICE // 2, PRICE // 4, 0], "a quarter of the hour has passed, and is all there is"
        late = hardware.cost_over(conn, settings, NOON + 30 * MINUTE, NOON + HOUR, 30 * MINUTE, end)
        assert late == [PRICE // 2], "what began before is cut where the chart begins"
