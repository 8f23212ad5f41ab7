"""batches are cheaper: use is told apart by its tier"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_KEY = ("org_id", "day", "key_id", "model", "plan_version_id", "meter")
_SUMS = (
    "requests", "input_tokens", "cached_tokens", "output_tokens", "price_picos", "prefill_us", "decode_us",
)  # fmt: skip


def upgrade() -> None:
    op.add_column("usage_event", sa.Column("tier", sa.String(10), nullable=False, server_default=""))
    _rebuild_daily()


def _rebuild_daily() -> None:
    """The rollup's key gets the tier: a new table takes over the rows."""
    op.drop_index("ix_usage_daily_day", "usage_daily")
    op.rename_table("usage_daily", "usage_daily_before")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE usage_daily_before RENAME CONSTRAINT pk_usage_daily TO pk_usage_daily_before")
    op.create_table(
        "usage_daily",
        sa.Column("org_id", sa.String(40), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("model", sa.String(120), nullable=False),
        sa.Column("plan_version_id", sa.String(40), nullable=False),
        sa.Column("meter", sa.String(20), nullable=False, server_default=""),
        sa.Column("tier", sa.String(10), nullable=False, server_default=""),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _SUMS),
        sa.Column("units", sa.BigInteger, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint(*_KEY, "tier", name="pk_usage_daily"),
        sqlite_with_rowid=False,
    )
    names = ", ".join((*_KEY, *_SUMS, "units"))
    op.execute(f"INSERT INTO usage_daily ({names}) SELECT {names} FROM usage_daily_before")  # noqa: S608
    op.drop_table("usage_daily_before")
    op.create_index("ix_usage_daily_day", "usage_daily", ["day"])


def downgrade() -> None:
    raise NotImplementedError("a database is not taken back to an older release; restore a backup instead")
