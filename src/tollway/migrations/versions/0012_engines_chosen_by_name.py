"""the engine that was chosen for a deployment by name stands in its row, no longer in a file beside the package"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("model", "deployment"):
        op.add_column(table, sa.Column("chosen_engine", sa.String(20), nullable=False, server_default=""))
    bind = op.get_bind()
    texts = {"id": sa.String, "model": sa.String, "role": sa.String, "state": sa.String, "chosen_engine": sa.String}
    kept = sa.table("deployment", sa.column("policy", sa.JSON), *(sa.column(name, kind) for name, kind in texts.items()))
    offered = sa.table("model", sa.column("name", sa.String), sa.column("chosen_engine", sa.String))
    for row in bind.execute(sa.select(kept.c.id, kept.c.model, kept.c.role, kept.c.state, kept.c.policy)).all():
        if not {"choice", "choice_before"} & row.policy.keys():
            continue
        engine = str((row.policy.get("choice") or {}).get("engine", ""))
        rules = {name: value for name, value in row.policy.items() if name not in ("choice", "choice_before")}
        bind.execute(kept.update().where(kept.c.id == row.id).values(chosen_engine=engine, policy=rules))
        if (row.role, row.state) == ("stable", "running"):
            bind.execute(offered.update().where(offered.c.name == row.model).values(chosen_engine=engine))


def downgrade() -> None:
    raise NotImplementedError("a database is not taken back to an older release; restore a backup instead")
