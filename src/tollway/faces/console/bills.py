"""Invoices for both sides: the operator drafts, finalises and books payments; a buyer reads and downloads its own."""

import secrets
from typing import Any

from starlette.responses import Response

from tollway.faces.console.confirm import confirmation
from tollway.faces.console.visit import Visit
from tollway.flows import month_end
from tollway.kit.clock import month_bounds_ms, month_of
from tollway.kit.errors import BadRequest, NotFound, TollwayError
from tollway.sell import accounts, billing, catalog

UNITS = {
    "1M tokens": "tokens",
    "1M requests": "requests",
    "1k requests": "thousand",
    "request": "request",
    "month": "month",
    "image": "image",
    "1k images": "thousand_images",
    "1M images": "million_images",
    "row": "row",
    "1k rows": "thousand_rows",
    "1M rows": "million_rows",
    "explanation": "explanation",
    "1k explanations": "thousand_explanations",
    "1M explanations": "million_explanations",
    "audio_second": "audio_second",
    "1k audio_seconds": "thousand_audio_seconds",
    "1M audio_seconds": "million_audio_seconds",
    "character": "character",
    "1k characters": "thousand_characters",
    "1M characters": "million_characters",
}
STATUSES = ("draft", "finalised", "paid", "void")


def invoices(visit: Visit) -> Response:
    """GET /console/invoices?status=…&org=…"""
    return _list(visit)


def draft(visit: Visit) -> Response:
    """POST /console/invoices: (re)compute the drafts of a month for every subscription that ran in it."""
    period = visit.field("period")
    try:
        month_bounds_ms(period)
    except ValueError:
        return _list(visit, BadRequest(visit.t("error.period"), param="period"))
    try:
        drafted = month_end.run(visit.shop, period).drafted
    except TollwayError as error:
        return _list(visit, error)
    waiting = any(one.status == "draft" for one in drafted)
    return visit.go("/invoices", done="drafted" if waiting else "nothing_drafted", status="draft" if waiting else "")


def invoice(visit: Visit) -> Response:
    """GET /console/invoices/{id}"""
    with visit.shop.db.read() as conn:
        found = _own(visit, conn)
        context = _context(conn, found)
    return visit.page(
        "invoice.html", invoice=found, described=lambda line: described(visit, line), units=UNITS, **context
    )


def pdf(visit: Visit) -> Response:
    """GET /console/invoices/{id}/pdf: in the reader's language."""
    with visit.shop.db.read() as conn:
        found = _own(visit, conn)
        org = accounts.get_organization(conn, found.org_id)
    raw = billing.render_pdf(found, org, visit.t("brand"), locale=visit.lang)
    name = (found.number or f"draft-{found.period}-{found.id[-6:]}").replace("/", "-")
    return Response(
        raw, media_type="application/pdf", headers={"content-disposition": f'attachment; filename="{name}.pdf"'}
    )


def finalise(visit: Visit) -> Response:
    """GET asks, POST does: a finalised invoice never changes again."""
    with visit.shop.db.read() as conn:
        found = _own(visit, conn)
        org = accounts.get_organization(conn, found.org_id)
    if visit.request.method == "GET":
        return _ask(visit, "finalise", found, org)
    with visit.shop.db.write() as conn:
        billing.finalise(conn, visit.now_ms, found.id)
    return visit.go(f"/invoices/{found.id}", done="finalised")


def pay(visit: Visit) -> Response:
    """GET asks, POST does: book a payment that arrived outside (bank transfer, cash)."""
    with visit.shop.db.read() as conn:
        found = _own(visit, conn)
        org = accounts.get_organization(conn, found.org_id)
    if visit.request.method == "GET":
        return _ask(visit, "pay", found, org, {"cause": f"payment:{secrets.token_hex(12)}"})
    cause = visit.field("cause")
    if not cause.startswith("payment:") or len(cause) > 60:
        raise BadRequest(visit.t("error.form"))
    with visit.shop.db.write() as conn:
        billing.pay(conn, visit.now_ms, found.id, cause)
    return visit.go(f"/invoices/{found.id}", done="paid")


def void(visit: Visit) -> Response:
    """GET asks, POST does."""
    with visit.shop.db.read() as conn:
        found = _own(visit, conn)
        org = accounts.get_organization(conn, found.org_id)
    if visit.request.method == "GET":
        return _ask(visit, "void", found, org, danger=True)
    with visit.shop.db.write() as conn:
        billing.void(conn, visit.now_ms, found.id)
    return visit.go(f"/invoices/{found.id}", done="voided")


def _ask(
    visit: Visit, act: str, found: Any, org: Any, kept: dict[str, str] | None = None, danger: bool = False
) -> Response:
    money = visit.fmt.money
    facts = [
        (visit.t("organization.one"), org.name),
        (visit.t("invoice.period"), visit.fmt.month(found.period)),
        (visit.t("invoice.total"), money(found.total_micros, found.currency)),
        (visit.t("invoice.due"), money(found.due_micros, found.currency)),
    ]
    return confirmation(
        visit,
        visit.t(f"confirm.{act}.title", name=found.number or visit.t("invoice.draft_name")),
        visit.t(f"confirm.{act}.effect"),
        facts,
        kept or {},
        visit.t(f"confirm.{act}.yes"),
        f"/invoices/{found.id}",
        danger=danger,
    )


def _own(visit: Visit, conn: Any) -> Any:
    """The invoice in the URL if this visit may see it: buyers see their own, once it is no draft any more."""
    found = billing.get_invoice(conn, visit.request.path_params["invoice_id"])
    hidden = visit.org_id is not None and (found.org_id != visit.org_id or found.status == "draft")
    if hidden:
        raise NotFound(visit.t("error.no_invoice"))
    return found


def _context(conn: Any, found: Any) -> dict[str, Any]:
    return {
        "org": accounts.get_organization(conn, found.org_id),
        "version": catalog.plan_versions(conn).get(found.plan_version_id),
    }


def _list(visit: Visit, problem: TollwayError | None = None) -> Response:
    status = visit.query.get("status", "")
    status = status if status in STATUSES else ""
    org_id = visit.org_id if visit.org_id is not None else visit.query.get("org") or None
    with visit.shop.db.read() as conn:
        rows = billing.list_invoices(conn, org_id, status or None)
        names = {} if visit.org_id is not None else {one.id: one.name for one in accounts.list_organizations(conn)}
    if visit.org_id is not None:
        rows = [row for row in rows if row.status != "draft"]
    return visit.page(
        "invoices.html",
        problem.status if problem else 200,
        rows=rows,
        names=names,
        problem=problem,
        status=status,
        statuses=STATUSES if visit.org_id is None else STATUSES[1:],
        selected_org=org_id or "",
        month=month_of(visit.now_ms),
    )


def described(visit: Visit, line: Any) -> str:
    """What a line is for, in the reader's language (stored lines are written in English)."""
    if line.meter is None:
        days = (
            visit.t("invoice.days", days=line.quantity, of=line.period_days) if line.quantity < line.period_days else ""
        )
        return f"{line.plan or line.description} {days}".strip()
    name = visit.t(f"meter.{line.meter}")
    return f"{name} · {line.model}" if line.model else name
