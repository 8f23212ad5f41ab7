"""Versions of a model in the console: what is in service with its figures, what was and why; starting one, and the way back.

Every act asks first and says what it does to callers; every act has a way back.
"""

from typing import Any, Final

from starlette.responses import Response

from tollway.faces.console.confirm import confirmation
from tollway.faces.console.visit import Visit
from tollway.flows import unpriced, versions
from tollway.flows.rollout_verdict import RolloutPolicy
from tollway.kit.errors import BadRequest, NotFound, TollwayError
from tollway.serve import deployments, models
from tollway.serve.deployments import Record

_PAST_MOST: Final = 20
_ROLES: Final = ("canary", "shadow")


def panel(visit: Visit, conn: Any, found: dict[str, Any]) -> dict[str, Any]:
    """What the model's page shows of its versions."""
    name = found["name"]
    in_service = deployments.running(conn, name)
    before = deployments.version_before(conn, name)
    beside = [in_service[role] for role in ("canary", "shadow") if role in in_service]
    own = found["engine"] != "upstream" and not found["base"] and not found["retired_ms"]
    return {
        "in_service": [*in_service.values()],
        "beside": [_beside(visit, one) for one in beside],
        "canary": in_service.get("canary"),
        "anything_beside": len(in_service) > 1,
        "past": [one for one in deployments.history(conn, name) if not one.running][:_PAST_MOST],
        "way_back": before.version if before is not None and before.engine != "upstream" and own else "",
        "shelf": _shelf(visit, name, found["version"]) if own else [],
    }


def start(visit: Visit) -> Response:
    """POST /console/deployments/start/{name}: asks with the policy in words; with `confirmed`, puts it into service."""
    name, version, role = visit.request.path_params["name"], visit.field("version"), visit.field("role")
    if role not in _ROLES or not version:
        raise BadRequest(visit.t("error.form"))
    share = _number(visit, "share", 1, 100)
    policy = RolloutPolicy(
        automatic=visit.field("automatic") == "yes",
        min_calls=_number(visit, "min_calls", 1, 10**6),
        promote_after_s=60 * _number(visit, "minutes", 0, 10_000),
        max_time_s=86_400 * 7,
        max_error=_number(visit, "max_error", 0, 100) / 100,
        mirror=_number(visit, "mirror", 0, 100) if role == "canary" else 0,
        min_agreement=_number(visit, "min_agreement", 0, 100) / 100,
    )
    if visit.field("confirmed") != "yes":
        stable = _stable(visit, name)
        kept = {name: value for name, value in visit.form if name not in ("csrf", "confirmed")}
        facts = [
            (visit.t("model.version"), version),
            (visit.t("deployment.role"), visit.t(f"deployment.roles.{role}")),
            (visit.t("deployment.share"), visit.fmt.percent(share / 100, 0)),
            (visit.t("deployment.min_calls"), visit.fmt.number(policy.min_calls)),
            (visit.t("deployment.max_error"), visit.fmt.percent(policy.max_error, 0)),
        ]
        return confirmation(
            visit, visit.t("confirm.deploy.title", name=f"{name}@{version}"),
            visit.t(f"confirm.deploy.{role}", share=visit.fmt.percent(share / 100, 0), stable=stable), facts, kept,
            visit.t("confirm.deploy.yes"), f"/models/{name}", warnings=unpriced_words(visit, name),
        )  # fmt: skip
    versions.start(visit.shop, name, version, role, share, policy)  # type: ignore[arg-type]
    return visit.go(f"/models/{name}", done="deployment_started")


def promote(visit: Visit) -> Response:
    """GET /console/deployments/promote/{name} asks, with what was measured; POST with `confirmed` does it."""
    name = visit.request.path_params["name"]
    canary = _in_service(visit, name).get("canary")
    if canary is None:
        raise NotFound(visit.t("deployment.no_canary", name=name[:80]))
    if visit.field("confirmed") == "yes":
        versions.promote(visit.shop, name)
        return visit.go(f"/models/{name}", done="deployment_promoted")
    facts = [(visit.t("model.version"), canary.version), *_figures(visit, canary)]
    return confirmation(
        visit, visit.t("confirm.promote.title", name=f"{name}@{canary.version}"), visit.t("confirm.promote.effect"),
        facts, {}, visit.t("confirm.promote.yes"), f"/models/{name}",
    )  # fmt: skip


def back(visit: Visit) -> Response:
    """GET /console/deployments/back/{name} asks; POST with `confirmed` takes the last step back."""
    name = visit.request.path_params["name"]
    now = _in_service(visit, name)
    if visit.field("confirmed") == "yes":
        versions.back(visit.shop, name)
        return visit.go(f"/models/{name}", done="deployment_back")
    canary, stable = now.get("canary"), now.get("stable")
    with visit.shop.db.read() as conn:
        before = deployments.version_before(conn, name)
    if canary is not None and stable is not None:
        effect, then, facts = "canary", stable.version, _figures(visit, canary)
    elif before is not None:
        warm = now.get("warm")
        effect, then, facts = ("warm" if warm and warm.version == before.version else "before"), before.version, []
    else:
        raise NotFound(visit.t("deployment.no_way_back", name=name[:80]))
    return confirmation(
        visit, visit.t("confirm.back.title", name=name), visit.t(f"confirm.back.{effect}", version=then), facts, {},
        visit.t("confirm.back.yes"), f"/models/{name}", danger=True,
    )  # fmt: skip


def stop(visit: Visit) -> Response:
    """GET /console/deployments/stop/{name} asks; POST with `confirmed` ends what runs beside the stable version."""
    name = visit.request.path_params["name"]
    beside = [one for role, one in _in_service(visit, name).items() if role != "stable"]
    if not beside:
        raise NotFound(visit.t("deployment.nothing_beside", name=name[:80]))
    if visit.field("confirmed") == "yes":
        versions.stop(visit.shop, name)
        return visit.go(f"/models/{name}", done="deployment_stopped")
    facts = [(visit.t(f"deployment.roles.{one.role}"), one.version) for one in beside]
    return confirmation(
        visit, visit.t("confirm.stop.title", name=name), visit.t("confirm.stop.effect"), facts, {},
        visit.t("confirm.stop.yes"), f"/models/{name}", danger=True,
    )  # fmt: skip


def unpriced_words(visit: Visit, name: str) -> list[str]:
    """A sentence for each plan that has no price for something of a model, and one for a model that no plan includes."""
    with visit.shop.db.read() as conn:
        found = unpriced.warnings(conn, visit.shop.store, models.get_model(conn, name))
    words = [] if found.in_a_plan else [visit.t("unpriced.in_no_plan", model=name)]
    for plan, gaps in found.gaps:
        meters = visit.t("unpriced.and").join(
            visit.t("unpriced.meter", meter=visit.t(f"meter.{gap.meter}"), outcome=visit.t(f"unpriced.{gap.outcome}"))
            for gap in gaps
        )
        words.append(visit.t("unpriced.on_plan", plan=plan.title, model=name, meters=meters))
    return words


def _in_service(visit: Visit, name: str) -> dict[Any, Record]:
    with visit.shop.db.read() as conn:
        return {**deployments.running(conn, name)}


def _stable(visit: Visit, name: str) -> str:
    stable = _in_service(visit, name).get("stable")
    if stable is None:
        raise NotFound(visit.t("error.no_model", name=name[:80]))
    return stable.version


def _shelf(visit: Visit, name: str, now: str) -> list[str]:
    """Versions on the shelf that could be tried, the newest first."""
    store = getattr(visit.shop, "store", None)
    try:
        packages = store.list() if store is not None else []
    except TollwayError:
        packages = []
    found = [one.manifest for one in packages if one.manifest.name == name and one.manifest.version != now]
    return [one.version for one in sorted(found, key=lambda one: one.created, reverse=True)]


def _beside(visit: Visit, one: Record) -> dict[str, Any]:
    """A canary or shadow with its measures, as the page shows them."""
    return {"record": one, "rows": [_row(visit, found) for found in _findings(one)]}


def _findings(one: Record) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (one.figures.get("verdict") or {}).get("findings") or []
    return found


def _row(visit: Visit, found: dict[str, Any]) -> dict[str, Any]:
    def shown(value: float | None) -> str:
        if value is None:
            return visit.fmt.percent(None)
        if found["unit"] == "ms":
            return visit.fmt.duration(round(value * 1000))
        return f"{value:.2f}×" if found["unit"] == "ratio" else visit.fmt.percent(round(value, 6))

    return {
        "name": found["name"], "state": found["state"], "trials": found["trials"], "canary": shown(found["canary"]),
        "stable": shown(found["stable"]), "limit": shown(found["limit"]),
    }  # fmt: skip


def _figures(visit: Visit, one: Record) -> list[tuple[str, str]]:
    """Its measures as facts of a question."""
    rows = [_row(visit, found) for found in _findings(one)]
    return [
        (visit.t(f"deployment.measure.{row['name']}"),
         visit.t("deployment.against", canary=row["canary"], stable=row["stable"], calls=visit.fmt.number(row["trials"])))
        for row in rows
    ]  # fmt: skip


def _number(visit: Visit, name: str, least: int, most: int) -> int:
    text = visit.field(name).removesuffix("%").strip()
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise BadRequest(visit.t("deployment.number", least=least, most=visit.fmt.number(most)), param=name)
    return int(text)
