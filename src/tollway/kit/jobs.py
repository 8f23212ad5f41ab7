"""Durable jobs: work that takes longer than a request and outlives the process that took it: fine-tuning, batches, adaptations.

    queued -> running -> succeeded | failed | cancelled | expired

A job is a row: what was asked (`asked`, never changed), what has come of it so far (`made`), who works on it. Whoever works
*claims* it and gives a sign of life (`beat`) every few seconds; a claim whose owner was killed is taken over by the next
one, who goes on where the job's own files say it was. `settled` is False while an ended job still has to be paid for, so
that a crash between its end and its bill is made good by whoever comes next. `kit/crew.py` does the claiming and beating.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from tollway.kit.db import metadata
from tollway.kit.errors import Conflict, NotFound
from tollway.kit.ids import new_id
from tollway.kit.said import coded, say

OPEN: Final = ("queued", "running")
LEASE_MS: Final = 30_000
_HOUR_MS: Final = 3_600_000
_WAITS: Final = "waits"  # among what a job has made: since when it cannot go on, and why

job = sa.Table(
    "job",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("kind", sa.String(20), nullable=False),  # fine_tuning | batch | adaptation
    sa.Column("org_id", sa.String(40), nullable=False, index=True),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("cancelling", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("asked", sa.JSON, nullable=False),
    sa.Column("made", sa.JSON, nullable=False),
    sa.Column("error", sa.JSON),
    sa.Column("settled", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("owner", sa.String(40), nullable=False, server_default=""),  # who works on it
    sa.Column("beat_ms", sa.BigInteger, nullable=False, server_default="0"),  # the owner's last sign of life
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),  # claims since it last got further; see `claim`
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("started_ms", sa.BigInteger),
    sa.Column("finished_ms", sa.BigInteger),
    sa.Index("ix_job_kind_status", "kind", "status"),
)

# What happened to a job, as its owner may see it.
job_event = sa.Table(
    "job_event",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("job_id", sa.String(40), nullable=False, index=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("level", sa.String(10), nullable=False),  # info | warn | error
    sa.Column("kind", sa.String(10), nullable=False),  # message | metrics
    sa.Column("message", sa.String(400), nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("said", sa.JSON),  # the message as code and figures (kit/said.py)
)

# How long this machine worked on a job in each UTC hour, in a process that is no replica: for the cost books.
job_hour = sa.Table(
    "job_hour",
    metadata,
    sa.Column("job_id", sa.String(40), primary_key=True),
    sa.Column("hour_ms", sa.BigInteger, primary_key=True),
    sa.Column("busy_us", sa.BigInteger, nullable=False),
)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `job`."""

    id: str
    kind: str
    org_id: str
    status: str = "queued"
    cancelling: bool = False
    asked: dict[str, Any]
    made: dict[str, Any] = {}
    error: dict[str, Any] | None = None
    settled: bool = True
    owner: str = ""
    beat_ms: int = 0
    tries: int = 0
    created_ms: int
    started_ms: int | None = None
    finished_ms: int | None = None

    @property
    def open(self) -> bool:
        """Whether it has not ended yet."""
        return self.status in OPEN


class JobEvent(msgspec.Struct, frozen=True):
    """Something that happened to a job."""

    id: str
    job_id: str
    at_ms: int
    level: str
    kind: str
    message: str
    data: dict[str, Any]
    said: dict[str, Any] | None = None


Note = Callable[[sa.Connection, Job], None]
"""Writes something about a new job in the transaction that makes it."""


# -- the rows ----------------------------------------------------------------------------------------------------------


def create(conn: sa.Connection, made: Job, open_max: int, note: Note | None = None) -> Job:
    """A new job. Raises Conflict when its organization has `open_max` of the kind that have not ended."""
    waiting = sa.select(sa.func.count()).where(
        job.c.org_id == made.org_id, job.c.kind == made.kind, job.c.status.in_(OPEN)
    )
    if conn.execute(waiting).scalar_one() >= open_max:
        raise Conflict(
            say("job.too_many", "{count} jobs of this organization are waiting or running.", count=open_max),
            code="too_many_jobs",
            hint=say("job.too_many_hint", "Wait for one of them, or cancel one."),
        )
    conn.execute(job.insert().values(**msgspec.structs.asdict(made)))
    tell(conn, made.created_ms, made.id, say("job.waits", "The job is waiting for its turn."))
    if note is not None:
        note(conn, made)
    return made


def get(conn: sa.Connection, kind: str, job_id: str, org_id: str | None = None) -> Job:
    """A job (of an organization). Raises NotFound, also for others'."""
    query = sa.select(job).where(job.c.id == job_id, job.c.kind == kind)
    if org_id is not None:
        query = query.where(job.c.org_id == org_id)
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(f"There is no job {job_id[:60]!r}.", code="job_not_found")
    return Job(**row._mapping)


def list_of(
    conn: sa.Connection,
    kind: str | None,
    org_id: str | None = None,
    *,
    open_only: bool = False,
    unsettled: bool = False,
    limit: int | None = None,
    after: str | None = None,
) -> list[Job]:
    """Jobs, newest first; `after` continues behind the last one seen."""
    query = sa.select(job).order_by(job.c.id.desc()).limit(limit)
    if kind is not None:
        query = query.where(job.c.kind == kind)
    if org_id is not None:
        query = query.where(job.c.org_id == org_id)
    if open_only:
        query = query.where(job.c.status.in_(OPEN))
    if unsettled:
        query = query.where(job.c.status.not_in(OPEN), job.c.settled.is_(sa.false()))
    if after is not None:
        query = query.where(job.c.id < after)
    return [Job(**row._mapping) for row in conn.execute(query)]


def ended_of(conn: sa.Connection, job_ids: Sequence[str]) -> list[str]:
    """Which of these have ended and are settled."""
    over = (job.c.status.not_in(OPEN), job.c.settled.is_(sa.true()))
    return [row.id for row in conn.execute(sa.select(job.c.id).where(job.c.id.in_(job_ids), *over))]


def change(conn: sa.Connection, job_id: str, **values: Any) -> Job:
    """Note something about a job."""
    conn.execute(job.update().where(job.c.id == job_id).values(values))
    return Job(**conn.execute(sa.select(job).where(job.c.id == job_id)).one()._mapping)


def further(conn: sa.Connection, job_id: str, **made: Any) -> Job:
    """It got further: note what it has made, that its worker did not die of it, and that it waits for nothing."""
    before = _made(conn, job_id)
    before.pop(_WAITS, None)
    return change(conn, job_id, made={**before, **made}, tries=0)


def waits(conn: sa.Connection, now_ms: int, job_id: str, why: str) -> int:
    """It cannot go on now. Since when it has not got further (ms)."""
    before = _made(conn, job_id)
    since_ms = int(before.get(_WAITS, {}).get("since_ms", now_ms))
    change(conn, job_id, made={**before, _WAITS: {"since_ms": since_ms, "why": why[:400]}})
    return since_ms


def waits_for(found: Job) -> str:
    """Why a job has not got further; "": it has."""
    return str(found.made.get(_WAITS, {}).get("why", ""))


def _made(conn: sa.Connection, job_id: str) -> dict[str, Any]:
    query = sa.select(job.c.made).where(job.c.id == job_id).with_for_update()
    return dict(conn.execute(query).scalar_one())


def end(
    conn: sa.Connection,
    now_ms: int,
    job_id: str,
    status: str,
    message: str,
    *,
    error: dict[str, Any] | None = None,
    settled: bool = True,
    **made: Any,
) -> Job:
    """The job has ended; the first end counts."""
    found = Job(**conn.execute(sa.select(job).where(job.c.id == job_id).with_for_update()).one()._mapping)
    if not found.open:
        return found
    tell(conn, now_ms, job_id, message, level="error" if error else "info")
    return change(
        conn, job_id, status=status, finished_ms=now_ms, error=error, settled=settled, owner="", made=found.made | made
    )


def ask_to_cancel(conn: sa.Connection, now_ms: int, kind: str, org_id: str, job_id: str) -> Job:
    """Ask for the end of a job; one that waits is cancelled at once. Raises Conflict for one that has ended."""
    found = get(conn, kind, job_id, org_id)
    if not found.open:
        raise Conflict(
            say("job.ended_already", "The job has ended already: {state}.", state=found.status), code="job_ended"
        )
    if found.status == "queued":
        words = say("job.cancelled_waiting", "The job was cancelled before it began; it costs nothing.")
        end(conn, now_ms, job_id, "cancelled", words)
    return change(conn, job_id, cancelling=True)


def claim(
    conn: sa.Connection,
    now_ms: int,
    kind: str,
    owner: str,
    *,
    alone: bool,
    but: Sequence[str] = (),
    excused: Collection[str] = (),
) -> Job | None:
    """The next job that nobody works on becomes `owner`'s: those that were begun first, then the oldest, one of each
    organization before a second one. `alone`: no other process works here, so every claim but ours is a dead one's.
    `excused`: whose last try said why it could not go on; taking them up again is not one try more."""
    free = sa.true() if alone else sa.or_(job.c.owner.in_(("", owner)), job.c.beat_ms < now_ms - LEASE_MS)
    query = sa.select(job).where(job.c.kind == kind, job.c.status.in_(OPEN), job.c.id.not_in(list(but)), free)
    rows = [Job(**row._mapping) for row in conn.execute(query)]
    orgs = sa.select(job.c.org_id).where(job.c.id.in_(list(but)))
    busy = {row.org_id for row in conn.execute(orgs)} if but else set()
    for found in sorted(rows, key=lambda one: (one.org_id in busy, one.status == "queued", one.id)):
        same = (job.c.id == found.id, job.c.owner == found.owner, job.c.beat_ms == found.beat_ms)
        claimed = {"owner": owner, "beat_ms": now_ms, "tries": found.tries + (found.id not in excused)}
        if conn.execute(job.update().where(*same, job.c.status.in_(OPEN)).values(claimed)).rowcount:
            begun = found.status == "running"
            if found.id not in excused:  # which may be for long, every few seconds
                goes_on, begins = say("job.goes_on", "The work goes on."), say("job.begins", "The work begins.")
                tell(conn, now_ms, found.id, goes_on if begun else begins)
            return change(conn, found.id, status="running", started_ms=found.started_ms or now_ms)
    return None


def beat(conn: sa.Connection, now_ms: int, job_id: str, owner: str, busy_us: int = 0) -> Job:
    """The owner's sign of life, and what its process worked since the last one. Raises Conflict when the job is another's
    by now."""
    mine = job.update().where(job.c.id == job_id, job.c.owner == owner).values(beat_ms=now_ms)
    if not conn.execute(mine).rowcount:
        raise Conflict(f"The job {job_id} is worked on elsewhere.", code="job_lost")
    if busy_us:
        worked(conn, now_ms, job_id, busy_us)
    return Job(**conn.execute(sa.select(job).where(job.c.id == job_id)).one()._mapping)


def worked(conn: sa.Connection, now_ms: int, job_id: str, busy_us: int) -> None:
    """Add the time of a process to the job's hour."""
    place = (job_hour.c.job_id == job_id, job_hour.c.hour_ms == now_ms - now_ms % _HOUR_MS)
    added = job_hour.update().where(*place).values(busy_us=job_hour.c.busy_us + busy_us)
    if not conn.execute(added).rowcount:
        conn.execute(job_hour.insert().values(job_id=job_id, hour_ms=now_ms - now_ms % _HOUR_MS, busy_us=busy_us))


def worked_us(conn: sa.Connection, job_id: str) -> int:
    """How long processes worked on a job, all hours together."""
    return int(
        conn.execute(sa.select(sa.func.sum(job_hour.c.busy_us)).where(job_hour.c.job_id == job_id)).scalar() or 0
    )


def tell(
    conn: sa.Connection,
    now_ms: int,
    job_id: str,
    message: str,
    *,
    level: str = "info",
    data: dict[str, Any] | None = None,
) -> None:
    """Write an event down; with `data` it is one of metrics. The message may be `Said`: then it is kept as code and figures too."""
    kind = "metrics" if data else "message"
    row = {"id": new_id("jobevent", now_ms), "job_id": job_id, "at_ms": now_ms, "level": level, "kind": kind}
    words = str(message)[:400]
    conn.execute(job_event.insert().values(**row, message=words, data=data or {}, said=coded(message)))


def events(
    conn: sa.Connection, job_id: str, limit: int, after: str | None = None, kind: str | None = None
) -> list[JobEvent]:
    """A job's events, newest first; `after` continues behind the last one seen."""
    query = sa.select(job_event).where(job_event.c.job_id == job_id).order_by(job_event.c.id.desc()).limit(limit)
    if after is not None:
        query = query.where(job_event.c.id < after)
    if kind is not None:
        query = query.where(job_event.c.kind == kind)
    return [JobEvent(**row._mapping) for row in conn.execute(query)]
