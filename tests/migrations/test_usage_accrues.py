"""Events and what was carried below a micro survive the change of how they are stored, to the pico."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.migrations.revisions import upgrade_to
from tollway.kit.db import Database
from tollway.migrations import migrate
from tollway.sell import ledger, usage


@pytest.fixture(params=["sqlite", "postgres"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    db = Database(f"{tmp_path}/old.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url"))
    with db.write() as conn:
        upgrade_to(conn, "0010")
    return db


def test_events_and_carries_are_taken_over(old: Database) -> None:
    columns = (
        "id, request_id, org_id, key_id, subscription_id, plan_version_id, model, model_version, operation, status, at_ms, "
        "input_tokens, cached_tokens, output_tokens, price_picos, prefill_us, decode_us, first_token_us, duration_us, streamed"
    )
    with old.write() as conn:
        ledger.top_up(conn, 1, "org_a", "CNY", 5_000_000, "t")
        conn.execute(sa.text("INSERT INTO wallet_carry (org_id, carry_picos) VALUES ('org_a', 250000), ('org_gone', 7)"))
        for number in (2, 1, 3):
            conn.execute(
                sa.text(
                    f"INSERT INTO usage_event ({columns}) VALUES ('evt_{number}', 'req_{number}', 'org_a', 'key', 'sub', "
                    f"'plan', 'm', '1', 'chat', 'ok', {number}, 1, 0, {number}, 10, 1, 2, NULL, 3, true)"
                )
            )
    migrate(old)
    with old.read() as conn:
        assert ledger.wallet_picos(conn) == {("org_a", "CNY"): 5_000_000_000_000 - 250_000}
        kept = usage.recent_events(conn, "org_a")
        assert [(one.id, one.output_tokens, one.streamed, one.meter) for one in kept] == [
            ("evt_3", 3, True, ""), ("evt_2", 2, True, ""), ("evt_1", 1, True, "")
        ]  # fmt: skip
        if old.is_sqlite:
            rows = conn.execute(sa.text("SELECT id FROM usage_event ORDER BY rowid")).scalars().all()
            assert rows == ["evt_1", "evt_2", "evt_3"]
    with old.write() as conn, pytest.raises(sa.exc.IntegrityError):
        conn.execute(sa.text(f"INSERT INTO usage_event ({columns}) SELECT {columns} FROM usage_event"))
    old.close()
