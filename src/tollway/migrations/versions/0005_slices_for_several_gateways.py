"""several gateways on one database: who they are, and their slices of what organizations have"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gateway",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("lock", sa.BigInteger, nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("started_ms", sa.BigInteger, nullable=False),
        sa.Column("seen_ms", sa.BigInteger, nullable=False),
        sa.Column("reclaimed", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gateway"),
    )
    op.create_table(
        "lease",
        sa.Column("gateway_id", sa.String(40), nullable=False),
        sa.Column("org_id", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("scope", sa.String(120), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("gateway_id", "org_id", "kind", "scope", name="pk_lease"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_lease_org_kind", "lease", ["org_id", "kind", "scope"])


def downgrade() -> None:
    raise NotImplementedError("a database is not taken back to an older release; restore a backup instead")
