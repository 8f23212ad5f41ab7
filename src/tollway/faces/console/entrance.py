"""The door: sign in, sign out, look and language, the operator's "view as", and changing one's own password."""

import math

import sqlalchemy as sa
from starlette.responses import Response

from tollway.faces.console.visit import BASE, THEMES, Visit
from tollway.kit.errors import BadRequest, Forbidden, NotFound, Unauthorized
from tollway.sell import accounts

_YEAR_S = 365 * 86400
PASSWORD_LENGTH_MIN = 10


def home(visit: Visit) -> Response:
    """GET /console: to the right first page."""
    return visit.go("/overview" if visit.is_operator else "/start")


def login_form(visit: Visit) -> Response:
    """GET /console/login"""
    if visit.session is not None:
        return visit.go("")
    return visit.page("login.html", problem="", email="", next=visit.query.get("next", ""))


def login(visit: Visit) -> Response:
    """POST /console/login: five wrong passwords a minute, then wait. A new session each time; the old one dies."""
    email, password, target = visit.field("email"), _password(visit, "password"), visit.field("next")
    address = visit.request.client.host if visit.request.client else ""
    wait_s = visit.console.brake.wait_s(address, email)
    if wait_s:
        problem = visit.t("login.too_many", seconds=math.ceil(wait_s))
        response = visit.page("login.html", 429, problem=problem, email=email, next=target)
        response.headers["retry-after"] = str(math.ceil(wait_s))
        return response
    shop = visit.shop
    try:
        with shop.db.read() as conn:
            member = accounts.authenticate(conn, email, password)
    except Unauthorized:
        return visit.page("login.html", 401, problem=visit.t("login.wrong"), email=email, next=target)
    visit.console.brake.forgive(address, email)
    hours = int(shop.settings.session_hours)
    with shop.db.write() as conn:
        _close_own_session(visit, conn)
        cookie = accounts.open_session(conn, visit.now_ms, member.id, hours, shop.secrets.pepper)
    response = visit.go(_local(target))
    visit.console.hand_over(response, cookie, hours)
    visit.console.set_cookie(response, "tollway_view_as", "", 0)
    return response


def logout(visit: Visit) -> Response:
    """POST /console/logout"""
    with visit.shop.db.write() as conn:
        _close_own_session(visit, conn)
    response = visit.go("/login")
    visit.console.set_cookie(response, visit.console.session_cookie, "", 0)
    visit.console.set_cookie(response, "tollway_view_as", "", 0)
    return response


def preferences(visit: Visit) -> Response:
    """POST /console/preferences: light, dark, or as the system says."""
    theme = visit.field("theme")
    if theme not in THEMES:
        raise BadRequest(visit.t("error.form"))
    response = visit.go(_local(visit.field("next")))
    visit.console.set_cookie(response, "tollway_theme", theme, _YEAR_S)
    return response


def view_as(visit: Visit) -> Response:
    """POST /console/view-as: an operator looks at the console as one organization does; empty: back to the own view."""
    if visit.member.role != "operator":
        raise Forbidden(visit.t("error.role"))
    org_id = visit.field("org_id")
    if org_id:
        with visit.shop.db.read() as conn:
            org_id = accounts.get_organization(conn, org_id).id
    target = "/start" if org_id else f"/organizations/{visit.acting_for}" if visit.acting_for else "/overview"
    response = visit.go(target)
    visit.console.set_cookie(response, "tollway_view_as", org_id, _YEAR_S)
    return response


def account(visit: Visit) -> Response:
    """GET /console/account"""
    return visit.page("account.html", problem="")


def change_password(visit: Visit) -> Response:
    """POST /console/account: asks for the present password, signs this browser in anew."""
    old, new = _password(visit, "old"), _password(visit, "new")
    shop, member = visit.shop, visit.member
    address = visit.request.client.host if visit.request.client else ""
    if visit.console.brake.wait_s(address, member.email):
        return visit.page("account.html", 429, problem=visit.t("login.too_many", seconds=60))
    if len(new) < PASSWORD_LENGTH_MIN:
        return visit.page("account.html", 400, problem=visit.t("account.too_short", length=PASSWORD_LENGTH_MIN))
    try:
        with shop.db.read() as conn:
            accounts.authenticate(conn, member.email, old)
    except Unauthorized:
        return visit.page("account.html", 400, problem=visit.t("account.wrong_old"))
    visit.console.brake.forgive(address, member.email)
    hours = int(shop.settings.session_hours)
    with shop.db.write() as conn:
        accounts.set_password(conn, member.id, new)
        _close_own_session(visit, conn)
        cookie = accounts.open_session(conn, visit.now_ms, member.id, hours, shop.secrets.pepper)
    response = visit.go("/account", done="password_changed")
    visit.console.hand_over(response, cookie, hours)
    return response


def not_found(visit: Visit) -> Response:
    """Anything else below /console."""
    raise NotFound(visit.t("error.not_found"))


def _password(visit: Visit, name: str) -> str:
    """A password as typed: not trimmed, bounded so that hashing stays cheap."""
    return next((value for key, value in visit.form if key == name), "")[:1000]


def _close_own_session(visit: Visit, conn: sa.Connection) -> None:
    cookie = visit.request.cookies.get(visit.console.session_cookie)
    if cookie:
        accounts.close_session(conn, cookie, visit.shop.secrets.pepper)
        visit.console.recognised.note(cookie, good=False)


def _local(target: str) -> str:
    """A path of ours to go on to, without the base; anything else (another site, `//host`) means home."""
    if target == BASE or not target.startswith(f"{BASE}/") or "\\" in target:
        return ""
    return target.removeprefix(BASE)
