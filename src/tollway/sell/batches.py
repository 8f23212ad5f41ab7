"""Batches as the books know them: which file, for whom, how far. For flows.batches; the rows are those of `kit/jobs.py`."""

import hashlib
from typing import Final

import msgspec
import sqlalchemy as sa

from tollway.kit import jobs
from tollway.kit.ids import base32
from tollway.kit.jobs import Job

KIND: Final = "batch"
BATCHES_MAX: Final = 10  # of one organization, waiting or running
WINDOW_MS: Final = 24 * 3_600_000


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    key_id: str
    endpoint: str
    input_file_id: str
    metadata: dict[str, str]
    lines: int
    expires_ms: int


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is. A failed line has an answer too: its error."""

    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    cancelling_ms: int | None = None
    price_picos: int | None = None  # of all answers, once it has ended


def order_of(job: Job) -> Order:
    """What a batch was asked to do."""
    return msgspec.convert(job.asked, Order)


def made_of(job: Job) -> Made:
    """How far a batch is."""
    return msgspec.convert(job.made, Made)


def ask_to_cancel(conn: sa.Connection, now_ms: int, org_id: str, job_id: str) -> Job:
    """Ask for the end of a batch, and note when; whoever works on it sees it. Raises NotFound, Conflict."""
    job = jobs.ask_to_cancel(conn, now_ms, KIND, org_id, job_id)
    return jobs.further(conn, job_id, cancelling_ms=now_ms) if job.open else job


def code_of(job_id: str, name: str) -> str:
    """The code (`kit.ids`) of something that a batch makes: the same each time it is asked for, so that a batch that goes on
    after a crash bills no line and keeps no file twice. Sorts with its batch."""
    digest = hashlib.sha256(f"{job_id}/{name}".encode()).digest()
    return job_id.partition("_")[2][:10] + base32(int.from_bytes(digest[:16], "big"))[:16]
