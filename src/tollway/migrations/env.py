"""Alembic's entry: runs revisions on the connection that `migrate` hands over, inside its transaction."""

from alembic import context

from tollway.kit import jobs as _jobs  # noqa: F401  (registers its tables)
from tollway.kit.db import metadata
from tollway.sell import tables as _sell  # noqa: F401
from tollway.serve import tables as _serve  # noqa: F401

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
