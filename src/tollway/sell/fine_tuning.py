"""Fine-tuning jobs as the books know them: who asked for what, what it may cost, what came of it. For flows.fine_tuning.

The rows are those of `kit/jobs.py`; here is what stands in them. A job's usage event has an id of its own (`event_of`), so
that it is billed once, whatever happens in between.
"""

import re
from typing import Any, Final

import msgspec

from tollway.kit.jobs import Job

KIND: Final = "fine_tuning"
JOBS_MAX: Final = 20  # of one organization, waiting or running


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for and held."""

    key_id: str
    base: str
    base_version: str
    training_file: str
    validation_file: str | None
    suffix: str
    hyperparameters: dict[str, Any]  # n_epochs, batch_size, learning_rate_multiplier
    seed: int
    metadata: dict[str, str]
    tokens_max: int  # all tokens of all epochs
    subscription_id: str
    plan_version_id: str


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    trained_tokens: int | None = None
    model: str | None = None  # ft:base:organization:suffix:id
    event_id: str | None = None
    steps_done: int = 0  # the furthest that any process of the job got, over however many gateways
    steps_total: int = 0


def order_of(job: Job) -> Order:
    """What a job was asked to do."""
    return msgspec.convert(job.asked, Order)


def made_of(job: Job) -> Made:
    """What a job has made."""
    return msgspec.convert(job.made, Made)


def stepped(made: Made, done: int, total: int) -> Made:
    """It has done so many steps; one that goes on from a checkpoint does some of them again."""
    return msgspec.structs.replace(made, steps_done=max(made.steps_done, done), steps_total=total)


def tokens_done(order: Order, made: Made) -> int:
    """The tokens of the steps that were done: what a job costs that is cancelled now."""
    return round(order.tokens_max * min(1.0, made.steps_done / max(1, made.steps_total)))


def event_of(job_id: str) -> str:
    """The id of the usage event that bills a job."""
    return f"evt_{job_id.partition('_')[2]}"


def name_of(base: str, organization: str, suffix: str, job_id: str) -> str:
    """What the trained model is called: `ft:base:organization:suffix:id`."""
    slug = re.sub(r"[^a-z0-9]+", "-", organization.lower()).strip("-")[:20] or "org"
    return f"ft:{base}:{slug}:{suffix}:{job_id[-8:]}"
