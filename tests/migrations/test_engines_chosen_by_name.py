"""An engine that was chosen by name before it had a column: in service and in the history, with what else was remembered."""

from pathlib import Path

import sqlalchemy as sa

from tests.migrations.revisions import upgrade_to
from tollway.kit.db import Database
from tollway.migrations import migrate
from tollway.serve import deployments, models

ROWS = (
    ("dep_1", "1", "stable", "ended", '{}'),
    ("dep_2", "1", "stable", "rolled_back", '{"choice": {"engine": "openvino"}, "choice_before": {}}'),
    ("dep_3", "1", "stable", "running", '{"choice": {"engine": "torch"}, "choice_before": {"engine": "onnx"}}'),
    ("dep_4", "2", "canary", "running", '{"min_calls": 5, "choice": {"engine": "litert"}, "choice_before": {}}'),
    ("dep_5", "3", "shadow", "running", '{"min_calls": 7}'),
)


def test_what_was_chosen_for_a_deployment_is_in_its_row(tmp_path: Path) -> None:
    db = Database(str(tmp_path / "old.db"))
    with db.write() as conn:
        upgrade_to(conn, "0011")
        conn.execute(
            sa.text(
                "INSERT INTO model (name, kind, title, engine, version, created_ms) "
                "VALUES ('mood', 'classification', 'Mood', 'onnx', '1', 5)"
            )
        )
        for id_, version, role, state, policy in ROWS:
            conn.execute(
                sa.text(
                    "INSERT INTO deployment (id, model, version, engine, role, state, policy, began_ms, figures) "
                    "VALUES (:id, 'mood', :version, 'onnx', :role, :state, :policy, 5, '{}')"
                ),
                {"id": id_, "version": version, "role": role, "state": state, "policy": policy},
            )
    migrate(db)
    with db.write() as conn:
        assert models.get_model(conn, "mood").chosen_engine == "torch"
        found = {one.id: (one.chosen_engine, one.policy) for one in deployments.history(conn, "mood")}
        assert found == {
            "dep_1": ("", {}),
            "dep_2": ("openvino", {}),
            "dep_3": ("torch", {}),
            "dep_4": ("litert", {"min_calls": 5}),
            "dep_5": ("", {"min_calls": 7}),
        }
        before = deployments.version_before(conn, "mood")
        assert before is not None and (before.id, before.chosen_engine) == ("dep_1", "")
    db.close()
