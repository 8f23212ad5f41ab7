"""`/admin`: what the operator does from programs. JSON in and out; the same functions as the command line and console.

Enter with an API key that has the scope "admin" (`tollway key create --scope admin`). Every route is in `doors`.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

import msgspec
import sqlalchemy as sa
from fastapi import Body, Depends, FastAPI, Path, Query
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from tollway.faces.http import admin_versions, once
from tollway.faces.http.policy import Door
from tollway.faces.http.wire import ClientGone, bearer, read_body
from tollway.flows import wallets
from tollway.flows.gateway import Gateway
from tollway.insight import economics
from tollway.kit.clock import month_bounds_ms, month_of
from tollway.kit.ids import new_id
from tollway.sell import accounts, api_keys, billing, catalog, usage
from tollway.sell import once as sell_once
from tollway.serve import models
from tollway.serve.posts import ReplicaView

Id = Annotated[str, Path(min_length=1, max_length=120, pattern=r"^[A-Za-z0-9_.\-]+$")]
Day = Annotated[str, Query(pattern=r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$")]
Month = Annotated[str, Query(pattern=r"^20\d{2}-(0[1-9]|1[0-2])$")]
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*\S[^\x00]*$")]
Count = Annotated[int, Field(ge=1, le=10**12)]


class Problem(BaseModel):
    """An error, in OpenAI's shape."""

    class Detail(BaseModel):
        """What happened and what to do."""

        message: str
        type: str
        param: str | None = None
        code: str

    error: Detail


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewOrganization(_Strict):
    """A buyer."""

    name: Text
    billing_email: Annotated[str, Field(max_length=320, pattern=r"^[^\x00]*$")] = ""


class NewKey(_Strict):
    """An API key to issue; the limits narrow those of the plan."""

    name: Text
    scopes: list[str] = ["inference", "usage"]
    models: list[Text] | None = None
    rpm: Count | None = None
    tpm: Count | None = None
    concurrency: Count | None = None
    expires_ms: Annotated[int, Field(ge=0, le=10**14)] | None = None


class TopUp(_Strict):
    """Money into a wallet. The same `cause` twice moves it once."""

    amount_micros: Annotated[int, Field(ge=1, le=10**15)]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "USD"
    cause: Annotated[str, Field(max_length=80, pattern=r"^[A-Za-z0-9_.:\-]*$")] = ""


class NewSubscription(_Strict):
    """An organization on a plan."""

    plan: Text
    version: Annotated[int, Field(ge=1, le=10**6)] | None = None


class NewPlan(_Strict):
    """A plan, or its next version; `terms` as in catalog.Terms."""

    name: Text
    title: Text
    terms: dict[str, Any]


_STATUSES = (400, 401, 403, 404, 405, 409, 413, 503)
_PROBLEMS: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in _STATUSES}
Function = TypeVar("Function", bound=Callable[..., Response])


_ASKED = "tollway.asked"  # in a scope


async def _asked(request: Request) -> sell_once.Asked | None:
    """The request as one to be done once, if it has a key."""
    asked: sell_once.Asked | None = request.scope[_ASKED]
    return asked


Once = Annotated[sell_once.Asked | None, Depends(_asked)]
"""For routes whose answer is kept: not where it is a secret."""


class Counter:
    """Where the operator's programs are served: adds routes with their doors, runs reads and writes."""

    def __init__(self, app: FastAPI, gateway: Gateway) -> None:
        self._app = app
        self._access = gateway.service.access
        self.fleet = gateway.service.fleet
        self.shop = gateway.shop
        self.doors: list[Door] = []
        self._guarded = self._route_class()

    def route(self, method: str, path: str, summary: str) -> Callable[[Function], Function]:
        """Serve a function by this route, to operators only."""

        def add(function: Function) -> Function:
            self._app.router.add_api_route(
                path,
                function,
                methods=[method],
                summary=summary,
                responses=_PROBLEMS,
                tags=["admin"],
                response_class=Response,
                route_class_override=self._guarded,
            )
            self.doors.append(Door(method, path, "operator", function))
            return function

        return add

    def read(self, work: Callable[[sa.Connection], Any]) -> Response:
        """Answer with what a read transaction finds."""
        with self.shop.db.read() as conn:
            return _json(work(conn))

    def write(self, work: Callable[[sa.Connection], Any], asked: sell_once.Asked | None = None) -> Response:
        """Answer with what a write transaction did; `asked`: once."""
        with self.shop.db.write() as conn:
            if asked is not None and sell_once.answer_of(conn, self.shop.clock.now_ms(), asked) is not None:
                raise sell_once.Repeated
            body = msgspec.json.encode(work(conn))
            once.note_of(self.shop, asked)(conn, body)
        return Response(body, media_type="application/json")

    def _route_class(self) -> type[APIRoute]:
        """Routes that look at the key before they read the body, and read no more of it than /v1 does."""
        access, shop, limit = self._access, self.shop, self.shop.settings.body_bytes_max

        class GuardedRoute(APIRoute):
            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                handle = super().get_route_handler()

                async def guarded(request: Request) -> Response:
                    caller = access.identify(bearer(request.scope))
                    access.require(caller, "admin")
                    try:
                        body = await read_body(request.scope, request.receive, limit)
                    except ClientGone:
                        return Response(status_code=499)

                    async def again() -> dict[str, Any]:
                        return {"type": "http.request", "body": body, "more_body": False}

                    asked = once.asked_of(request.scope, caller, body) if request.method == "POST" else None
                    request.scope[_ASKED] = asked
                    return await once.done(shop, asked, lambda: handle(Request(request.scope, again)), _replayed)

                return guarded

        return GuardedRoute


def mount(app: FastAPI, gateway: Gateway) -> list[Door]:
    """Add the routes; returns their doors."""
    counter = Counter(app, gateway)
    _organizations(counter)
    _money(counter)

    @counter.route("GET", "/admin/models", "Models on offer, and how their replicas are")
    def list_models() -> Response:
        live = [view for view in counter.fleet.snapshot() if view.role == "stable"]
        return counter.read(lambda conn: [_model(one, live) for one in models.list_models(conn)])

    admin_versions.mount(counter)
    return counter.doors


def _organizations(counter: Counter) -> None:
    shop, read, write, route = counter.shop, counter.read, counter.write, counter.route

    @route("GET", "/admin/organizations", "All organizations")
    def list_organizations() -> Response:
        return read(accounts.list_organizations)

    @route("POST", "/admin/organizations", "Add an organization")
    def create_organization(body: NewOrganization, asked: Once) -> Response:
        return write(
            lambda conn: accounts.create_organization(conn, shop.clock.now_ms(), body.name, body.billing_email), asked
        )

    @route("GET", "/admin/organizations/{org_id}", "One organization")
    def get_organization(org_id: Id) -> Response:
        return read(lambda conn: accounts.get_organization(conn, org_id))

    @route("GET", "/admin/organizations/{org_id}/keys", "Its API keys")
    def list_keys(org_id: Id) -> Response:
        return read(lambda conn: api_keys.list_keys(conn, accounts.get_organization(conn, org_id).id))

    @route("POST", "/admin/organizations/{org_id}/keys", "Issue an API key; the secret is shown this once")
    def create_key(org_id: Id, body: NewKey) -> Response:
        def work(conn: sa.Connection) -> api_keys.IssuedKey:
            org = accounts.get_organization(conn, org_id)
            limits = body.model_dump(exclude={"name"})
            return api_keys.issue_key(conn, shop.clock.now_ms(), shop.secrets.pepper, org.id, body.name, **limits)

        return write(work)

    @route("DELETE", "/admin/keys/{key_id}", "Revoke an API key for good")
    def revoke_key(key_id: Id) -> Response:
        write(lambda conn: api_keys.revoke_key(conn, shop.clock.now_ms(), key_id))
        return _json({"id": key_id, "revoked": True})

    @route("POST", "/admin/organizations/{org_id}/subscription", "Put it on a plan (ends the running subscription)")
    def subscribe(org_id: Id, body: NewSubscription, asked: Once) -> Response:
        def work(conn: sa.Connection) -> catalog.Subscription:
            org = accounts.get_organization(conn, org_id)
            return catalog.subscribe(
                conn, shop.clock.now_ms(), org.id, catalog.get_plan(conn, body.plan, body.version).id
            )

        return write(work, asked)


def _money(counter: Counter) -> None:
    shop, read, write, route = counter.shop, counter.read, counter.write, counter.route

    @route("POST", "/admin/organizations/{org_id}/wallet", "Top up its wallet")
    def top_up(org_id: Id, body: TopUp, asked: Once) -> Response:
        def work(conn: sa.Connection) -> dict[str, Any]:
            org = accounts.get_organization(conn, org_id)
            cause = f"admin:{org.id}:{body.cause or new_id('top')}"
            filled = wallets.fill_in(conn, shop, org.id, "top_up", body.amount_micros, cause, body.currency)
            return {"balance_micros": filled.wallet.micros, "currency": filled.wallet.currency}

        return write(work, asked)

    @route("GET", "/admin/plans", "Plans on sale")
    def list_plans() -> Response:
        return read(catalog.list_plans)

    @route("POST", "/admin/plans", "Add a plan")
    def create_plan(body: Annotated[NewPlan, Body()], asked: Once) -> Response:
        terms = catalog.parse_terms(body.terms)
        return write(lambda conn: catalog.create_plan(conn, shop.clock.now_ms(), body.name, body.title, terms), asked)

    @route("GET", "/admin/usage", "Use by day, zeros included")
    def get_usage(
        from_day: Day, to_day: Day, org_id: Annotated[str, Query(max_length=40, pattern=r"^[a-z0-9_]*$")] = ""
    ) -> Response:
        return read(lambda conn: usage.by_day(conn, org_id or None, from_day, to_day))

    @route("GET", "/admin/invoices", "Invoices")
    def list_invoices() -> Response:
        return read(billing.list_invoices)

    @route("GET", "/admin/economics", "Cost, revenue and margin of a month")
    def get_economics(month: Month | None = None) -> Response:
        start, end = month_bounds_ms(month or month_of(shop.clock.now_ms()))
        return read(lambda conn: economics.of_shop(shop, conn, start, end))


def _model(model: models.Model, live: list[ReplicaView]) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(model)
    shown["replicas"] = [msgspec.to_builtins(view) for view in live if view.model == model.name]
    return shown


def _replayed(answered: bytes) -> Response:
    name, value = once.REPLAYED
    return Response(answered, 200, {name.decode(): value.decode()}, "application/json")


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
