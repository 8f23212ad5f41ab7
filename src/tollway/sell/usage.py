"""Reading what was used: per day, model, key and organization, and single events. For the console, the API and the CLI.

Sums by day come from `usage_daily`, the rollup written in the events' own transaction; they are exact, not samples.
Days are UTC (`2026-01-31`), both ends included. Nothing here writes.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from tollway.kit.errors import BadRequest, NotFound
from tollway.kit.said import say
from tollway.sell import tables
from tollway.sell.catalog import COUNTED
from tollway.sell.metering import UsageEvent, event_id_of

_SUMMED = (
    "requests",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "price_picos",
    "prefill_us",
    "decode_us",
    *COUNTED,
)
_DAYS_MOST = 3700


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What was used, summed. `input_tokens` excludes `cached_tokens`; price is what was charged, in picos."""

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    price_picos: int = 0
    prefill_us: int = 0
    decode_us: int = 0
    images: int = 0
    rows: int = 0
    explanations: int = 0
    audio_seconds: int = 0
    characters: int = 0
    training_tokens: int = 0

    @property
    def tokens(self) -> int:
        """All tokens: the three pools do not overlap."""
        return self.input_tokens + self.cached_tokens + self.output_tokens


class DayUse(Totals, frozen=True, kw_only=True):
    """One UTC day."""

    day: str


class ModelUse(Totals, frozen=True, kw_only=True):
    """One model."""

    model: str


class KeyUse(Totals, frozen=True, kw_only=True):
    """One API key."""

    key_id: str


class OrgUse(Totals, frozen=True, kw_only=True):
    """One organization."""

    org_id: str


Row = TypeVar("Row", bound=Totals)


def by_day(
    conn: sa.Connection,
    org_id: str | None,
    from_day: str,
    to_day: str,
    model: str | None = None,
    key_id: str | None = None,
) -> list[DayUse]:
    """Every day from `from_day` to `to_day`, oldest first; days without use are zeros. `org_id=None`: everyone."""
    first, last = _days(from_day, to_day)
    found = {row.day: row for row in grouped(conn, DayUse, "day", org_id, from_day, to_day, model, key_id)}
    days = [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]
    return [found.get(day) or DayUse(day=day) for day in days]


def by_model(
    conn: sa.Connection,
    org_id: str | None,
    from_day: str,
    to_day: str,
    model: str | None = None,
    key_id: str | None = None,
) -> list[ModelUse]:
    """Every model that was used in these days, the one that earned most first."""
    _days(from_day, to_day)
    return _most_first(grouped(conn, ModelUse, "model", org_id, from_day, to_day, model, key_id))


def by_key(
    conn: sa.Connection,
    org_id: str | None,
    from_day: str,
    to_day: str,
    model: str | None = None,
    key_id: str | None = None,
) -> list[KeyUse]:
    """Every API key that was used in these days, the one that cost most first."""
    _days(from_day, to_day)
    return _most_first(grouped(conn, KeyUse, "key_id", org_id, from_day, to_day, model, key_id))


def by_org(
    conn: sa.Connection,
    org_id: str | None,
    from_day: str,
    to_day: str,
    model: str | None = None,
    key_id: str | None = None,
) -> list[OrgUse]:
    """Every organization that used something in these days, the one that paid most first."""
    _days(from_day, to_day)
    return _most_first(grouped(conn, OrgUse, "org_id", org_id, from_day, to_day, model, key_id))


def grouped(
    conn: sa.Connection,
    kind: type[Row],
    column: str,
    org_id: str | None,
    from_day: str,
    to_day: str,
    model: str | None,
    key_id: str | None,
) -> list[Row]:
    """The rollup summed by one of its columns, in no order; only what was used."""
    daily = tables.usage_daily.c
    query = (
        sa.select(daily[column], *(_sum_of(daily, name) for name in _SUMMED))
        .where(daily.day.between(from_day, to_day))
        .group_by(daily[column])
    )
    for name, wanted in (("org_id", org_id), ("model", model), ("key_id", key_id)):
        if wanted is not None:
            query = query.where(daily[name] == wanted)
    rows: list[dict[str, Any]] = [dict(row._mapping) for row in conn.execute(query)]
    return [kind(**{name: row[name] if name == column else int(row[name]) for name in row}) for row in rows]


def totals(conn: sa.Connection, org_id: str | None, from_ms: int, to_ms: int | None = None) -> Totals:
    """What was used since a moment, to the millisecond (from the events themselves)."""
    event = tables.usage_event.c
    query = sa.select(sa.func.count().label("requests"), *(_sum_of(event, name) for name in _SUMMED[1:])).where(
        event.at_ms >= from_ms
    )
    if to_ms is not None:
        query = query.where(event.at_ms < to_ms)
    if org_id is not None:
        query = query.where(event.org_id == org_id)
    row = conn.execute(query).one()
    return Totals(**{name: int(row._mapping[name] or 0) for name in _SUMMED})


def recent_events(
    conn: sa.Connection, org_id: str | None, limit: int = 50, before_id: str | None = None
) -> list[UsageEvent]:
    """The newest events first; `before_id` continues after the last one seen. Ids sort by time."""
    event = tables.usage_event.c
    query = sa.select(tables.usage_event).order_by(event.id.desc()).limit(max(1, min(limit, 1000)))
    if org_id is not None:
        query = query.where(event.org_id == org_id)
    if before_id is not None:
        query = query.where(event.id < before_id)
    return [UsageEvent(**row._mapping) for row in conn.execute(query)]


def find_event(conn: sa.Connection, request_id: str, org_id: str | None = None) -> UsageEvent:
    """The event of one request, by its `x-request-id` (or the event's own id). Raises NotFound, also for others'."""
    event = tables.usage_event.c
    query = sa.select(tables.usage_event).where(event.id == event_id_of(request_id))
    if org_id is not None:
        query = query.where(event.org_id == org_id)
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(
            say("event.unknown", "There is no usage event for the request {name!r}.", name=request_id),
            code="event_not_found",
        )
    return UsageEvent(**row._mapping)


def recorded(conn: sa.Connection, event_ids: Sequence[str]) -> set[str]:
    """Which of these events are in the books."""
    column = tables.usage_event.c.id
    return set(conn.execute(sa.select(column).where(column.in_(event_ids))).scalars())


def _days(from_day: str, to_day: str) -> tuple[date, date]:
    try:
        first, last = date.fromisoformat(from_day), date.fromisoformat(to_day)
    except ValueError as error:
        raise BadRequest(say("day.write", "A day is written as 2026-01-31."), param="day") from error
    if first.isoformat() != from_day or last.isoformat() != to_day:
        raise BadRequest(say("day.write", "A day is written as 2026-01-31."), param="day")
    if not 0 <= (last - first).days < _DAYS_MOST:
        raise BadRequest(
            say(
                "day.span",
                "The last day must not be before the first, nor more than {days} days after it.",
                days=_DAYS_MOST,
            ),
            param="day",
        )
    return first, last


def _sum_of(columns: Any, name: str) -> Any:
    """A column summed; a meter that is counted in `units` where the row is of that meter."""
    if name not in COUNTED:
        return sa.func.sum(columns[name]).label(name)
    return sa.func.sum(sa.case((columns.meter == name, columns.units), else_=0)).label(name)


def _most_first(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row.price_picos, -row.requests, msgspec.json.encode(row)))
