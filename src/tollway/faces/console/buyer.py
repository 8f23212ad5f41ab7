"""A buyer's own pages: quick start, API keys, and plan with wallet. Every read and act is bound to the session's tenant."""

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.responses import Response

from tollway.faces.console import queries, ranges, snippets
from tollway.faces.console.confirm import confirmation
from tollway.faces.console.visit import Visit
from tollway.flows import sample_calls, wallets
from tollway.kit.clock import day_of, month_of, to_ms
from tollway.kit.errors import BadRequest, NotFound
from tollway.sell import accounts, api_keys, catalog
from tollway.serve import models as offers

SCOPES = ("inference", "usage")
LIMITS = ("rpm", "tpm", "concurrency")
EXPIRIES = (30, 90, 365)


def start(visit: Visit) -> Response:
    """GET /console/start"""
    return _start(visit)


def start_with_key(visit: Visit) -> Response:
    """POST /console/start: a key with the plan's own limits, filled into the code at once and shown this once."""
    with visit.shop.db.write() as conn:
        issued = api_keys.issue_key(
            conn,
            visit.now_ms,
            visit.shop.secrets.pepper,
            str(visit.org_id),
            visit.t("start.key_name", day=day_of(visit.now_ms)),
        )
    return _start(visit, issued)


def first_call(visit: Visit) -> Response:
    """GET /console/start/first: polled until the first request has arrived."""
    with visit.shop.db.read() as conn:
        found = queries.first_event(conn, str(visit.org_id))
    return visit.page("parts/first_call.html", first=found)


def keys(visit: Visit) -> Response:
    """GET /console/keys"""
    return _keys(visit)


def create_key(visit: Visit) -> Response:
    """POST /console/keys: shows the secret once, in the answer itself; it is stored nowhere in the clear."""
    try:
        wish = _key_wish(visit)
        with visit.shop.db.write() as conn:
            issued = api_keys.issue_key(conn, visit.now_ms, visit.shop.secrets.pepper, str(visit.org_id), **wish)
    except BadRequest as error:
        return _keys(visit, problem=error)
    return _keys(visit, issued=issued)


def revoke_key(visit: Visit) -> Response:
    """GET asks, POST does: /console/keys/{id}/revoke"""
    key_id, org_id = visit.request.path_params["key_id"], str(visit.org_id)
    with visit.shop.db.read() as conn:
        found = next((one for one in api_keys.list_keys(conn, org_id) if one.id == key_id), None)
        if found is None:
            raise NotFound(visit.t("error.no_key"))
        first, last = ranges.RANGES["7d"].days(visit.now_ms)
        used = queries.usage_rows(conn, "key", first, last, org_id, None, key_id)
    if visit.request.method == "GET":
        calls = used[0]["requests"] if used else 0
        facts = [
            (visit.t("key.name"), found.name),
            (visit.t("key.hint"), found.hint),
            (visit.t("key.calls_7d"), visit.fmt.number(calls)),
        ]
        return confirmation(
            visit,
            visit.t("confirm.revoke.title", name=found.name),
            visit.t("confirm.revoke.effect"),
            facts,
            {},
            visit.t("confirm.revoke.yes"),
            "/keys",
            danger=True,
        )
    with visit.shop.db.write() as conn:
        api_keys.revoke_key(conn, visit.now_ms, key_id, org_id)
    return visit.go("/keys", done="key_revoked")


def plan(visit: Visit) -> Response:
    """GET /console/plan: what we are on, what of it is used this month, the wallet and its movements."""
    org_id = str(visit.org_id)
    month = month_of(visit.now_ms)
    with visit.shop.db.read() as conn:
        org = accounts.get_organization(conn, org_id)
        subscription = catalog.running_subscription(conn, org_id)
        version = catalog.plan_versions(conn).get(subscription.plan_version_id) if subscription else None
        wallet = wallets.wallet_of(conn, org_id, visit.currency)
        rows = queries.usage_rows(conn, "model", f"{month}-01", f"{month}-31", org_id, None, None)
        context = {
            "org": org,
            "subscription": subscription,
            "version": version,
            "currency": wallet.currency,
            "balance": wallet.micros,
            "movements": wallets.movements(conn, org_id, 30),
            "month": month,
            "spent_picos": sum(row["price_picos"] for row in rows),
            "allowances": _allowances(version, rows) if version else [],
            "tokens": sum(row["input_tokens"] + row["cached_tokens"] + row["output_tokens"] for row in rows),
        }
    return visit.page("my_plan.html", **context)


def offered(conn: Any, org_id: str) -> list[dict[str, Any]]:
    """Models on offer to an organization: running ones that its plan allows, chat models first."""
    plan = catalog.running_plan(conn, org_id)
    if plan is None:
        return []
    allowed = plan.terms.models
    found = [
        one
        for one in queries.models(conn)
        if one["retired_ms"] is None
        and one["org_id"] in ("", org_id)
        and ("*" in allowed or one["name"] in allowed or (one["base"] and one["base"] in allowed))
    ]
    return sorted(found, key=lambda one: (one["kind"] != "chat", one["name"]))


def _start(visit: Visit, issued: api_keys.IssuedKey | None = None) -> Response:
    org_id = str(visit.org_id)
    with visit.shop.db.read() as conn:
        models = offered(conn, org_id)
        first = queries.first_event(conn, org_id)
        keys = [one for one in api_keys.list_keys(conn, org_id) if _usable(one, visit.now_ms)]
        subscribed = catalog.running_subscription(conn, org_id) is not None
    wanted = visit.query.get("model", "")
    model = next((one for one in models if one["name"] == wanted), models[0] if models else None)
    calls = _calls(visit, model["name"]) if model else []
    call = next((one for one in calls if one.call == visit.query.get("call")), calls[0] if calls else None)
    code = snippets.samples(visit.shop.settings.url, issued.secret if issued else "", call) if call else []
    return visit.page(
        "start.html",
        models=models,
        model=model,
        calls=calls,
        call=call,
        issued=issued,
        first=first,
        keys=keys,
        code=code,
        subscribed=subscribed,
    )


def _calls(visit: Visit, name: str) -> list[sample_calls.SampleCall]:
    with visit.shop.db.read() as conn:
        model = offers.get_model(conn, name)
    return sample_calls.of(visit.shop.store, visit.shop.settings, model)


def _keys(visit: Visit, issued: api_keys.IssuedKey | None = None, problem: BadRequest | None = None) -> Response:
    org_id = str(visit.org_id)
    with visit.shop.db.read() as conn:
        rows = api_keys.list_keys(conn, org_id)
        last_used = queries.last_used(conn, org_id)
        models = offered(conn, org_id)
    status = problem.status if problem else 200
    return visit.page(
        "keys.html",
        status,
        rows=rows,
        last_used=last_used,
        models=models,
        issued=issued,
        problem=problem,
        scopes=SCOPES,
        limits=LIMITS,
        expiries=EXPIRIES,
        usable=lambda key: _usable(key, visit.now_ms),
    )


def _key_wish(visit: Visit) -> dict[str, Any]:
    """The form of a new key. A buyer hands out the buyers' scopes only, whatever the form says."""
    name = visit.field("name")
    if not 0 < len(name) <= 200:
        raise BadRequest(visit.t("error.key_name"), param="name")
    wish: dict[str, Any] = {"name": name, "scopes": [scope for scope in visit.fields("scope") if scope in SCOPES]}
    if not wish["scopes"]:
        raise BadRequest(visit.t("error.key_scope"), param="scope")
    for limit in LIMITS:
        text = visit.field(limit)
        if text and not (text.isascii() and text.isdigit() and 0 < int(text) < 10**12):
            raise BadRequest(visit.t("error.key_limit", name=visit.t(f"plan.{limit}")), param=limit)
        wish[limit] = int(text) if text else None
    models = [one for one in visit.fields("model") if one]
    wish["models"] = models or None
    expiry = visit.field("expires")
    if expiry:
        if not expiry.isdigit() or int(expiry) not in EXPIRIES:
            raise BadRequest(visit.t("error.form"))
        now = datetime.fromtimestamp(visit.now_ms / 1000, tz=UTC)
        wish["expires_ms"] = to_ms(now + timedelta(days=int(expiry)))
    return wish


def _usable(key: api_keys.ApiKey, now_ms: int) -> bool:
    return key.revoked_ms is None and (key.expires_ms is None or key.expires_ms > now_ms)


def _allowances(version: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How much of each free allowance is used this month. A model with a charge of its own does not draw on `*`."""
    found = []
    for charge in version.terms.charges:
        if not charge.included:
            continue
        own = {one.model for one in version.terms.charges if one.meter == charge.meter and one.model != "*"}
        used = sum(
            row[charge.meter]
            for row in rows
            if (row["group"] == charge.model if charge.model != "*" else row["group"] not in own)
        )
        share = min(1000, used * 1000 // charge.included)
        found.append({"charge": charge, "used": used, "share": share})
    return found
