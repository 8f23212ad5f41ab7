"""requests that are done once: what was answered under an Idempotency-Key"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "answered_once",
        sa.Column("org_id", sa.String(40), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_answered_once_created_ms", "answered_once", ["created_ms"])


def downgrade() -> None:
    raise NotImplementedError("a database is not taken back to an older release; restore a backup instead")
