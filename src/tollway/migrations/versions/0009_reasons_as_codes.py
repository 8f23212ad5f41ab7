"""reasons as codes and figures, beside their words"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deployment", sa.Column("said", sa.JSON))
    op.add_column("job_event", sa.Column("said", sa.JSON))


def downgrade() -> None:
    raise NotImplementedError("a database is not taken back to an older release; restore a backup instead")
