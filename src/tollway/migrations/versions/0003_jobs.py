"""jobs: one table for all work that outlives a request; the hours that it took"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ASKED = (
    "key_id", "base", "base_version", "training_file", "validation_file", "suffix", "hyperparameters", "seed",
    "metadata", "tokens_max", "subscription_id", "plan_version_id",
)  # fmt: skip
_SAME = ("id", "org_id", "status", "cancelling", "error", "created_ms", "started_ms", "finished_ms")


def upgrade() -> None:
    job, event = _job(), _event()
    op.create_table(
        "job_hour",
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("hour_ms", sa.BigInteger, nullable=False),
        sa.Column("busy_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "hour_ms", name="pk_job_hour"),
    )
    _take_over(job, event)
    op.drop_table("fine_tuning_event")
    op.drop_table("fine_tuning_job")


def _job() -> sa.Table:
    table = op.create_table(
        "job",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("org_id", sa.String(40), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("cancelling", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("asked", sa.JSON, nullable=False),
        sa.Column("made", sa.JSON, nullable=False),
        sa.Column("error", sa.JSON),
        sa.Column("settled", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("owner", sa.String(40), nullable=False, server_default=""),
        sa.Column("beat_ms", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("started_ms", sa.BigInteger),
        sa.Column("finished_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
    )
    op.create_index("ix_job_org_id", "job", ["org_id"])
    op.create_index("ix_job_kind_status", "job", ["kind", "status"])
    return table


def _event() -> sa.Table:
    table = op.create_table(
        "job_event",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("level", sa.String(10), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("message", sa.String(400), nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_job_event"),
    )
    op.create_index("ix_job_event_job_id", "job_event", ["job_id"])
    return table


def _take_over(job: sa.Table, event: sa.Table) -> None:
    """Fine-tuning jobs were the first of the kind."""
    conn = op.get_bind()
    found = sa.MetaData()
    old = sa.Table("fine_tuning_job", found, autoload_with=conn, resolve_fks=False)
    said = sa.Table("fine_tuning_event", found, autoload_with=conn, resolve_fks=False)
    for row in conn.execute(sa.select(old)).mappings().all():
        made = {"trained_tokens": row["trained_tokens"], "model": row["model"], "event_id": row["event_id"]}
        ended = row["status"] not in ("queued", "running")
        owed = ended and bool(row["trained_tokens"]) and row["event_id"] is None
        values = {name: row[name] for name in _SAME} | {"kind": "fine_tuning", "made": made, "settled": not owed}
        conn.execute(job.insert().values(asked={name: row[name] for name in _ASKED}, **values))
    for row in conn.execute(sa.select(said)).mappings().all():
        conn.execute(event.insert().values(**row))


def downgrade() -> None:
    raise NotImplementedError("a database is not taken back to an older release; restore a backup instead")
