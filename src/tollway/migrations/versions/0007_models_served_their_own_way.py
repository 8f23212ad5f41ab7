"""models served their own way: replicas, memory and cost"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("model", sa.Column("serving", sa.JSON))


def downgrade() -> None:
    raise NotImplementedError("a database is not taken back to an older release; restore a backup instead")
