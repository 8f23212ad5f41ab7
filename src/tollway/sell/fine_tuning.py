"""Fine-tuning jobs as the books know them: who asked for what, how far it is, what came of it. For flows.fine_tuning.

    queued -> running -> succeeded | failed | cancelled

A job's usage event has an id of its own (`event_of`), so that it is billed once, whatever happens in between.
"""

import re
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from tollway.kit.errors import Conflict, NotFound
from tollway.kit.ids import new_id
from tollway.sell import tables

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
OPEN = ("queued", "running")
JOBS_MAX = 20  # of one organization, waiting or running


class Job(msgspec.Struct, frozen=True):
    """One training."""

    id: str
    org_id: str
    key_id: str
    base: str
    base_version: str
    training_file: str
    validation_file: str | None
    suffix: str
    hyperparameters: dict[str, Any]
    seed: int
    metadata: dict[str, str]
    status: Status
    cancelling: bool
    tokens_max: int
    trained_tokens: int | None
    model: str | None
    error: dict[str, Any] | None
    subscription_id: str
    plan_version_id: str
    event_id: str | None
    created_ms: int
    started_ms: int | None
    finished_ms: int | None


class JobEvent(msgspec.Struct, frozen=True):
    """Something that happened to a job, as its owner may see it."""

    id: str
    job_id: str
    at_ms: int
    level: str
    kind: str
    message: str
    data: dict[str, Any]


def create(conn: sa.Connection, job: Job) -> Job:
    """A new job. Raises Conflict when the organization has too many waiting."""
    table = tables.fine_tuning_job
    waiting = sa.select(sa.func.count()).where(table.c.org_id == job.org_id, table.c.status.in_(OPEN))
    if conn.execute(waiting).scalar_one() >= JOBS_MAX:
        raise Conflict(
            f"{JOBS_MAX} jobs of this organization are waiting.", hint="Wait for one of them, or cancel one."
        )
    conn.execute(table.insert().values(**msgspec.structs.asdict(job)))
    tell(conn, job.created_ms, job.id, "The job is waiting for its turn.")
    return job


def get(conn: sa.Connection, job_id: str, org_id: str | None = None) -> Job:
    """A job (of an organization). Raises NotFound, also for others'."""
    table = tables.fine_tuning_job
    query = sa.select(table).where(table.c.id == job_id)
    if org_id is not None:
        query = query.where(table.c.org_id == org_id)
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(f"There is no fine-tuning job {job_id[:60]!r}.", code="job_not_found")
    return Job(**row._mapping)


def list_of(conn: sa.Connection, org_id: str | None, *, open_only: bool = False, unbilled: bool = False) -> list[Job]:
    """Jobs (of one organization), newest first; `unbilled`: those that ended, trained, and have no event yet."""
    table = tables.fine_tuning_job
    query = sa.select(table).order_by(table.c.id.desc())
    if org_id is not None:
        query = query.where(table.c.org_id == org_id)
    if open_only:
        query = query.where(table.c.status.in_(OPEN))
    if unbilled:
        query = query.where(table.c.status.not_in(OPEN), table.c.trained_tokens > 0, table.c.event_id.is_(None))
    return [Job(**row._mapping) for row in conn.execute(query)]


def change(conn: sa.Connection, job_id: str, **values: Any) -> Job:
    """Note something about a job."""
    conn.execute(tables.fine_tuning_job.update().where(tables.fine_tuning_job.c.id == job_id).values(values))
    return get(conn, job_id)


def ask_to_cancel(conn: sa.Connection, now_ms: int, org_id: str, job_id: str) -> Job:
    """Ask for the end of a job; one that waits is cancelled at once. Raises Conflict for one that has ended."""
    job = get(conn, job_id, org_id)
    if job.status not in OPEN:
        raise Conflict(f"The job has {job.status} already.", code="job_ended")
    if job.status == "queued":
        tell(conn, now_ms, job_id, "The job was cancelled before it began; it costs nothing.")
        return change(conn, job_id, status="cancelled", cancelling=True, finished_ms=now_ms)
    return change(conn, job_id, cancelling=True)


def tell(
    conn: sa.Connection,
    now_ms: int,
    job_id: str,
    message: str,
    *,
    level: str = "info",
    data: dict[str, Any] | None = None,
) -> None:
    """Write an event down; with `data` it is one of metrics."""
    kind = "metrics" if data else "message"
    row = {"id": new_id("ftevent", now_ms), "job_id": job_id, "at_ms": now_ms, "level": level, "kind": kind}
    conn.execute(tables.fine_tuning_event.insert().values(**row, message=message[:400], data=data or {}))


def events(conn: sa.Connection, job_id: str, limit: int, after: str | None = None) -> list[JobEvent]:
    """A job's events, newest first; `after` continues behind the last one seen."""
    table = tables.fine_tuning_event
    query = sa.select(table).where(table.c.job_id == job_id).order_by(table.c.id.desc()).limit(limit)
    if after is not None:
        query = query.where(table.c.id < after)
    return [JobEvent(**row._mapping) for row in conn.execute(query)]


def event_of(job_id: str) -> str:
    """The id of the usage event that bills a job."""
    return f"evt_{job_id.partition('_')[2]}"


def name_of(base: str, organization: str, suffix: str, job_id: str) -> str:
    """What the trained model is called: `ft:base:organization:suffix:id`."""
    slug = re.sub(r"[^a-z0-9]+", "-", organization.lower()).strip("-")[:20] or "org"
    return f"ft:{base}:{slug}:{suffix}:{job_id[-8:]}"
