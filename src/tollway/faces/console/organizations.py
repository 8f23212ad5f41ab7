"""The operator's view of the buyers: list, one buyer with everything about it, and the acts on it."""

import secrets
from typing import Any

from starlette.responses import Response

from tollway.faces.console import charts, queries, ranges
from tollway.faces.console.confirm import confirmation, money_field
from tollway.faces.console.visit import Visit
from tollway.flows import wallets
from tollway.guard import passwords
from tollway.kit.clock import day_of
from tollway.kit.errors import BadRequest, Conflict, TollwayError
from tollway.sell import accounts, api_keys, catalog

_MONTH = ranges.RANGES["30d"]
ROLES = ("owner", "member")


def organizations(visit: Visit) -> Response:
    """GET /console/organizations"""
    return _list(visit)


def create(visit: Visit) -> Response:
    """POST /console/organizations"""
    try:
        with visit.shop.db.write() as conn:
            made = accounts.create_organization(conn, visit.now_ms, visit.field("name"), visit.field("billing_email"))
    except (BadRequest, Conflict) as error:
        return _list(visit, error)
    return visit.go(f"/organizations/{made.id}", done="organization_created")


def organization(visit: Visit) -> Response:
    """GET /console/organizations/{id}"""
    return _detail(visit)


def subscribe(visit: Visit) -> Response:
    """POST /console/organizations/{id}/subscription: put it on a plan version, or (empty) end the running one."""
    version_id = visit.field("plan_version_id")
    try:
        with visit.shop.db.write() as conn:
            org = accounts.get_organization(conn, _org_id(visit))
            if version_id:
                catalog.subscribe(conn, visit.now_ms, org.id, version_id)
            else:
                catalog.cancel(conn, visit.now_ms, org.id)
    except (BadRequest, Conflict) as error:
        return _detail(visit, error)
    return visit.go(f"/organizations/{org.id}", done="subscribed" if version_id else "cancelled")


def add_money(visit: Visit) -> Response:
    """POST /console/organizations/{id}/money: shows the balance before and after; with `confirmed`, books it.

    The cause is drawn when the question is asked, so that sending the answer twice moves money once.
    """
    if visit.field("kind") not in ("top_up", "grant"):
        raise BadRequest(visit.t("error.form"))
    kind: wallets.Kind = "grant" if visit.field("kind") == "grant" else "top_up"
    with visit.shop.db.read() as conn:
        org = accounts.get_organization(conn, _org_id(visit))
        wallet = wallets.wallet_of(conn, org.id, visit.currency)
    currency, balance = wallet.currency, wallet.micros
    try:
        micros = money_field(visit, "amount", currency)
    except BadRequest as error:
        return _detail(visit, error)
    if visit.field("confirmed") != "yes":
        money = visit.fmt.money
        facts = [
            (visit.t("organization.one"), org.name),
            (visit.t(f"wallet.kind.{kind}"), money(micros, currency)),
            (visit.t("wallet.before"), money(balance, currency)),
            (visit.t("wallet.after"), money(balance + micros, currency)),
        ]
        kept = {"kind": kind, "amount": visit.field("amount"), "cause": f"{kind}:{secrets.token_hex(12)}"}
        return confirmation(
            visit,
            visit.t(f"confirm.{kind}.title", name=org.name),
            visit.t(f"confirm.{kind}.effect"),
            facts,
            kept,
            visit.t(f"confirm.{kind}.yes"),
            f"/organizations/{org.id}",
        )
    cause = visit.field("cause")
    if not cause.startswith(f"{kind}:") or len(cause) > 60:
        raise BadRequest(visit.t("error.form"))
    wallets.fill(visit.shop, org.id, kind, micros, cause, currency)
    return visit.go(f"/organizations/{org.id}", done=f"{kind}_booked")


def suspend(visit: Visit) -> Response:
    """GET asks, POST does: /console/organizations/{id}/suspend"""
    with visit.shop.db.read() as conn:
        org = accounts.get_organization(conn, _org_id(visit))
        keys = [key for key in api_keys.list_keys(conn, org.id) if key.revoked_ms is None]
    if visit.request.method == "GET":
        facts = [(visit.t("organization.one"), org.name), (visit.t("key.many"), visit.fmt.number(len(keys)))]
        return confirmation(
            visit,
            visit.t("confirm.suspend.title", name=org.name),
            visit.t("confirm.suspend.effect"),
            facts,
            {},
            visit.t("confirm.suspend.yes"),
            f"/organizations/{org.id}",
            danger=True,
        )
    with visit.shop.db.write() as conn:
        accounts.suspend(conn, visit.now_ms, org.id)
    return visit.go(f"/organizations/{org.id}", done="suspended")


def resume(visit: Visit) -> Response:
    """POST /console/organizations/{id}/resume"""
    with visit.shop.db.write() as conn:
        org = accounts.get_organization(conn, _org_id(visit))
        accounts.resume(conn, org.id)
    return visit.go(f"/organizations/{org.id}", done="resumed")


def add_member(visit: Visit) -> Response:
    """POST /console/organizations/{id}/members: makes a login and shows its first password once."""
    role = visit.field("role")
    if role not in ROLES:
        raise BadRequest(visit.t("error.form"))
    password = passwords.new_password()
    try:
        with visit.shop.db.write() as conn:
            org = accounts.get_organization(conn, _org_id(visit))
            member = accounts.create_member(conn, visit.now_ms, visit.field("email"), password, role, org.id)
    except (BadRequest, Conflict) as error:
        return _detail(visit, error)
    return _detail(visit, issued={"email": member.email, "password": password})


def _org_id(visit: Visit) -> str:
    return str(visit.request.path_params["org_id"])


def _list(visit: Visit, problem: TollwayError | None = None) -> Response:
    from_day, to_day = _MONTH.days(visit.now_ms)
    with visit.shop.db.read() as conn:
        used = {row["group"]: row for row in queries.usage_rows(conn, "org", from_day, to_day, None, None, None)}
        filled, running, versions = wallets.all_filled(conn), queries.running_plans(conn), catalog.plan_versions(conn)
        rows = [
            {
                "org": org,
                "plan": versions.get(running.get(org.id, "")),
                "wallet": filled.get(org.id),
                "used": used.get(org.id),
            }
            for org in accounts.list_organizations(conn)
        ]
    return visit.page("organizations.html", error_status(problem), rows=rows, problem=problem)


def _detail(visit: Visit, problem: TollwayError | None = None, issued: dict[str, str] | None = None) -> Response:
    from_day, to_day = _MONTH.days(visit.now_ms)
    with visit.shop.db.read() as conn:
        org = accounts.get_organization(conn, _org_id(visit))
        versions = catalog.plan_versions(conn)
        subscription = catalog.running_subscription(conn, org.id)
        found = queries.overview(conn, {}, _MONTH, visit.now_ms, org.id)
        wallet = wallets.wallet_of(conn, org.id, visit.currency)
        context: dict[str, Any] = {
            "org": org,
            "currency": wallet.currency,
            "members": accounts.list_members(conn, org.id),
            "keys": api_keys.list_keys(conn, org.id),
            "last_used": queries.last_used(conn, org.id),
            "subscription": subscription,
            "version": versions.get(subscription.plan_version_id) if subscription else None,
            "plans": catalog.list_plans(conn),
            "balance": wallet.micros,
            "movements": wallets.movements(conn, org.id, 8),
            "found": found,
            "by_model": queries.usage_rows(conn, "model", from_day, to_day, org.id, None, None),
            "margin": margin_of(visit, conn, org.id),
            "chart": charts.chart(
                visit,
                "org-usage",
                visit.t("chart.revenue"),
                found.starts_ms,
                True,
                [charts.Series(visit.t("money.revenue"), found.series["price_picos"], "money")],
            ),
        }
    return visit.page(
        "organization.html",
        error_status(problem),
        problem=problem,
        issued=issued,
        roles=ROLES,
        today=day_of(visit.now_ms),
        **context,
    )


def margin_of(visit: Visit, conn: Any, org_id: str) -> Any:
    """The organization's row in the books of the last 30 days, or None."""
    from tollway.faces.console.books import books

    report = books(visit, conn, _MONTH)
    return next((row for row in report.organizations if row.org_id == org_id), None)


def error_status(problem: TollwayError | None) -> int:
    """The status of a page that shows its form again."""
    return problem.status if problem else 200
