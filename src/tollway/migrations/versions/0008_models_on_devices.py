"""models on devices"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "edge_device",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("org_id", sa.String(40), sa.ForeignKey("organization.id"), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("model", sa.String(120), nullable=False),
        sa.Column("model_version", sa.String(60), nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("input", sa.String(10), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("revoked_ms", sa.BigInteger),
        sa.Column("head_n", sa.BigInteger, nullable=False),
        sa.Column("head_seal", sa.String(64), nullable=False),
        sa.Column("last_at_ms", sa.BigInteger, nullable=False),
        sa.Column("synced_ms", sa.BigInteger),
        sa.Column("claimed_ms", sa.BigInteger),
    )
    op.create_index("ix_edge_device_org_id", "edge_device", ["org_id"])


def downgrade() -> None:
    raise NotImplementedError("a database is not taken back to an older release; restore a backup instead")
