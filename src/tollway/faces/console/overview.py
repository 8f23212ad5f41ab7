"""The operator's first page: is the shop working, selling, and earning? Refreshed by itself every few seconds."""

from fractions import Fraction
from typing import Any

from starlette.responses import Response

from tollway.faces.console import charts, queries, ranges
from tollway.faces.console.visit import Visit, currencies
from tollway.flows import wallets
from tollway.insight import hardware
from tollway.sell import accounts, catalog

DAY_MS = 86_400_000


def overview(visit: Visit) -> Response:
    """GET /console/overview?range=24h; for htmx only the part that changes."""
    span = ranges.named(visit.query.get("range"))
    with visit.shop.db.read() as conn:
        found = queries.overview(conn, visit.console.live(), span, visit.now_ms)
        costs = hardware.cost_over(conn, visit.shop.settings, *span.window(visit.now_ms), span.step_ms, visit.now_ms)
        context = {
            "span": span,
            "ranges": list(ranges.RANGES),
            "found": found,
            "cards": _cards(visit, found, costs),
            "charts": charts.of_overview(visit, span, found, _money(visit, found, costs)),
            "attention": _attention(visit, conn),
            "recent": queries.events(conn, None, {}, None, 6),
            "currencies": currencies(conn),
            "org_names": {one.id: one.name for one in accounts.list_organizations(conn)},
        }
    return visit.page("parts/overview.html" if visit.is_fragment else "overview.html", **context)


def _money(visit: Visit, found: queries.Overview, costs: list[int]) -> list[charts.Series]:
    return [
        charts.Series(visit.t("money.revenue"), found.series["price_picos"], "money"),
        charts.Series(visit.t("chart.cost"), costs, "money", "quiet"),
    ]


def _cards(visit: Visit, found: queries.Overview, costs: list[int]) -> list[dict[str, Any]]:
    """The row of figures: label, value, change against the span before, sparkline, and where its rows are."""
    t, fmt, totals, before = visit.t, visit.fmt, found.totals, found.before
    tokens = [
        sum(parts)
        for parts in zip(
            *(found.series[name] for name in ("input_tokens", "cached_tokens", "output_tokens")), strict=True
        )
    ]
    tokens_before = before["input_tokens"] + before["cached_tokens"] + before["output_tokens"]
    revenue, cost = totals["price_picos"], sum(costs)
    margins = [got - paid for got, paid in zip(found.series["price_picos"], costs, strict=True)]
    usage, books = visit.url("/usage"), visit.url("/economics", range=visit.query.get("range"))
    return [
        _card(
            t("meter.requests"),
            fmt.number(totals["requests"]),
            usage,
            found.series["requests"],
            _change(visit, totals["requests"], before["requests"]),
        ),
        _card(
            t("meter.tokens"),
            fmt.compact(sum(tokens)),
            usage,
            tokens,
            _change(visit, sum(tokens), tokens_before),
            fmt.number(sum(tokens)),
        ),
        _card(
            t("money.revenue"),
            fmt.picos(revenue, visit.currency),
            books,
            found.series["price_picos"],
            _change(visit, revenue, before["price_picos"]),
        ),
        _card(t("money.cost"), fmt.picos(cost, visit.currency), books, costs, t("overview.of_machine")),
        _card(
            t("money.margin"),
            fmt.picos(revenue - cost, visit.currency),
            books,
            margins,
            fmt.percent(Fraction(revenue - cost, revenue)) if revenue else "",
            tone="bad" if revenue < cost else "",
        ),
    ]


def _card(
    label: str, value: str, href: str, values: list[int], note: str, title: str = "", tone: str = ""
) -> dict[str, Any]:
    return {
        "label": label,
        "value": value,
        "href": href,
        "spark": charts.sparkline(values),
        "note": note,
        "title": title,
        "tone": tone,
    }


def _change(visit: Visit, now: int, before: int) -> str:
    """`+12.5% vs before`, or nothing to compare with."""
    if not before:
        return visit.t("overview.no_before")
    change = Fraction(now - before, before)
    shown = visit.fmt.percent(change, 0 if abs(change) >= 1 else 1)
    return visit.t("overview.change", change=f"+{shown}" if change > 0 else shown)


def _attention(visit: Visit, conn: Any) -> list[dict[str, str]]:
    """What an operator should look at, each with the page that deals with it."""
    t, found = visit.t, []
    names = {one.id: one.name for one in accounts.list_organizations(conn)}
    plans = queries.running_plans(conn)
    if not names:
        found.append({"text": t("attention.no_organizations"), "href": visit.url("/organizations"), "tone": "note"})
    if not [one for one in queries.models(conn) if one["retired_ms"] is None]:
        found.append({"text": t("attention.no_models"), "href": visit.url("/models"), "tone": "note"})
    for org_id, wallet in wallets.all_filled(conn).items():
        if wallet.micros < 1_000_000 and org_id in names and org_id in plans:
            text = t("attention.low_wallet", name=names[org_id], amount=visit.fmt.money(wallet.micros, wallet.currency))
            found.append({"text": text, "href": visit.url(f"/organizations/{org_id}"), "tone": "warn"})
    for org_id, name in names.items():
        if org_id not in plans:
            found.append(
                {
                    "text": t("attention.no_plan", name=name),
                    "href": visit.url(f"/organizations/{org_id}"),
                    "tone": "note",
                }
            )
    drafts = queries.due_drafts(conn, visit.now_ms)
    if drafts:
        found.append(
            {
                "text": t("attention.drafts", count=drafts),
                "href": visit.url("/invoices", status="draft"),
                "tone": "note",
            }
        )
    found += _unpriced(visit, conn)
    for replica in visit.console.live().get("replicas", ()):
        if replica.get("state") in ("dead", "failed"):
            text = t("attention.replica", model=replica.get("model", ""))
            found.append({"text": text, "href": visit.url("/models"), "tone": "bad"})
    return found


def _unpriced(visit: Visit, conn: Any) -> list[dict[str, str]]:
    """Models that were called today on a plan version without a price for them, while somebody is subscribed to it."""
    subscribed, versions = queries.subscribers(conn), catalog.plan_versions(conn)
    found = []
    for one in visit.console.live().get("unpriced", ()):
        plan = versions.get(one.plan_version_id)
        if plan is None or one.plan_version_id not in subscribed or visit.now_ms - one.at_ms > DAY_MS:
            continue
        newest = max((each.version for each in versions.values() if each.plan_id == plan.plan_id), default=plan.version)
        step = visit.t("attention.unpriced_move") if newest > plan.version else visit.t("attention.unpriced_price")
        text = visit.t(
            "attention.unpriced", model=one.model, plan=plan.title, calls=visit.fmt.number(one.calls), step=step,
            time=visit.fmt.moment(one.at_ms), version=plan.version,
        )  # fmt: skip
        href = visit.url(f"/plans/{plan.plan_name}", version=plan.version)
        found.append({"text": text, "href": href, "tone": "warn"})
    return found
