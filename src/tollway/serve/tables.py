"""The tables of the serving side: what is on offer and what the machines were busy with.

A model is the name a buyer calls; a deployment says which package version or upstream answers it. `replica_hour` is the
cost record: how long each replica was busy, idle or broken within each UTC hour, so that the books can close.
"""

import sqlalchemy as sa

from tollway.kit.db import metadata

model = sa.Table(
    "model",
    metadata,
    sa.Column("name", sa.String(120), primary_key=True),
    sa.Column("kind", sa.String(20), nullable=False),  # chat, embedding, classification … (artifacts.manifest.KINDS)
    sa.Column("title", sa.String(200), nullable=False, server_default=""),
    sa.Column("engine", sa.String(20), nullable=False),  # see models.EngineName
    sa.Column("chosen_engine", sa.String(20), nullable=False, server_default=""),  # see deployments.Deployment
    sa.Column("version", sa.String(60), nullable=False),  # package version, or "upstream"
    sa.Column("upstream", sa.JSON),  # {"url", "model", "key_env"} for engine "upstream"
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("retired_ms", sa.BigInteger),
    sa.Column("org_id", sa.String(40), nullable=False, server_default=""),  # only this organization's; "": everybody's
    sa.Column("base", sa.String(120), nullable=False, server_default=""),  # the model whose replica serves this adapter
    sa.Column(
        "package", sa.String(120), nullable=False, server_default=""
    ),  # on the shelf; "": of the model's own name
    sa.Column("serving", sa.JSON),  # replicas, memory and cost, where that is not what the settings say
)

replica_hour = sa.Table(
    "replica_hour",
    metadata,
    sa.Column("model", sa.String(120), primary_key=True),
    sa.Column("model_version", sa.String(60), primary_key=True),
    sa.Column("hour_ms", sa.BigInteger, primary_key=True),  # start of the hour
    sa.Column("busy_us", sa.BigInteger, nullable=False),  # shared out to calls, to the microsecond
    sa.Column("failed_us", sa.BigInteger, nullable=False),  # shared out to calls that were not billed
    sa.Column("idle_us", sa.BigInteger, nullable=False),
    sa.Column("shadow_us", sa.BigInteger, nullable=False, server_default="0"),  # copies of calls for a shadow version
)

# Which versions are, or were, in service under a model's name: the history of a model, and the way back.
deployment = sa.Table(
    "deployment",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("model", sa.String(120), nullable=False),
    sa.Column("version", sa.String(60), nullable=False),
    sa.Column("engine", sa.String(20), nullable=False, server_default=""),
    sa.Column("chosen_engine", sa.String(20), nullable=False, server_default=""),
    sa.Column("role", sa.String(20), nullable=False),  # stable | canary | shadow | warm
    sa.Column("share", sa.Integer, nullable=False, server_default="0"),  # percent of the calls
    sa.Column("policy", sa.JSON, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),  # running | promoted | rolled_back | ended
    sa.Column("began_ms", sa.BigInteger, nullable=False),
    sa.Column("ready_ms", sa.BigInteger),  # when it could answer first
    sa.Column("ended_ms", sa.BigInteger),
    sa.Column("why", sa.String(1000), nullable=False, server_default=""),
    sa.Column("figures", sa.JSON, nullable=False),  # what was measured so far, so that a restart goes on with it
    sa.Column("said", sa.JSON),  # `why` as code and figures (kit/said.py)
    sa.Index("ix_deployment_model_began", "model", "began_ms"),
    sa.Index("ix_deployment_state", "state"),
)
