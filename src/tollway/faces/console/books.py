"""Economics for the operator: what each model and buyer cost and earned; idle on its own line; everything adds up."""

from typing import Any

from starlette.responses import Response

from tollway.faces.console import ranges
from tollway.faces.console.ranges import HOUR_MS, Range
from tollway.faces.console.visit import Visit
from tollway.insight import economics

DEFAULT = ranges.RANGES["30d"]


def economics_page(visit: Visit) -> Response:
    """GET /console/economics?range=30d"""
    span = ranges.named(visit.query.get("range"), DEFAULT)
    price = economics.machine_price(visit.shop.settings)
    with visit.shop.db.read() as conn:
        report = books(visit, conn, span)
    return visit.page(
        "economics.html", span=span, ranges=list(ranges.RANGES), report=report, price=price, bars=_bars(report)
    )


def books(visit: Visit, conn: Any, span: Range) -> Any:
    """The report over whole hours up to now (cost records are hourly)."""
    from_ms, to_ms = span.window(visit.now_ms)
    return economics.of_shop(visit.shop, conn, from_ms - from_ms % HOUR_MS, -(-to_ms // HOUR_MS) * HOUR_MS)


def _bars(report: Any) -> list[dict[str, Any]]:
    """Where the hardware money went, as shares of 1000 for the stacked bar: models, failed calls, copies, idle."""
    total = report.hardware_micros or 1
    parts = [(row.model, "model", row.cost_micros - row.bought_micros) for row in report.rows]
    parts += [("", kind, getattr(report, kind).cost_micros) for kind in ("failed", "shadow", "idle")]
    bars, at = [], 0
    for name, kind, micros in parts:
        width = micros * 1000 // total
        if micros:
            bars.append({"name": name, "kind": kind, "micros": micros, "x": at, "width": max(width, 2)})
        at += width
    return bars
