"""The tables of the selling side: who the buyers are, what is sold, what was used, what is owed.

Times are epoch milliseconds UTC (`*_ms`), money is micros or picos (see kit.money), ids are typed text (kit.ids).
Usage events are immutable facts; `usage_daily` is their exact rollup, written in the same transaction. Tables of short
rows have no rowid on SQLite: one tree instead of two. Events are long: without a rowid their tree would be half empty and
deep, and a commit of sixteen would write six of its pages instead of two.
"""

import sqlalchemy as sa

from tollway.kit.db import metadata

Id = sa.String(40)

# One counter that every change to keys, plans, subscriptions or wallets moves: gateways watch it (see access).
revision = sa.Table(
    "revision",
    metadata,
    sa.Column("name", sa.String(20), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

organization = sa.Table(
    "organization",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("billing_email", sa.String(320), nullable=False, server_default=""),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("suspended_ms", sa.BigInteger),
)

# A person who signs in to the console. Operators have no organization; members have one.
member = sa.Table(
    "member",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("org_id", Id, sa.ForeignKey("organization.id"), index=True),
    sa.Column("email", sa.String(320), nullable=False, unique=True),
    sa.Column("password_hash", sa.String(200), nullable=False),
    sa.Column("role", sa.String(20), nullable=False),  # operator | owner | member
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)

session = sa.Table(
    "session",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),  # HMAC of the cookie: a stolen database opens no console
    sa.Column("member_id", Id, sa.ForeignKey("member.id"), nullable=False, index=True),
    sa.Column("csrf", sa.String(64), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
)

api_key = sa.Table(
    "api_key",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("org_id", Id, sa.ForeignKey("organization.id"), nullable=False, index=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("hint", sa.String(30), nullable=False),  # what may be shown: tw_live_ab…wxyz
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("scopes", sa.JSON, nullable=False),  # ["inference", "usage"]
    sa.Column("models", sa.JSON),  # null: every model of the plan
    sa.Column("rpm", sa.BigInteger),  # null: the plan's limit
    sa.Column("tpm", sa.BigInteger),
    sa.Column("concurrency", sa.BigInteger),
    sa.Column("expires_ms", sa.BigInteger),
    sa.Column("revoked_ms", sa.BigInteger),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)

plan = sa.Table(
    "plan",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("name", sa.String(60), nullable=False, unique=True),  # slug: "starter"
    sa.Column("title", sa.String(200), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("archived_ms", sa.BigInteger),
)

# Immutable once written: a change of price is a new version.
plan_version = sa.Table(
    "plan_version",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("plan_id", Id, sa.ForeignKey("plan.id"), nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("terms", sa.JSON, nullable=False),  # catalog.Terms
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("plan_id", "version"),
)

subscription = sa.Table(
    "subscription",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("org_id", Id, sa.ForeignKey("organization.id"), nullable=False, index=True),
    sa.Column("plan_version_id", Id, sa.ForeignKey("plan_version.id"), nullable=False, index=True),
    sa.Column("started_ms", sa.BigInteger, nullable=False),
    sa.Column("ended_ms", sa.BigInteger),
    # At most one running subscription per organization.
    sa.Index(
        "uq_subscription_running",
        "org_id",
        unique=True,
        sqlite_where=sa.text("ended_ms IS NULL"),
        postgresql_where=sa.text("ended_ms IS NULL"),
    ),
)

# input_tokens excludes cached_tokens: the pools are disjoint, so parts sum to the whole.
usage_event = sa.Table(
    "usage_event",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("request_id", sa.String(64), nullable=False),
    sa.Column("org_id", Id, nullable=False),
    sa.Column("key_id", Id, nullable=False),
    sa.Column("subscription_id", Id, nullable=False),
    sa.Column("plan_version_id", Id, nullable=False),
    sa.Column("model", sa.String(120), nullable=False),
    sa.Column("model_version", sa.String(60), nullable=False),
    sa.Column("operation", sa.String(40), nullable=False),  # chat | completion | embedding | classification …
    sa.Column("status", sa.String(20), nullable=False),  # ok | aborted (the client left; what was generated counts)
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("price_picos", sa.BigInteger, nullable=False),
    sa.Column("prefill_us", sa.BigInteger, nullable=False),  # engine time, this call's share of batched steps
    sa.Column("decode_us", sa.BigInteger, nullable=False),
    sa.Column("first_token_us", sa.BigInteger),  # from arrival to the first piece; null: the engine answered in one
    sa.Column("duration_us", sa.BigInteger, nullable=False),
    sa.Column("streamed", sa.Boolean, nullable=False),
    # What else was used, besides tokens and the request itself: a meter of catalog.COUNTED and how many of its units.
    sa.Column("meter", sa.String(20), nullable=False, server_default=""),
    sa.Column("units", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tier", sa.String(10), nullable=False, server_default=""),  # batch: at a lower price, in idle time
    sa.Index("ix_usage_event_org_at", "org_id", "at_ms"),
    sa.Index("ix_usage_event_at", "at_ms"),
)

usage_daily = sa.Table(
    "usage_daily",
    metadata,
    sa.Column("org_id", Id, primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("key_id", Id, primary_key=True),
    sa.Column("model", sa.String(120), primary_key=True),
    sa.Column("plan_version_id", Id, primary_key=True),
    sa.Column("meter", sa.String(20), primary_key=True, server_default=""),
    sa.Column("tier", sa.String(10), primary_key=True, server_default=""),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("price_picos", sa.BigInteger, nullable=False),
    sa.Column("prefill_us", sa.BigInteger, nullable=False),
    sa.Column("decode_us", sa.BigInteger, nullable=False),
    sa.Column("units", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("ix_usage_daily_day", "day"),
    sqlite_with_rowid=False,
)

ledger_transaction = sa.Table(
    "ledger_transaction",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("cause", sa.String(120), nullable=False, unique=True),  # why money moved; the same cause moves it once
    sa.Column("kind", sa.String(40), nullable=False),  # top_up | usage | invoice | payment | grant | correction
    sa.Column("memo", sa.String(400), nullable=False, server_default=""),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

ledger_entry = sa.Table(
    "ledger_entry",
    metadata,
    sa.Column("transaction_id", Id, sa.ForeignKey("ledger_transaction.id"), primary_key=True),
    sa.Column("line", sa.Integer, primary_key=True),
    sa.Column("account", sa.String(40), nullable=False),
    sa.Column("org_id", Id, nullable=False),  # "" for the operator's own accounts
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("amount_micros", sa.BigInteger, nullable=False),  # debit positive, credit negative
    sa.Index("ix_ledger_entry_account_org", "account", "org_id"),
    sqlite_with_rowid=False,
)

# A projection of ledger_entry, kept in the same transaction; `ledger.audit` proves that it is the sum.
ledger_balance = sa.Table(
    "ledger_balance",
    metadata,
    sa.Column("account", sa.String(40), primary_key=True),
    sa.Column("org_id", Id, primary_key=True),
    sa.Column("currency", sa.String(3), primary_key=True),
    sa.Column("amount_micros", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# What wallets owe for usage that is in the books of events and not yet in the ledger: `ledger.post_accrued` moves its
# whole micros there. What a wallet can spend is its balance less this.
accrued_usage = sa.Table(
    "accrued_usage",
    metadata,
    sa.Column("org_id", Id, primary_key=True),
    sa.Column("currency", sa.String(3), primary_key=True),
    sa.Column("picos", sa.BigInteger, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),  # of the last use
    sqlite_with_rowid=False,
)

# Gateways that share this database, and their slices of what organizations have (see leases). PostgreSQL only.
gateway = sa.Table(
    "gateway",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("lock", sa.BigInteger, nullable=False),  # the advisory lock that it holds while it lives
    sa.Column("label", sa.String(200), nullable=False),  # where it runs, for people
    sa.Column("started_ms", sa.BigInteger, nullable=False),
    sa.Column("seen_ms", sa.BigInteger, nullable=False),
    sa.Column("reclaimed", sa.Boolean, nullable=False),  # its slices were taken back
)

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("gateway_id", Id, primary_key=True),  # "": what nobody has leased of included units and monthly caps
    sa.Column("org_id", Id, primary_key=True),
    sa.Column("kind", sa.String(20), primary_key=True),  # wallet | units | tokens | rpm | tpm | concurrency
    sa.Column("scope", sa.String(120), primary_key=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Index("ix_lease_org_kind", "org_id", "kind", "scope"),
    sqlite_with_rowid=False,
)

invoice = sa.Table(
    "invoice",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("number", sa.String(40), unique=True),  # given when finalised, without gaps
    sa.Column("org_id", Id, sa.ForeignKey("organization.id"), nullable=False, index=True),
    sa.Column("subscription_id", Id, nullable=False),
    sa.Column("plan_version_id", Id, nullable=False),
    sa.Column("period", sa.String(7), nullable=False),  # 2026-01
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("status", sa.String(20), nullable=False),  # draft | finalised | paid | void
    sa.Column("lines", sa.JSON, nullable=False),  # billing.InvoiceLine, frozen when finalised
    sa.Column("total_micros", sa.BigInteger, nullable=False),
    sa.Column("due_micros", sa.BigInteger, nullable=False),  # total less what the wallet already paid
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("finalised_ms", sa.BigInteger),
    sa.Column("paid_ms", sa.BigInteger),
    sa.UniqueConstraint("subscription_id", "period"),
)

# A buyer's upload. Its bytes lie in the home under files/<organization>/<id>.
stored_file = sa.Table(
    "stored_file",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("org_id", Id, sa.ForeignKey("organization.id"), nullable=False, index=True),
    sa.Column("key_id", Id, nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("purpose", sa.String(20), nullable=False),  # fine-tune
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("lines", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)

# What was answered to a request that is to be done once (its Idempotency-Key); see sell/once.py.
answered_once = sa.Table(
    "answered_once",
    metadata,
    sa.Column("org_id", Id, primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False, index=True),
)

# What a buyer says of an answer. `input` and `correction` are the buyer's own words: the shop keeps no prompts.
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("org_id", Id, sa.ForeignKey("organization.id"), nullable=False),
    sa.Column("key_id", Id, nullable=False),
    sa.Column("event_id", Id, nullable=False),
    sa.Column("model", sa.String(120), nullable=False),
    sa.Column("model_version", sa.String(60), nullable=False),
    sa.Column("rating", sa.Integer, nullable=False),  # 1 good, -1 bad, 0 neither
    sa.Column("input", sa.JSON),
    sa.Column("correction", sa.JSON),
    sa.Column("comment", sa.String(2000), nullable=False, server_default=""),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Index("ix_feedback_model_created", "model", "created_ms"),
    sa.Index("ix_feedback_org_event", "org_id", "event_id"),
)

# A model that was exported to a device. Its usage log is chained; `head_*` is the last entry that is in the books.
edge_device = sa.Table(
    "edge_device",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("org_id", Id, sa.ForeignKey("organization.id"), nullable=False, index=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("model", sa.String(120), nullable=False),
    sa.Column("model_version", sa.String(60), nullable=False),
    sa.Column("digest", sa.String(80), nullable=False),
    sa.Column("input", sa.String(10), nullable=False),  # text | image | row
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("revoked_ms", sa.BigInteger),
    sa.Column("head_n", sa.BigInteger, nullable=False),
    sa.Column("head_seal", sa.String(64), nullable=False),
    sa.Column("last_at_ms", sa.BigInteger, nullable=False),
    sa.Column("synced_ms", sa.BigInteger),
    sa.Column("claimed_ms", sa.BigInteger),  # somebody is taking its log over since then
)
