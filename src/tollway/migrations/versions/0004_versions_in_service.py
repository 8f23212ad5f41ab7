"""versions in service beside the stable one: deployments with their history, and what copies of calls cost"""

import sqlalchemy as sa
from alembic import op

from tollway.kit.ids import new_id

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("replica_hour", sa.Column("shadow_us", sa.BigInteger, nullable=False, server_default="0"))
    deployment = op.create_table(
        "deployment",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("model", sa.String(120), nullable=False),
        sa.Column("version", sa.String(60), nullable=False),
        sa.Column("engine", sa.String(20), nullable=False, server_default=""),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("share", sa.Integer, nullable=False, server_default="0"),
        sa.Column("policy", sa.JSON, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("began_ms", sa.BigInteger, nullable=False),
        sa.Column("ready_ms", sa.BigInteger),
        sa.Column("ended_ms", sa.BigInteger),
        sa.Column("why", sa.String(1000), nullable=False, server_default=""),
        sa.Column("figures", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deployment"),
    )
    op.create_index("ix_deployment_model_began", "deployment", ["model", "began_ms"])
    op.create_index("ix_deployment_state", "deployment", ["state"])
    _history_of_what_is_on_offer(deployment)


def _history_of_what_is_on_offer(deployment: sa.Table) -> None:
    """What answers today is the first entry of each model's history, so that there is a way back to it."""
    conn = op.get_bind()
    offered = "SELECT name, version, engine, created_ms FROM model WHERE retired_ms IS NULL AND base = ''"
    for name, version, engine, created_ms in conn.execute(sa.text(offered)).fetchall():
        conn.execute(
            deployment.insert().values(
                id=new_id("dep", created_ms), model=name, version=version, engine=engine, role="stable", share=0,
                policy={}, state="running", began_ms=created_ms, ready_ms=created_ms, why="", figures={},
            )
        )  # fmt: skip


def downgrade() -> None:
    raise NotImplementedError("a database is not taken back to an older release; restore a backup instead")
