"""what was made is sold: meters besides tokens, models of one organization, uploads, fine-tuning, feedback"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_DAILY = "org_id, day, key_id, model, plan_version_id"
_SUMS = "requests, input_tokens, cached_tokens, output_tokens, price_picos, prefill_us, decode_us"


def upgrade() -> None:
    op.add_column("model", sa.Column("org_id", sa.String(40), nullable=False, server_default=""))
    op.add_column("model", sa.Column("base", sa.String(120), nullable=False, server_default=""))
    op.add_column("model", sa.Column("package", sa.String(120), nullable=False, server_default=""))
    op.add_column("usage_event", sa.Column("meter", sa.String(20), nullable=False, server_default=""))
    op.add_column("usage_event", sa.Column("units", sa.BigInteger, nullable=False, server_default="0"))
    _rebuild_daily()
    _uploads()
    _fine_tuning()
    _feedback()


def _rebuild_daily() -> None:
    """The rollup's key gets the meter: a new table takes over the rows."""
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
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _SUMS.split(", ")),
        sa.Column("units", sa.BigInteger, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint(*_DAILY.split(", "), "meter", name="pk_usage_daily"),
        sqlite_with_rowid=False,
    )
    op.execute(f"INSERT INTO usage_daily ({_DAILY}, {_SUMS}) SELECT {_DAILY}, {_SUMS} FROM usage_daily_before")  # noqa: S608
    op.drop_table("usage_daily_before")
    op.create_index("ix_usage_daily_day", "usage_daily", ["day"])


def _uploads() -> None:
    op.create_table(
        "stored_file",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("org_id", sa.String(40), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("purpose", sa.String(20), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("lines", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["org_id"], ["organization.id"], name="fk_stored_file_org_id_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_stored_file"),
    )
    op.create_index("ix_stored_file_org_id", "stored_file", ["org_id"])


def _fine_tuning() -> None:
    op.create_table(
        "fine_tuning_job",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("org_id", sa.String(40), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("base", sa.String(120), nullable=False),
        sa.Column("base_version", sa.String(60), nullable=False),
        sa.Column("training_file", sa.String(40), nullable=False),
        sa.Column("validation_file", sa.String(40)),
        sa.Column("suffix", sa.String(64), nullable=False),
        sa.Column("hyperparameters", sa.JSON, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("cancelling", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("tokens_max", sa.BigInteger, nullable=False),
        sa.Column("trained_tokens", sa.BigInteger),
        sa.Column("model", sa.String(120)),
        sa.Column("error", sa.JSON),
        sa.Column("subscription_id", sa.String(40), nullable=False),
        sa.Column("plan_version_id", sa.String(40), nullable=False),
        sa.Column("event_id", sa.String(40)),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("started_ms", sa.BigInteger),
        sa.Column("finished_ms", sa.BigInteger),
        sa.ForeignKeyConstraint(["org_id"], ["organization.id"], name="fk_fine_tuning_job_org_id_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_fine_tuning_job"),
    )
    op.create_index("ix_fine_tuning_job_org_id", "fine_tuning_job", ["org_id"])
    op.create_index("ix_fine_tuning_job_status", "fine_tuning_job", ["status"])
    op.create_table(
        "fine_tuning_event",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("level", sa.String(10), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("message", sa.String(400), nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["fine_tuning_job.id"], name="fk_fine_tuning_event_job_id_fine_tuning_job"),
        sa.PrimaryKeyConstraint("id", name="pk_fine_tuning_event"),
    )
    op.create_index("ix_fine_tuning_event_job_id", "fine_tuning_event", ["job_id"])


def _feedback() -> None:
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("org_id", sa.String(40), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("event_id", sa.String(40), nullable=False),
        sa.Column("model", sa.String(120), nullable=False),
        sa.Column("model_version", sa.String(60), nullable=False),
        sa.Column("rating", sa.Integer, nullable=False),
        sa.Column("input", sa.JSON),
        sa.Column("correction", sa.JSON),
        sa.Column("comment", sa.String(2000), nullable=False, server_default=""),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["org_id"], ["organization.id"], name="fk_feedback_org_id_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
    )
    op.create_index("ix_feedback_model_created", "feedback", ["model", "created_ms"])
    op.create_index("ix_feedback_org_event", "feedback", ["org_id", "event_id"])


def downgrade() -> None:
    raise NotImplementedError("a database is not taken back to an older release; restore a backup instead")
