"""What buyers say of answers, kept under their organization: the raw material of flows.adapt.

An answer takes a few words and an organization's words have an end: a key and one paid call fill nobody's disk.
"""

from typing import Any, Final

import msgspec
import sqlalchemy as sa

from tollway.kit.errors import Conflict, NotFound
from tollway.kit.ids import new_id
from tollway.sell import tables, usage

ANSWER_MOST: Final = 10  # words on one answer
KEPT_MOST: Final = 20_000  # of one organization; then the older ones go, a tenth at a time


class Tally(msgspec.Struct, frozen=True):
    """What was said of one model, counted."""

    model: str
    good: int
    bad: int
    neither: int
    corrected: int
    last_ms: int


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
    """Keep a word on one of the organization's own answers. Raises NotFound for an answer that is not its own, Conflict for
    one that was spoken of often enough."""
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
    _make_room(conn, org_id, event.id)
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
    if corrected:
        query = query.where(_corrected())
    return [Feedback(**row._mapping) for row in conn.execute(query)]


def page_of(conn: sa.Connection, org_id: str, limit: int, after: str | None = None) -> list[Feedback]:
    """An organization's newest feedback, behind one of it."""
    table = tables.feedback
    query = sa.select(table).where(table.c.org_id == org_id).order_by(table.c.id.desc()).limit(limit)
    if after is not None:
        query = query.where(table.c.id < after)
    return [Feedback(**row._mapping) for row in conn.execute(query)]


def tallies(conn: sa.Connection) -> list[Tally]:
    """What was said of each model, by its name. Counted in the database: the words themselves may be many and long."""
    table = tables.feedback

    def count(which: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.sum(sa.case((which, 1), else_=0))

    rating, last = table.c.rating, sa.func.max(table.c.created_ms)
    columns = (table.c.model, count(rating > 0), count(rating < 0), count(rating == 0), count(_corrected()), last)
    query = sa.select(*columns).group_by(table.c.model).order_by(table.c.model)
    return [Tally(row[0], *(int(one) for one in row[1:])) for row in conn.execute(query)]


def _corrected() -> sa.ColumnElement[bool]:
    """Has it an input and a correction? One that has none is the JSON `null`."""
    table = tables.feedback
    return sa.and_(*(sa.cast(one, sa.Text) != "null" for one in (table.c.input, table.c.correction)))


def _make_room(conn: sa.Connection, org_id: str, event_id: str) -> None:
    """Raises Conflict when an answer has its words; forgets an organization's oldest when it has as many as are kept."""
    table = tables.feedback
    own, count = table.c.org_id == org_id, sa.select(sa.func.count()).select_from(table)
    if conn.execute(count.where(own, table.c.event_id == event_id)).scalar_one() >= ANSWER_MOST:
        raise Conflict(
            f"This answer has {ANSWER_MOST} words of feedback; more are not kept.", code="too_much_feedback", param="id"
        )
    if conn.execute(count.where(own)).scalar_one() >= KEPT_MOST:
        oldest = sa.select(table.c.id).where(own).order_by(table.c.id).limit(KEPT_MOST // 10)
        conn.execute(table.delete().where(table.c.id.in_(oldest)))
