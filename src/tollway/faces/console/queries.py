"""The console's own reads: joins across rooms and groupings that no room offers by itself. Each says what it is for.

Rules: an organization's page passes its `org_id` and every statement filters by it; sums come back as plain integers
(PostgreSQL answers sums of BIGINT as NUMERIC).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from tollway.faces.console.ranges import DAY_MS, Range
from tollway.kit.clock import day_of, month_of, to_ms
from tollway.kit.errors import NotFound
from tollway.sell import tables as sell
from tollway.sell import usage
from tollway.sell.metering import event_id_of
from tollway.serve import tables as serve

METERS: Final = ("requests", "input_tokens", "cached_tokens", "output_tokens", "price_picos", "prefill_us", "decode_us")
SAMPLE_MAX: Final = 2000
_GROUPS: Final[Mapping[str, tuple[type[usage.Totals], str]]] = {
    "day": (usage.DayUse, "day"),
    "model": (usage.ModelUse, "model"),
    "key": (usage.KeyUse, "key_id"),
    "org": (usage.OrgUse, "org_id"),
}
# What `shop.live()` may say; all of it optional. `replicas`: [{model, version, state, busy, slots, pid, restarts, rss_bytes}].
NOTHING_LIVE: Final[Mapping[str, Any]] = {
    "in_flight": None,
    "queued": None,
    "errors": None,
    "refused": None,
    "unpriced": (),
    "replicas": (),
}


@dataclass(frozen=True, slots=True)
class Latency:
    """The newest `sample` calls of a span: how many the client aborted, and percentiles in microseconds (None: no calls)."""

    sample: int
    aborted: int
    p50_us: int | None
    p95_us: int | None
    first_p50_us: int | None
    first_p95_us: int | None


@dataclass(frozen=True, slots=True)
class Overview:
    """All figures of the overview page for one range."""

    starts_ms: list[int]
    series: dict[str, list[int]]
    totals: dict[str, int]
    before: dict[str, int]
    latency: Latency
    live: dict[str, Any]


def overview(
    conn: sa.Connection, live: Mapping[str, Any], span: Range, now_ms: int, org_id: str | None = None
) -> Overview:
    """Traffic and revenue per bucket, the totals, the totals of the span before, and how fast answers came."""
    from_ms, to_ms = span.window(now_ms)
    starts = span.starts(now_ms)
    series = {name: [0] * len(starts) for name in METERS}
    rows = _buckets_daily(conn, from_ms, to_ms, org_id) if span.by_day else _buckets(conn, span, from_ms, to_ms, org_id)
    for bucket_ms, row in rows:
        position = (bucket_ms - from_ms) // span.step_ms
        if 0 <= position < len(starts):
            for name in METERS:
                series[name][position] += row[name]
    before = _totals_daily if span.by_day else _totals
    return Overview(
        starts_ms=starts,
        series=series,
        totals={name: sum(values) for name, values in series.items()},
        before=before(conn, from_ms - span.span_ms, from_ms, org_id),
        latency=latency(conn, from_ms, to_ms, org_id),
        live={**NOTHING_LIVE, **live},
    )


def latency(
    conn: sa.Connection, from_ms: int, to_ms: int, org_id: str | None = None, model: str | None = None
) -> Latency:
    """Percentiles of duration and first token over the newest calls of a span."""
    event = sell.usage_event.c
    query = sa.select(event.duration_us, event.first_token_us, event.status).where(
        event.at_ms >= from_ms, event.at_ms < to_ms
    )
    if org_id is not None:
        query = query.where(event.org_id == org_id)
    if model is not None:
        query = query.where(event.model == model)
    rows = conn.execute(query.order_by(event.at_ms.desc()).limit(SAMPLE_MAX)).all()
    durations = sorted(int(row[0]) for row in rows)
    firsts = sorted(int(row[1]) for row in rows if row[1] is not None)
    return Latency(
        sample=len(rows),
        aborted=sum(row[2] == "aborted" for row in rows),
        p50_us=percentile(durations, 50),
        p95_us=percentile(durations, 95),
        first_p50_us=percentile(firsts, 50),
        first_p95_us=percentile(firsts, 95),
    )


def percentile(ordered: Sequence[int], percent: int) -> int | None:
    """The nearest-rank percentile of sorted values."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None


def throughput(conn: sa.Connection, from_ms: int, to_ms: int) -> dict[str, dict[str, int]]:
    """Per model: calls, tokens and engine time of a span, for the models page."""
    event = sell.usage_event.c
    sums = [sa.func.sum(event[name]).label(name) for name in METERS if name != "requests"]
    query = sa.select(event.model, sa.func.count().label("requests"), *sums)
    query = query.where(event.at_ms >= from_ms, event.at_ms < to_ms).group_by(event.model)
    return {row.model: {name: int(getattr(row, name) or 0) for name in METERS} for row in conn.execute(query)}


def events(
    conn: sa.Connection, org_id: str | None, filters: Mapping[str, str], before_id: str | None, limit: int
) -> list[dict[str, Any]]:
    """Single calls, newest first; `filters` may name day, model, key, org (operator only) and request."""
    event = sell.usage_event.c
    query = sa.select(sell.usage_event)
    if org_id is not None:
        query = query.where(event.org_id == org_id)
    elif filters.get("org"):
        query = query.where(event.org_id == filters["org"])
    if filters.get("day"):
        start_ms = day_start_ms(filters["day"])
        query = query.where(event.at_ms >= start_ms, event.at_ms < start_ms + DAY_MS)
    if filters.get("request"):
        query = query.where(event.id == event_id_of(filters["request"]))
    for column, name in ((event.model, "model"), (event.key_id, "key")):
        if filters.get(name):
            query = query.where(column == filters[name])
    if before_id:
        query = query.where(_earlier_than(conn, before_id))
    return [
        dict(row._mapping) for row in conn.execute(query.order_by(event.at_ms.desc(), event.id.desc()).limit(limit))
    ]


def _earlier_than(conn: sa.Connection, event_id: str) -> sa.ColumnElement[bool]:
    """Where the next page of calls begins; along (org_id, at_ms), so that no page sorts a whole history."""
    event = sell.usage_event.c
    at_ms = conn.execute(sa.select(event.at_ms).where(event.id == event_id)).scalar_one_or_none()
    if at_ms is None:
        return sa.true()
    return sa.and_(event.at_ms <= at_ms, sa.or_(event.at_ms < at_ms, event.id < event_id))


def event(conn: sa.Connection, event_id: str, org_id: str | None) -> dict[str, Any] | None:
    """One call by its id, or by the request id its caller saw; another organization's call does not exist."""
    try:
        return msgspec.structs.asdict(usage.find_event(conn, event_id, org_id))
    except NotFound:
        return None


def first_event(conn: sa.Connection, org_id: str) -> dict[str, Any] | None:
    """The newest call of an organization, for the quick start's "waiting for your first request"."""
    rows = events(conn, org_id, {}, None, 1)
    return rows[0] if rows else None


def usage_rows(
    conn: sa.Connection,
    group: str,
    from_day: str,
    to_day: str,
    org_id: str | None,
    model: str | None,
    key_id: str | None,
) -> list[dict[str, Any]]:
    """Use summed by day, model, key or org, with all filters at once, every meter of it; most expensive first (days: newest
    first)."""
    kind, column = _GROUPS[group]
    found = [msgspec.structs.asdict(one) for one in usage.grouped(conn, kind, column, org_id, from_day, to_day, model, key_id)]
    rows = [{"group": row.pop(column), **row} for row in found]
    return sorted(rows, key=lambda row: row["group" if group == "day" else "price_picos"], reverse=True)


def last_used(conn: sa.Connection, org_id: str) -> dict[str, str]:
    """Per key: the last UTC day it was used."""
    table = sell.usage_daily
    query = sa.select(table.c.key_id, sa.func.max(table.c.day)).where(table.c.org_id == org_id).group_by(table.c.key_id)
    return {row[0]: row[1] for row in conn.execute(query)}


def key_names(conn: sa.Connection, org_id: str | None) -> dict[str, str]:
    """Key id -> name, for tables and filters."""
    query = sa.select(sell.api_key.c.id, sell.api_key.c.name)
    if org_id is not None:
        query = query.where(sell.api_key.c.org_id == org_id)
    return {row[0]: row[1] for row in conn.execute(query.order_by(sell.api_key.c.name))}


def models_used(conn: sa.Connection, org_id: str | None) -> list[str]:
    """Names of models that were ever used, for filters."""
    query = sa.select(sell.usage_daily.c.model).distinct()
    if org_id is not None:
        query = query.where(sell.usage_daily.c.org_id == org_id)
    return sorted(conn.execute(query).scalars())


def subscribers(conn: sa.Connection) -> dict[str, int]:
    """Running subscriptions per plan version."""
    table = sell.subscription
    query = sa.select(table.c.plan_version_id, sa.func.count()).where(table.c.ended_ms.is_(None))
    return {row[0]: int(row[1]) for row in conn.execute(query.group_by(table.c.plan_version_id))}


def running_plans(conn: sa.Connection) -> dict[str, str]:
    """Organization -> plan version it is on now."""
    table = sell.subscription
    rows = conn.execute(sa.select(table.c.org_id, table.c.plan_version_id).where(table.c.ended_ms.is_(None)))
    return {row[0]: row[1] for row in rows}


def models(conn: sa.Connection) -> list[dict[str, Any]]:
    """All models ever offered: running ones first, chat before embedding."""
    table = serve.model
    query = sa.select(table).order_by(table.c.retired_ms.is_not(None), table.c.kind, table.c.name)
    return [dict(row._mapping) for row in conn.execute(query)]


def _buckets(
    conn: sa.Connection, span: Range, from_ms: int, to_ms: int, org_id: str | None
) -> list[tuple[int, dict[str, int]]]:
    event = sell.usage_event.c
    bucket = ((event.at_ms - from_ms) // span.step_ms).label("bucket")
    sums = [sa.func.sum(event[name]).label(name) for name in METERS if name != "requests"]
    query = sa.select(bucket, sa.func.count().label("requests"), *sums).where(
        event.at_ms >= from_ms, event.at_ms < to_ms
    )
    if org_id is not None:
        query = query.where(event.org_id == org_id)
    rows = conn.execute(query.group_by(bucket))
    return [
        (from_ms + int(row.bucket) * span.step_ms, {name: int(getattr(row, name) or 0) for name in METERS})
        for row in rows
    ]


def _buckets_daily(
    conn: sa.Connection, from_ms: int, to_ms: int, org_id: str | None
) -> list[tuple[int, dict[str, int]]]:
    rows = usage_rows(conn, "day", day_of(from_ms), day_of(to_ms - 1), org_id, None, None)
    return [(day_start_ms(row["group"]), {name: row[name] for name in METERS}) for row in rows]


def _totals(conn: sa.Connection, from_ms: int, to_ms: int, org_id: str | None) -> dict[str, int]:
    found = usage.totals(conn, org_id, from_ms, to_ms)
    return {name: getattr(found, name) for name in METERS}


def _totals_daily(conn: sa.Connection, from_ms: int, to_ms: int, org_id: str | None) -> dict[str, int]:
    rows = usage_rows(conn, "day", day_of(from_ms), day_of(to_ms - 1), org_id, None, None)
    return {name: sum(row[name] for row in rows) for name in METERS}


def day_start_ms(day: str) -> int:
    return to_ms(datetime.fromisoformat(day).replace(tzinfo=UTC))


def due_drafts(conn: sa.Connection, now_ms: int) -> int:
    """Drafts of months that are over: they wait for being finalised."""
    table = sell.invoice
    query = sa.select(sa.func.count()).where(table.c.status == "draft", table.c.period < month_of(now_ms))
    return int(conn.execute(query).scalar_one())
