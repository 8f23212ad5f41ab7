"""Deny by default: every route of the house, entered with every kind of wrong credential, lets nobody in.

The list of routes is the app's own (`build(gateway).doors` and what FastAPI serves), so a new route is tested the day it
is added; each is entered with the right credential too, so that a door that is simply broken does not pass for a guard.
"""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from tollway.faces.http import docs
from tollway.faces.http.app import House, build
from tollway.faces.http.policy import Door
from tollway.flows.gateway import Gateway
from tollway.guard import keys
from tollway.kit.clock import ManualClock
from tollway.kit.settings import Settings
from tollway.sell import accounts, api_keys, billing, catalog
from tollway.shop import Shop

PASSWORD = "a-good-password"
BASE = "http://127.0.0.1:8080"
SESSION_HOURS = 24 * 60
API = ("inference", "usage", "key")


@dataclass
class Tenant:
    """An organization with one of everything."""

    org_id: str
    cookie: str
    csrf: str
    keys: dict[str, str] = field(default_factory=dict)  # kind -> secret
    key_id: str = ""
    invoice_id: str = ""
    event_id: str = ""


@dataclass
class Town:
    """Two tenants, an operator, and credentials that are no longer or never were any good."""

    gateway: Gateway
    house: House
    a: Tenant
    b: Tenant
    operator: Tenant
    dead_cookies: dict[str, str]

    def client(self) -> httpx.AsyncClient:
        """A client without any credential."""
        transport = httpx.ASGITransport(self.house, raise_app_exceptions=False, client=("127.0.0.1", 5000))
        return httpx.AsyncClient(transport=transport, base_url=BASE)


@pytest.fixture
async def town(tmp_path: Path, clock: ManualClock, record_use: Callable[..., str]) -> AsyncIterator[Town]:
    """A gateway without models, open in this process."""
    shop = Shop.open(Settings(tmp_path, environment={"TOLLWAY_KEYLESS_RPS": "0"}), clock)
    a, b = (_tenant(shop, name, record_use) for name in ("ada", "bob"))
    operator = _signed_in(shop, "operator@x.test", "operator", None)
    dead = {"nonsense": "nonsense", "very long": "x" * 5000}
    with shop.db.write() as conn:
        now, pepper = clock.now_ms(), shop.secrets.pepper
        member = accounts.create_member(conn, now, "late@x.test", PASSWORD, "operator")
        dead["expired"] = accounts.open_session(conn, now, member.id, 1, pepper)
        dead["closed"] = accounts.open_session(conn, now, member.id, SESSION_HOURS, pepper)
        accounts.close_session(conn, dead["closed"], pepper)
        issued = api_keys.issue_key(conn, now, pepper, a.org_id, "expires", scopes=api_keys.SCOPES, expires_ms=now + 1)
        a.keys["expired"] = issued.secret
    clock.advance(days=40)
    with shop.db.write() as conn:
        for tenant in (a, b):
            billing.finalise(conn, clock.now_ms(), tenant.invoice_id)
    gateway = Gateway(shop)
    await gateway.open()
    yield Town(gateway, build(gateway), a, b, operator, dead)
    await gateway.close()


def test_every_route_that_is_served_has_a_door(town: Town) -> None:
    doors = {(door.method, door.path) for door in town.house.doors}
    served = {
        (method, route.path)
        for route in town.house._app.routes
        for method in (route.methods or ()) - {"HEAD", "OPTIONS"}
    }
    assert served <= doors and len(served) > 40
    assert {path for _, path in doors - served} == {path for _, path in doors if path.startswith("/v1/")}


def test_a_route_without_a_door_is_refused_before_the_house_opens(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    real = docs.mount

    def planted(app: Any, doors: list[Door]) -> list[Door]:
        app.add_route("/backdoor", lambda _: PlainTextResponse("come in"), methods=["GET"])
        return real(app, doors)

    monkeypatch.setattr(docs, "mount", planted)
    with pytest.raises(RuntimeError, match="GET /backdoor has no policy"):
        build(town.gateway)
    with pytest.raises(ValueError, match="no valid policy"):
        Door("GET", "/x", "anyone", planted)  # type: ignore[arg-type]


async def test_wrong_keys_open_no_api_door(town: Town) -> None:
    tried = 0
    async with town.client() as client:
        for door in town.house.doors:
            if door.policy not in API and not door.path.startswith("/admin"):
                continue
            for kind, headers, expected in wrong_keys(town, door):
                answer = await _enter(client, door, town.a, headers)
                told = f"{kind}: {door.method} {door.path} -> {answer.status_code} {answer.text[:200]}"
                assert answer.status_code == expected, told
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}, told
                assert answer.status_code != 401 or answer.headers["www-authenticate"] == "Bearer", told
                tried += 1
    assert tried > 200


async def test_the_right_key_opens_each_api_door(town: Town) -> None:
    async with town.client() as client:
        for door in sorted(town.house.doors, key=lambda door: door.method == "DELETE"):  # one of them revokes the key
            if door.policy in API or door.path.startswith("/admin"):
                key = {"key": "usage", "operator": "admin"}.get(door.policy, door.policy)
                answer = await _enter(client, door, town.a, _bearer(town.a.keys[key]))
                assert answer.status_code not in (401, 403) and answer.status_code < 500, (
                    f"{door.path}: {answer.text[:200]}"
                )


async def test_wrong_sessions_open_no_console_page(town: Town) -> None:
    tried = 0
    async with town.client() as client:
        for door in _console_doors(town):
            for kind, headers in wrong_sessions(town):
                answer = await _enter(client, door, town.a, headers)
                told = f"{kind}: {door.method} {door.path} -> {answer.status_code}"
                assert answer.status_code == 303 and answer.headers["location"].startswith("/console/login"), told
                tried += 1
    assert tried > 200


async def test_members_see_no_operator_page_and_operators_no_buyers_page(town: Town) -> None:
    async with town.client() as client:
        for door in _console_doors(town):
            for who, tenant, barred in (("member", town.b, "operator"), ("operator", town.operator, "member")):
                if who == "member" and door.path == "/console/view-as":
                    continue  # for either role by its door, for operators by its own word: tested below
                headers = _session(tenant)
                answer = await _enter(client, door, town.a, headers)
                told = f"{who}: {door.method} {door.path} -> {answer.status_code}"
                if door.policy == barred:
                    assert answer.status_code == 403, told
                else:
                    assert answer.status_code != 403 and answer.status_code < 500, told


async def test_a_member_reaches_nothing_of_another_organization(town: Town) -> None:
    """Same pages, the other tenant's ids: as if they did not exist; and its own things are not mixed with theirs."""
    reached = 0
    async with town.client() as client:
        for door in _console_doors(town):
            if not re.search(r"\{(invoice|event|key)_id\}", door.path) or door.policy == "operator":
                continue
            own = await _enter(client, door, town.a, _session(town.a))
            other = await _enter(client, door, town.b, _session(town.a))
            assert own.status_code in (200, 303), f"{door.path}: {own.status_code}"
            assert other.status_code == 404, f"{door.method} {door.path} -> {other.status_code}"
            reached += 1
        assert reached >= 5
        for path in ("/console/usage/events", "/console/invoices", "/console/keys"):
            shown = (await client.get(path, headers=_session(town.a))).text
            for foreign in (town.b.event_id, town.b.invoice_id, town.b.key_id):
                assert foreign not in shown, path


async def test_a_member_cannot_look_through_another_organizations_eyes(town: Town) -> None:
    headers = _session(town.a)
    headers["cookie"] += f"; tollway_view_as={town.b.org_id}"
    async with town.client() as client:
        assert town.b.key_id not in (await client.get("/console/keys", headers=headers)).text
        chosen = await client.post(
            "/console/view-as", headers=headers, data={"csrf": town.a.csrf, "org_id": town.b.org_id}
        )
        assert chosen.status_code == 403


async def test_unsafe_console_requests_need_the_sessions_token_and_our_own_origin(town: Town) -> None:
    async with town.client() as client:
        for door in _console_doors(town):
            if door.method != "POST":
                continue
            tenant = town.operator if door.policy == "operator" else town.a
            for kind, change in (
                ("no token", {"x-csrf-token": ""}),
                ("another's token", {"x-csrf-token": town.b.csrf}),
                ("a foreign page", {"origin": "https://evil.example"}),
                ("a page without origin", {"origin": "null"}),
                ("another site", {"sec-fetch-site": "cross-site"}),
                ("a foreign host", {"host": "evil.example"}),
            ):
                answer = await _enter(client, door, tenant, _session(tenant) | change)
                assert answer.status_code == 403, f"{kind}: {door.path} -> {answer.status_code}"


async def test_a_console_session_is_no_api_key_and_a_key_no_session(town: Town) -> None:
    async with town.client() as client:
        for path in ("/v1/models", "/v1/usage", "/admin/organizations"):
            assert (await client.get(path, headers=_session(town.operator))).status_code == 401, path
        for path in ("/console/overview", "/console/keys"):
            answer = await client.get(path, headers=_bearer(town.a.keys["admin"]))
            assert answer.status_code == 303 and "/console/login" in answer.headers["location"]


async def test_a_suspended_organizations_keys_are_refused_with_a_reason(town: Town) -> None:
    shop = town.gateway.shop
    with shop.db.write() as conn:
        accounts.suspend(conn, shop.clock.now_ms(), town.a.org_id)
    await town.gateway.refresh()
    async with town.client() as client:
        answer = await client.get("/v1/models", headers=_bearer(town.a.keys["inference"]))
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "organization_suspended"
        assert (await client.get("/v1/models", headers=_bearer(town.b.keys["inference"]))).status_code == 200


async def test_public_doors_show_nothing_of_anybody(town: Town) -> None:
    async with town.client() as client:
        for door in town.house.doors:
            if door.policy == "public" and door.method == "GET":
                answer = await _enter(client, door, town.a, {})
                assert answer.status_code < 500, door.path
                assert town.a.org_id not in answer.text and town.a.keys["inference"] not in answer.text, door.path


# -- what is wrong ---------------------------------------------------------------------------------------------------------


def wrong_keys(town: Town, door: Door) -> Iterator[tuple[str, dict[str, str], int]]:
    """(what is wrong, headers, the status it must give) for a door that wants an API key."""
    good = town.a.keys["admin"]
    flipped = good[:-1] + ("A" if good[-1] != "A" else "B")
    yield "no header", {}, 401
    yield "empty", {"authorization": ""}, 401
    yield "no key after Bearer", {"authorization": "Bearer "}, 401
    yield "another scheme", {"authorization": f"Basic {good}"}, 401
    yield "no scheme", {"authorization": good}, 401
    yield "malformed", _bearer("sk-proj-0123456789"), 401
    yield "not ASCII", {"authorization": "Bearer tw_live_\xff\xfe"}, 401
    yield "very long", _bearer("tw_live_" + "A" * 10_000), 401
    yield "SQL", _bearer("' OR 1=1 --"), 401
    yield "wrong checksum", _bearer(flipped), 401
    yield "cut short", _bearer(good[:-1]), 401
    yield "one character more", _bearer(good + "A"), 401
    yield "unknown", _bearer(keys.new_key()), 401
    yield "its hint", _bearer(keys.hint(good).replace("…", "...")), 401
    yield "revoked", _bearer(town.a.keys["revoked"]), 401
    yield "expired", _bearer(town.a.keys["expired"]), 401
    yield "in the query", {"x-unused": "1"}, 401
    scopes = {"inference", "usage", "admin"} - {{"operator": "admin"}.get(door.policy, door.policy)}
    for scope in sorted(scopes) if door.policy != "key" else ():
        yield f"only the scope {scope}", _bearer(town.a.keys[scope]), 403


def wrong_sessions(town: Town) -> Iterator[tuple[str, dict[str, str]]]:
    """(what is wrong, headers) for a console page."""
    yield "no cookie", {}
    yield "empty cookie", {"cookie": "tollway_session="}
    for kind, cookie in town.dead_cookies.items():
        yield kind, {"cookie": f"tollway_session={cookie}"}
    yield "cut short", {"cookie": f"tollway_session={town.operator.cookie[:-1]}"}
    yield "another cookie's name", {"cookie": f"session={town.operator.cookie}"}
    yield "only the view", {"cookie": f"tollway_view_as={town.a.org_id}"}


# -- parts -----------------------------------------------------------------------------------------------------------------


def _tenant(shop: Shop, name: str, record_use: Callable[..., str]) -> Tenant:
    made = _signed_in(shop, f"{name}@x.test", "owner", name)
    now, pepper = shop.clock.now_ms(), shop.secrets.pepper
    with shop.db.write() as conn:
        plan = catalog.create_plan(conn, now, f"plan-{name}", name, catalog.Terms(overage="invoice"))
        subscription = catalog.subscribe(conn, now, made.org_id, plan.id)
        for scope in api_keys.SCOPES:
            issued = api_keys.issue_key(conn, now, pepper, made.org_id, scope, scopes=(scope,))
            made.keys[scope], made.key_id = issued.secret, issued.id
        revoked = api_keys.issue_key(conn, now, pepper, made.org_id, "gone", scopes=api_keys.SCOPES)
        api_keys.revoke_key(conn, now, revoked.id)
        made.keys["revoked"] = revoked.secret
        made.event_id = record_use(conn, subscription, input_tokens=5, at_ms=now)
        made.invoice_id = billing.draft(conn, now, subscription.id, "2026-01").id
    return made


def _signed_in(shop: Shop, email: str, role: str, organization: str | None) -> Tenant:
    now, pepper = shop.clock.now_ms(), shop.secrets.pepper
    with shop.db.write() as conn:
        org_id = accounts.create_organization(conn, now, organization).id if organization else None
        member = accounts.create_member(conn, now, email, PASSWORD, role, org_id)
        cookie = accounts.open_session(conn, now, member.id, SESSION_HOURS, pepper)
        session = accounts.session_of(conn, now, cookie, pepper)
    assert session is not None
    return Tenant(org_id or "", cookie, session.csrf)


async def _enter(client: httpx.AsyncClient, door: Door, owner: Tenant, headers: dict[str, str]) -> httpx.Response:
    """Ask for a door with `owner`'s ids in its path."""
    ids = {"org_id": owner.org_id, "key_id": owner.key_id, "invoice_id": owner.invoice_id, "event_id": owner.event_id}
    path = re.sub(r"\{(\w+)(:path)?\}", lambda match: ids.get(match[1]) or "some-name", door.path)
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    body = {"content": b"{}"} if door.method == "POST" and not door.path.startswith("/console") else {}
    client.cookies.clear()
    return await client.request(door.method, path, headers=raw, **body)


def _console_doors(town: Town) -> list[Door]:
    """Every console page that wants a session; signing out comes last and gets its own test."""
    return [
        door
        for door in town.house.doors
        if door.path.startswith("/console") and door.policy != "public" and door.path != "/console/logout"
    ]


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def _session(tenant: Tenant) -> dict[str, str]:
    return {"cookie": f"tollway_session={tenant.cookie}", "x-csrf-token": tenant.csrf}
