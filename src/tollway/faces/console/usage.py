"""Usage for both sides: the operator sees all organizations, a buyer its own; every sum leads to its single calls."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final

from starlette.responses import Response

from tollway.faces.console import charts, queries
from tollway.faces.console.ranges import DAY_MS
from tollway.faces.console.visit import Visit, currencies
from tollway.guard import spreadsheet
from tollway.kit.clock import day_of
from tollway.kit.errors import NotFound
from tollway.sell import accounts, catalog

_DAY = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
PAGE = 50
DAYS_MAX = 400


TOKENS: Final = ("input_tokens", "cached_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address asks to see."""

    group: str
    from_day: str
    to_day: str
    org_id: str | None
    model: str | None
    key: str | None


def usage(visit: Visit) -> Response:
    """GET /console/usage?from=2026-11-01&to=2026-11-22&by=day&model=…&key=…&org=…"""
    asked = _asked(visit)
    with visit.shop.db.read() as conn:
        rows = _rows(conn, asked)
        days = rows if asked.group == "day" else _rows(conn, replace(asked, group="day"))
        names = _names(visit, conn)
        filters = {
            "models": queries.models_used(conn, visit.org_id),
            "keys": queries.key_names(conn, asked.org_id),
            "orgs": names["org"],
        }
    totals = {name: sum(row[name] for row in rows) for name in (*queries.METERS, *catalog.COUNTED)}
    meters = _meters(totals)
    return visit.page(
        "usage.html",
        group=asked.group,
        groups=_groups(visit),
        rows=rows,
        meters=meters,
        totals=totals,
        names=names,
        filters=filters,
        from_day=asked.from_day,
        to_day=asked.to_day,
        charts=_charts(visit, days, asked, meters),
        selected={"org": asked.org_id or "", "model": asked.model or "", "key": asked.key or ""},
    )


def table(visit: Visit) -> Response:
    """GET /console/usage/table.csv: the same rows for a spreadsheet, with every meter that was used."""
    asked = _asked(visit)
    with visit.shop.db.read() as conn:
        rows, names = _rows(conn, asked), _names(visit, conn)
    meters = _meters({name: sum(row[name] for row in rows) for name in (*TOKENS, *catalog.COUNTED)})
    text = io.StringIO()
    spreadsheet.write(text, [[asked.group, "name", "requests", *meters, "price_picos"]])
    spreadsheet.write(
        text,
        (
            [row["group"], names[asked.group].get(row["group"], row["group"]), row["requests"]]
            + [row[name] for name in (*meters, "price_picos")]
            for row in rows
        ),
    )
    name = f"usage-{asked.group}-{asked.from_day}-{asked.to_day}.csv"
    given = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(text.getvalue().encode("utf-8-sig"), media_type="text/csv; charset=utf-8", headers=given)


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


def _asked(visit: Visit) -> Asked:
    group, query = visit.query.get("by", "day"), visit.query
    org_id = visit.org_id if visit.org_id is not None else query.get("org") or None
    chosen = group if group in _groups(visit) else "day"
    return Asked(chosen, *_days(visit), org_id, query.get("model") or None, query.get("key") or None)


def _groups(visit: Visit) -> list[str]:
    return ["day", "model", "key", "org"] if visit.org_id is None else ["day", "model", "key"]


def _rows(conn: Any, asked: Asked) -> list[dict[str, Any]]:
    return queries.usage_rows(conn, asked.group, asked.from_day, asked.to_day, asked.org_id, asked.model, asked.key)


def _meters(totals: Mapping[str, int]) -> list[str]:
    """What was used, besides requests; tokens when nothing was."""
    return [name for name in (*TOKENS, *catalog.COUNTED) if totals[name]] or list(TOKENS)


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


def _charts(visit: Visit, days: list[dict[str, Any]], asked: Asked, meters: list[str]) -> list[charts.Chart]:
    """Tokens, each other meter that was used, and money."""
    starts = list(range(_start_ms(asked.from_day), _start_ms(asked.to_day) + 1, DAY_MS))
    found, none = {row["group"]: row for row in days}, dict.fromkeys((*queries.METERS, *catalog.COUNTED), 0)
    rows = [found.get(day_of(start), none) for start in starts]
    t = visit.t

    def drawn(name: str, title: str, *series: charts.Series) -> charts.Chart:
        return charts.chart(visit, f"usage-{name}", title, starts, True, series)

    made = []
    if not set(TOKENS).isdisjoint(meters):
        read = [row["input_tokens"] + row["cached_tokens"] for row in rows]
        written = charts.Series(t("chart.out"), [row["output_tokens"] for row in rows], "number")
        made.append(drawn("tokens", t("chart.tokens"), written, charts.Series(t("chart.in"), read, "number", "quiet")))
    for name in meters:
        if name in catalog.COUNTED:
            label = t(f"meter.{name}")
            made.append(drawn(name, label, charts.Series(label, [row[name] for row in rows], "number")))
    spent = [row["price_picos"] for row in rows]
    made.append(drawn("money", t("chart.spend"), charts.Series(t("money.price"), spent, "money")))
    return made
