"""What buyers say of answers, kept under their organization: the raw material of flows.adapt."""

from typing import Any

import msgspec
import sqlalchemy as sa

from tollway.kit.errors import NotFound
from tollway.kit.ids import new_id
from tollway.sell import tables, usage


class Feedback(msgspec.Struct, frozen=True):
    """One word on one answer. `input` and `correction` are the buyer's own: prompts are not kept by the shop."""

    id: str
    org_id: str
    key_id: str
    event_id: str
    model: str
    model_version: str
    rating: int
    input: Any
    correction: Any
    comment: str
    created_ms: int


def give(
    conn: sa.Connection,
    now_ms: int,
    org_id: str,
    key_id: str,
    answer_id: str,
    rating: int,
    *,
    input: Any = None,
    correction: Any = None,
    comment: str = "",
) -> Feedback:
    """Keep a word on one of the organization's own answers. Raises NotFound for an answer that is not its own."""
    code = answer_id.removeprefix("chatcmpl-").removeprefix("cmpl-").removeprefix("req_").removeprefix("evt_")
    try:
        event = usage.find_event(conn, f"evt_{code}", org_id)
    except NotFound:
        raise NotFound(
            f"There is no answer {answer_id[:60]!r} of this organization.",
            code="answer_not_found",
            param="id",
            hint="Use the answer's x-request-id.",
        ) from None
    made = Feedback(
        new_id("fb", now_ms), org_id, key_id, event.id, event.model, event.model_version, rating, input, correction,
        comment, now_ms,
    )  # fmt: skip
    conn.execute(tables.feedback.insert().values(**msgspec.structs.asdict(made)))
    return made


def list_of(
    conn: sa.Connection, *, org_id: str | None = None, model: str | None = None, corrected: bool = False
) -> list[Feedback]:
    """Feedback (of an organization, on a model), oldest first; `corrected`: with input and correction."""
    table = tables.feedback
    query = sa.select(table).order_by(table.c.id)
    if org_id is not None:
        query = query.where(table.c.org_id == org_id)
    if model is not None:
        query = query.where(table.c.model == model)
    found = [Feedback(**row._mapping) for row in conn.execute(query)]
    return [one for one in found if one.input is not None and one.correction is not None] if corrected else found
