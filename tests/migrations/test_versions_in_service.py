"""What was on offer before there were deployments has a history afterwards, so that there is a way back to it."""

from pathlib import Path

import sqlalchemy as sa

from tests.migrations.revisions import upgrade_to
from tollway.kit.db import Database
from tollway.migrations import migrate
from tollway.serve import deployments, models


def test_models_on_offer_become_the_first_entry_of_their_history(tmp_path: Path) -> None:
    db = Database(str(tmp_path / "old.db"))
    with db.write() as conn:
        upgrade_to(conn, "0003")
        columns = "name, kind, title, engine, version, created_ms, retired_ms, org_id, base, package"
        for row in (
            "'a', 'chat', 'A', 'llama_cpp', '3', 5, NULL, '', '', ''",
            "'gone', 'chat', 'G', 'llama_cpp', '1', 5, 6, '', '', ''",
            "'tuned', 'chat', 'T', 'llama_cpp', '1', 5, NULL, 'org_1', 'a', 'tuned'",
        ):
            conn.execute(sa.text(f"INSERT INTO model ({columns}) VALUES ({row})"))
    migrate(db)
    with db.write() as conn:
        assert {one.model: (one.role, one.version) for one in deployments.all_running(conn)} == {"a": ("stable", "3")}
        models.offer_package(conn, 9, "a", "chat", "4")
        before = deployments.version_before(conn, "a")
        assert before is not None and (before.version, before.state) == ("3", "ended")
    db.close()
