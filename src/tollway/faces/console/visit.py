"""One visit to the console: who is asking, in which language, for which organization; and how it is answered.

Every page is a plain function `page(visit) -> Response`, run in a worker thread (the database is synchronous). What the
page may count on has been checked before it runs: the host, the session, the role, and for unsafe methods origin and CSRF.
The tenant is `visit.org_id`: taken from the session (or from the operator's "view as"), never from the URL.
"""

import inspect
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import jinja2
import sqlalchemy as sa
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from tollway.faces.console import fence, static, telling, words
from tollway.faces.console.formats import Locale
from tollway.kit import log
from tollway.kit.errors import BadRequest, Forbidden, NotFound, TollwayError, TooLarge, Unauthorized
from tollway.sell import accounts, catalog

BASE: Final = "/console"
FORM_BYTES_MAX: Final = 256 * 1024
THEMES: Final = ("system", "light", "dark")
_YEAR_S: Final = 365 * 86400
_log = log.get("console")


@dataclass(frozen=True, slots=True)
class Page:
    """One route of the console. `policy`: public, signed_in (either role), operator, or member (an organization's view)."""

    path: str
    endpoint: Callable[["Visit"], Any]
    methods: tuple[str, ...]
    policy: str


@dataclass(slots=True)
class Visit:
    """A request with its session, language and form; made fresh for each request."""

    request: Request
    console: "Console"
    lang: str
    theme: str
    session: Any = field(default=None, repr=False)  # accounts.Session
    tenant_currency: str = ""
    acting_for: str | None = None  # the organization an operator looks through the eyes of
    form: list[tuple[str, str]] = field(default_factory=list, repr=False)  # may hold a password: never in a log
    body: bytes = field(default=b"", repr=False)

    @property
    def shop(self) -> Any:
        return self.console.shop

    @property
    def now_ms(self) -> int:
        return int(self.shop.clock.now_ms())

    @property
    def fmt(self) -> Locale:
        return Locale(self.lang)

    @property
    def currency(self) -> str:
        """The tenant's, by its plan; the shop's for the operator's own view."""
        return self.tenant_currency or str(self.shop.settings.currency)

    @property
    def member(self) -> Any:
        return self.session.member

    @property
    def is_operator(self) -> bool:
        """Is this the seller's own view (an operator who is not looking through a buyer's eyes)?"""
        return bool(self.session) and self.member.role == "operator" and self.acting_for is None

    @property
    def org_id(self) -> str | None:
        """The tenant: None only for the operator's own view, which spans all organizations."""
        if self.member.role == "operator":
            return self.acting_for
        if not self.member.org_id:
            raise Forbidden(self.t("error.no_organization"))
        return str(self.member.org_id)

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query_params

    @property
    def is_fragment(self) -> bool:
        """Did htmx ask, wanting a part of the page only?"""
        return self.request.headers.get("hx-request") == "true"

    def t(self, name: str, /, **values: object) -> str:
        return words.translate(self.lang, name, **values)

    def named(self, group: str, name: str) -> str:
        """A name of ours (a step, a task) in the visitor's language; one that has no words here is shown as it is."""
        known = words.dictionary(self.lang).get(f"{group}.{name}")
        return known if known is not None else Markup("<code>{}</code>").format(name) if name else ""

    def log_line(self, text: str, coded: Mapping[str, Any] | None = None) -> Markup:
        """A line of a run's log: in the visitor's language if it has words there, else as it was written."""
        told = telling.sentence(self.lang, text, coded)
        return Markup("<code>{}</code>").format(told) if told.startswith("<") else told

    def say(self, text: str, coded: Mapping[str, Any] | None = None) -> Markup:
        """A reason that was said with a code, in the visitor's language."""
        return telling.sentence(self.lang, text, coded)

    def tell(self, error: TollwayError) -> Markup:
        """An error in the visitor's language, with what to do next."""
        return telling.failure(self.lang, error)

    def field(self, name: str, default: str = "") -> str:
        """The last value of a form field, trimmed; control characters other than line breaks are refused."""
        value = next((value for key, value in reversed(self.form) if key == name), default).strip()
        if any(ord(letter) < 32 and letter not in "\r\n\t" for letter in value):
            raise BadRequest(self.t("error.control_characters"), param=name)
        return value

    def fields(self, name: str) -> list[str]:
        return [value.strip() for key, value in self.form if key == name]

    def url(self, path: str, **query: object) -> str:
        """An address inside the console; empty query values are left out."""
        kept = {name: value for name, value in query.items() if value not in (None, "")}
        return BASE + path + (f"?{urlencode(kept)}" if kept else "")

    def here(self, **changes: object) -> str:
        """The present address with some query values changed: the URL holds the whole state."""
        merged = {name: value for name, value in self.query.items() if name not in ("lang", "done")} | changes
        kept = {name: value for name, value in merged.items() if value not in (None, "")}
        return self.request.url.path + (f"?{urlencode(kept)}" if kept else "")

    def page(self, template: str, status: int = 200, /, **context: object) -> Response:
        """The page as HTML."""
        html = self.console.templates.get_template(template).render(
            v=self,
            t=self.t,
            fmt=self.fmt,
            url=self.url,
            asset=static.address,
            languages=words.LANGUAGES,
            html_lang=words.HTML_LANG[self.lang],
            themes=THEMES,
            done=_done(self),
            **context,
        )
        return HTMLResponse(html, status)

    def go(self, path: str, **query: object) -> Response:
        """On to another page, after a form did its work."""
        return RedirectResponse(self.url(path, **query), 303)


class Console:
    """What all visits share: the shop, the templates, the login brake, and the function that answers the playground."""

    def __init__(
        self,
        shop: Any,
        playground: Callable[..., Awaitable[Response]] | None,
        recognised: fence.Recognised | None = None,
    ) -> None:
        self.shop = shop
        self.recognised = recognised or fence.Recognised()
        self.playground = playground
        self.brake = fence.LoginBrake(shop.clock.monotonic)
        self.secure = shop.settings.url.startswith("https://")
        self.session_cookie = session_cookie(shop.settings.url)
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )

    def live(self) -> Mapping[str, Any]:
        """What the gateway knows by heart (see queries.NOTHING_LIVE for the shape); empty when there is none."""
        source = getattr(self.shop, "live", None)
        return source() if callable(source) else {}

    def set_cookie(self, response: Response, name: str, value: str, seconds: int, http_only: bool = True) -> None:
        """A strict cookie; an empty value takes it away."""
        response.set_cookie(
            name,
            value,
            max_age=seconds if value else 0,
            path="/",
            secure=self.secure,
            httponly=http_only,
            samesite="strict",
        )

    def hand_over(self, response: Response, cookie: str, hours: int) -> None:
        """Give a browser its new session."""
        self.recognised.note(cookie, good=True)
        self.set_cookie(response, self.session_cookie, cookie, hours * 3600)

    def serve(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        """The ASGI endpoint of a page: checks first, then the page, then the headers that every answer carries."""

        async def endpoint(request: Request) -> Response:
            visit = self._visit(request)
            response: Response
            try:
                await self._admit(visit, page)
                if inspect.iscoroutinefunction(page.endpoint):
                    response = await page.endpoint(visit)
                else:
                    response = await run_in_threadpool(page.endpoint, visit)
            except TollwayError as error:
                response = self._refuse(visit, error)
            except ClientDisconnect:
                return Response(status_code=499)
            except Exception as error:  # noqa: BLE001 - the last wall: logged with a reference, shown without details
                reference = secrets.token_hex(4)
                _log.exception("page failed", path=request.url.path, reference=reference, error=type(error).__name__)
                response = self._refuse(visit, TollwayError(visit.t("error.internal", reference=reference)))
            for name, value in fence.HEADERS.items():
                response.headers.setdefault(name, value)
            if request.query_params.get("lang") in words.LANGUAGES:
                self.set_cookie(response, "tollway_lang", visit.lang, _YEAR_S)
            return response

        return endpoint

    def _visit(self, request: Request) -> Visit:
        lang = words.choose(
            request.query_params.get("lang"),
            request.cookies.get("tollway_lang"),
            request.headers.get("accept-language", ""),
        )
        theme = request.cookies.get("tollway_theme", "system")
        return Visit(request, self, lang, theme if theme in THEMES else "system")

    async def _admit(self, visit: Visit, page: Page) -> None:
        """All checks that come before a page; raises the error that is shown instead."""
        request, settings = visit.request, self.shop.settings
        hosts = request.headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""  # of two the proxy in front may have looked at the other one
        if not fence.host_allowed(host, settings.url, settings.host, bool(settings.public_url)):
            raise Forbidden(visit.t("error.host"), code="unknown_host")
        unsafe = request.method not in ("GET", "HEAD")
        if unsafe:
            headers = request.headers
            if not fence.origin_allowed(headers.get("origin"), headers.get("sec-fetch-site"), host, settings.url):
                raise Forbidden(visit.t("error.origin"), code="foreign_origin")
            visit.body = await _body(visit)
            if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
                visit.form = _form(visit)
        if page.endpoint is not static.file and request.cookies.get(self.session_cookie):
            await run_in_threadpool(self._recognise, visit)
        if page.policy != "public":
            _require(visit, page.policy)
        if unsafe and visit.session is not None and page.path != f"{BASE}/login":  # a new login may replace any session
            given = (visit.field("csrf") or None, request.headers.get("x-csrf-token"))
            if not fence.token_matches(visit.session.csrf, *given):
                raise Forbidden(visit.t("error.csrf"), code="csrf")

    def _recognise(self, visit: Visit) -> None:
        cookie = visit.request.cookies.get(self.session_cookie)
        if not cookie or len(cookie) > 200:
            return
        with self.shop.db.read() as conn:
            visit.session = accounts.session_of(conn, visit.now_ms, cookie, self.shop.secrets.pepper)
            self.recognised.note(cookie, good=visit.session is not None)
            acting = visit.request.cookies.get("tollway_view_as")
            if visit.session is not None and visit.member.role == "operator" and acting:
                visit.acting_for = _known_organization(conn, acting)
            tenant = visit.acting_for or (visit.member.org_id if visit.session else None)
            if tenant:
                visit.tenant_currency = catalog.currency_of(conn, tenant, "")

    def _refuse(self, visit: Visit, error: TollwayError) -> Response:
        if isinstance(error, Unauthorized) and error.code == "login_needed":
            came_from = visit.request.url.path if visit.request.method == "GET" else ""
            target = visit.url("/login", next=came_from)
            if visit.is_fragment:
                return Response(status_code=401, headers={"hx-redirect": target})
            return RedirectResponse(target, 303)
        if visit.is_fragment:
            return visit.page("parts/failure.html", error.status, error=error)
        kind = error.status if f"error.title.{error.status}" in words.dictionary(visit.lang) else 500
        return visit.page("error.html" if visit.session else "error_outside.html", error.status, error=error, kind=kind)


def session_cookie(shop_url: str) -> str:
    """The name of the cookie that a session lives in."""
    return "__Host-tollway_session" if shop_url.startswith("https://") else "tollway_session"


def _require(visit: Visit, policy: str) -> None:
    """Deny by default: an unknown policy lets nobody in."""
    if visit.session is None:
        raise Unauthorized(visit.t("error.login_needed"), code="login_needed")
    if policy == "signed_in":
        return
    if policy == "operator" and visit.is_operator:
        return
    if policy == "member" and visit.org_id is not None:
        return
    raise Forbidden(visit.t("error.role") if policy == "operator" else visit.t("error.member_only"), code="role")


async def _body(visit: Visit) -> bytes:
    """The whole body, bounded."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in visit.request.stream():
        size += len(chunk)
        if size > FORM_BYTES_MAX:
            raise TooLarge(visit.t("error.form_too_large"))
        chunks.append(chunk)
    return b"".join(chunks)


def _form(visit: Visit) -> list[tuple[str, str]]:
    try:
        return parse_qsl(visit.body.decode("utf-8"), keep_blank_values=True, max_num_fields=500, errors="strict")
    except (UnicodeDecodeError, ValueError) as error:
        raise BadRequest(visit.t("error.form")) from error


def currencies(conn: sa.Connection) -> dict[str, str]:
    """Plan version -> its currency: in which single calls were priced."""
    return {version_id: version.terms.currency for version_id, version in catalog.plan_versions(conn).items()}


def _known_organization(conn: Any, org_id: str) -> str | None:
    try:
        return str(accounts.get_organization(conn, org_id).id)
    except NotFound:
        return None


def _done(visit: Visit) -> str:
    """The message after a form did its work: a name from the dictionary, so that a link cannot make us say anything."""
    name = f"done.{visit.query.get('done', '')}"
    return visit.t(name) if name in words.dictionary(visit.lang) else ""
