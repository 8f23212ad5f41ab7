"""usage accrues in a row of its own and is posted by the minute; events lie in a shallow tree"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _accrued_usage()
    if op.get_bind().dialect.name == "sqlite":
        _events_with_rowid()


def _accrued_usage() -> None:
    """What was carried below a micro had no currency: it gets the one of its wallet."""
    op.create_table(
        "accrued_usage",
        sa.Column("org_id", sa.String(40), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("picos", sa.BigInteger, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("org_id", "currency", name="pk_accrued_usage"),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO accrued_usage (org_id, currency, picos, at_ms) SELECT carry.org_id, MIN(kept.currency), "
        "carry.carry_picos, 0 FROM wallet_carry AS carry JOIN ledger_balance AS kept "
        "ON kept.account = 'wallet' AND kept.org_id = carry.org_id GROUP BY carry.org_id, carry.carry_picos"
    )
    op.drop_table("wallet_carry")


def _events_with_rowid() -> None:
    """SQLite cannot change how a table is stored: a new one takes over the rows."""
    bind = op.get_bind()
    text = bind.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = 'usage_event'")).scalar_one()
    head, _, tail = str(text).rpartition("WITHOUT ROWID")
    op.execute("DROP INDEX ix_usage_event_org_at")
    op.execute("DROP INDEX ix_usage_event_at")
    op.execute("ALTER TABLE usage_event RENAME TO usage_event_before")
    op.execute(head + tail)
    op.execute("INSERT INTO usage_event SELECT * FROM usage_event_before ORDER BY id")
    op.execute("DROP TABLE usage_event_before")
    op.create_index("ix_usage_event_org_at", "usage_event", ["org_id", "at_ms"])
    op.create_index("ix_usage_event_at", "usage_event", ["at_ms"])


def downgrade() -> None:
    raise NotImplementedError("a database is not taken back to an older release; restore a backup instead")
