"""Usage for both sides: the operator sees all organizations, a buyer its own; every sum leads to its single calls."""

import re
from datetime import date
from typing import Any

from starlette.responses import Response

from tollway.faces.console import charts, queries
from tollway.faces.console.ranges import DAY_MS
from tollway.faces.console.visit import Visit, currencies
from tollway.kit.clock import day_of
from tollway.kit.errors import NotFound
from tollway.sell import accounts, catalog

_DAY = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
PAGE = 50
DAYS_MAX = 400


def usage(visit: Visit) -> Response:
    """GET /console/usage?from=2026-11-01&to=2026-11-22&by=day&model=…&key=…&org=…"""
    from_day, to_day = _days(visit)
    groups = ["day", "model", "key", "org"] if visit.org_id is None else ["day", "model", "key"]
    group = visit.query.get("by", "day")
    group = group if group in groups else "day"
    org_id = visit.org_id if visit.org_id is not None else visit.query.get("org") or None
    model, key = visit.query.get("model") or None, visit.query.get("key") or None
    with visit.shop.db.read() as conn:
        rows = queries.usage_rows(conn, group, from_day, to_day, org_id, model, key)
        days = rows if group == "day" else queries.usage_rows(conn, "day", from_day, to_day, org_id, model, key)
        names = _names(visit, conn)
        filters = {
            "models": queries.models_used(conn, visit.org_id),
            "keys": queries.key_names(conn, org_id),
            "orgs": names["org"],
        }
    totals = {name: sum(row[name] for row in rows) for name in queries.METERS}
    return visit.page(
        "usage.html",
        group=group,
        groups=groups,
        rows=rows,
        totals=totals,
        names=names,
        filters=filters,
        from_day=from_day,
        to_day=to_day,
        charts=_charts(visit, days, from_day, to_day),
        selected={"org": org_id or "", "model": model or "", "key": key or ""},
    )


def events(visit: Visit) -> Response:
    """GET /console/usage/events: single calls, newest first, with the same filters."""
    names = ("day", "model", "key", "org", "request")
    filters = {name: visit.query[name] for name in names if visit.query.get(name)}
    if not _is_day(filters.get("day", "")):
        filters.pop("day", None)
    with visit.shop.db.read() as conn:
        rows = queries.events(conn, visit.org_id, filters, visit.query.get("before"), PAGE + 1)
        found_names, priced_in = _names(visit, conn), currencies(conn)
    more = rows[PAGE - 1]["id"] if len(rows) > PAGE else ""
    return visit.page(
        "events.html", rows=rows[:PAGE], more=more, filters=filters, names=found_names, currencies=priced_in
    )


def event(visit: Visit) -> Response:
    """GET /console/usage/events/{id}: one call with everything that was measured and what it cost."""
    event_id = visit.request.path_params["event_id"]
    with visit.shop.db.read() as conn:
        found = queries.event(conn, event_id, visit.org_id)
        if found is None:
            raise NotFound(visit.t("error.no_event"))
        names = _names(visit, conn)
        version = catalog.plan_versions(conn).get(found["plan_version_id"])
    return visit.page("event.html", event=found, names=names, version=version)


def _days(visit: Visit) -> tuple[str, str]:
    """The span of days in the URL; the last 30 days when it is missing or makes no sense."""
    first, last = visit.query.get("from", ""), visit.query.get("to", "")
    today = day_of(visit.now_ms)
    last = last if _is_day(last) else today
    first = first if _is_day(first) else day_of(_start_ms(last) - 29 * DAY_MS)
    if first > last:
        first, last = last, first
    oldest = day_of(_start_ms(last) - (DAYS_MAX - 1) * DAY_MS)
    return max(first, oldest), last


def _is_day(text: str) -> bool:
    if not _DAY.fullmatch(text):
        return False
    try:
        return 2000 <= date.fromisoformat(text).year <= 2200
    except ValueError:
        return False


def _start_ms(day: str) -> int:
    return queries.day_start_ms(day)


def _names(visit: Visit, conn: Any) -> dict[str, dict[str, str]]:
    """Names for ids: keys of the tenant, and organizations for the operator alone."""
    orgs = {} if visit.org_id is not None else {one.id: one.name for one in accounts.list_organizations(conn)}
    return {"key": queries.key_names(conn, visit.org_id), "org": orgs, "model": {}, "day": {}}


def _charts(visit: Visit, days: list[dict[str, Any]], from_day: str, to_day: str) -> list[charts.Chart]:
    starts = list(range(_start_ms(from_day), _start_ms(to_day) + 1, DAY_MS))
    found = {row["group"]: row for row in days}
    rows = [found.get(day_of(start), dict.fromkeys(queries.METERS, 0)) for start in starts]
    t = visit.t
    return [
        charts.chart(
            visit,
            "usage-tokens",
            t("chart.tokens"),
            starts,
            True,
            [
                charts.Series(t("chart.out"), [row["output_tokens"] for row in rows], "number"),
                charts.Series(
                    t("chart.in"), [row["input_tokens"] + row["cached_tokens"] for row in rows], "number", "quiet"
                ),
            ],
        ),
        charts.chart(
            visit,
            "usage-money",
            t("chart.spend"),
            starts,
            True,
            [charts.Series(t("money.price"), [row["price_picos"] for row in rows], "money")],
        ),
    ]
