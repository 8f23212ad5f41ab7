"""Versions of a model beside the one that buyers reach: put into service, promoted, taken back, ended.

    start(shop, "reviews", "2", "canary", 10, policy)    ten of a hundred calls go to version 2, watched by the gateway
    promote(shop, "reviews")                             it answers all calls; the version before stays warm for a while
    back(shop, "reviews")                                the way back from the last step, whatever it was
    stop(shop, "reviews")                                nothing beside the stable version any more

Each is one transaction, with the reason kept; running gateways follow within a quarter of a second. The functions that
end in `_in` work inside a transaction that is already open: the gateway's own, when it decides by itself.
"""

from typing import Any, Final

import msgspec
import sqlalchemy as sa

from tollway.flows import engine_choice, release
from tollway.flows.rollout_verdict import RolloutPolicy
from tollway.kit.errors import BadRequest, Conflict, NotFound
from tollway.kit.said import say
from tollway.sell import revision
from tollway.serve import deployments, models
from tollway.serve.deployments import Record, Role
from tollway.shop import Shop

_PROMOTED: Final = say("rollout.by_hand_promoted", "promoted by hand")
_TAKEN_BACK: Final = say("rollout.by_hand_back", "taken back by hand")
_ENDED: Final = say("rollout.by_hand_ended", "ended by hand")


class Status(msgspec.Struct, frozen=True):
    """A model's versions: what is in service by role, and what was, the newest first."""

    model: str
    stable: str
    in_service: tuple[Record, ...]
    history: tuple[Record, ...]
    way_back: str  # the version that `back` would bring; "" when there is none


def start(
    shop: Shop,
    name: str,
    version: str | None,
    role: Role,
    share: int,
    policy: RolloutPolicy | None = None,
    engine: str = "",
) -> Record:
    """Put a version into service beside the stable one, as canary or shadow. The same version again gets the new share and
    policy, and what was measured of it stays. `engine`: the version is served on this one for as long as it is in service;
    what was measured on another begins anew. Raises Conflict for models that have no versions of their own."""
    if not 1 <= share <= 100:
        raise BadRequest(
            say("versions.share", "A share is 1 to 100 percent, not {share}.", share=share),
            param="share",
            hint=say("versions.share_hint", "For example --canary 10%."),
        )
    rules = msgspec.to_builtins(policy or RolloutPolicy())
    manifest = release.servable(shop, name, version)
    if engine:
        engine_choice.require(shop.store.get(name, manifest.version), engine)
    with shop.db.write() as conn:
        deployments.alone(conn, name)
        model = _with_versions(conn, name)
        if model.kind != manifest.kind:
            raise Conflict(
                say(
                    "versions.kind",
                    "{name} is on offer as {kind}, version {version} is {other}.",
                    name=name,
                    kind=model.kind,
                    version=manifest.version,
                    other=manifest.kind,
                )
            )
        if model.version == manifest.version:
            raise Conflict(
                say(
                    "versions.already",
                    "Version {version} answers all calls to {name} already.",
                    version=manifest.version,
                    name=name,
                ),
                code="already_stable",
                hint=say(
                    "versions.another",
                    "Name another one: tollway deploy {name}@VERSION. `tollway model list --all` shows them.",
                    name=name,
                ),
            )
        now_ms, now = shop.clock.now_ms(), deployments.running(conn, name)
        mine, chosen = now.get(role), engine or deployments.chosen_for(now, manifest.version)
        if mine is not None and (mine.version, mine.chosen_engine) == (manifest.version, chosen):
            made = deployments.reshape(conn, mine, share, rules)
        else:
            for other, one in now.items():
                if one.version == manifest.version and other != role:
                    deployments.end(
                        conn, now_ms, one, "ended", say("rollout.became", "it became the {role}", role=role)
                    )
            made = deployments.begin(
                conn, now_ms, name, manifest.version, role, share=share, policy=rules, engine=manifest.engine,
                chosen_engine=chosen,
            )  # fmt: skip
        revision.touch(conn)
    return made


def promote(shop: Shop, name: str, why: str = _PROMOTED) -> Record:
    """The canary answers all calls. Raises NotFound when there is none."""
    with shop.db.write() as conn:
        deployments.alone(conn, name)
        canary = deployments.running(conn, name).get("canary")
        if canary is None:
            raise NotFound(
                f"{name} has no canary.",
                code="no_canary",
                hint=f"Start one: tollway deploy {name}@VERSION --canary 10%.",
            )
        return promote_in(conn, shop.clock.now_ms(), canary, why)


def promote_in(conn: sa.Connection, now_ms: int, canary: Record, why: str) -> Record:
    """The same in an open transaction."""
    model = models.get_model(conn, canary.model)
    engine = msgspec.convert(canary.engine or model.engine, models.EngineName)
    deployments.end(conn, now_ms, canary, "promoted", why)
    return move_in(conn, now_ms, model, canary.version, engine, canary.chosen_engine, _grace(canary.policy))


def move_in(
    conn: sa.Connection,
    now_ms: int,
    model: models.Model,
    version: str,
    engine: models.EngineName,
    chosen_engine: str,
    grace_s: int = 0,
) -> Record:
    """A model's name points at another version; the one before stays loaded for `grace_s` seconds."""
    before = deployments.running(conn, model.name).get("stable")
    models.offer_package(conn, now_ms, model.name, model.kind, version, model.title, engine, chosen_engine)
    if before is not None and before.version != version and grace_s and before.engine != "upstream":
        why = release.kept_loaded(grace_s)
        deployments.begin(
            conn, now_ms, model.name, before.version, "warm", policy={"grace_s": grace_s}, engine=before.engine,
            chosen_engine=before.chosen_engine, why=why,
        )  # fmt: skip
    revision.touch(conn)
    return deployments.running(conn, model.name)["stable"]


def roll_back_in(conn: sa.Connection, now_ms: int, one: Record, why: str) -> None:
    """A canary or shadow is taken out of service."""
    deployments.end(conn, now_ms, one, "rolled_back", why)
    revision.touch(conn)


def end_in(conn: sa.Connection, now_ms: int, one: Record, why: str) -> None:
    """Something beside the stable version has done its work."""
    deployments.end(conn, now_ms, one, "ended", why)
    revision.touch(conn)


def back(shop: Shop, name: str, why: str = _TAKEN_BACK) -> Record:
    """The way back from the last step: a canary that runs is taken back; without one, the version before answers again, at
    once while it is warm. Raises Conflict when there is nothing to go back to."""
    with shop.db.write() as conn:
        deployments.alone(conn, name)
        now_ms, now = shop.clock.now_ms(), deployments.running(conn, name)
        canary = now.get("canary")
        if canary is not None:
            roll_back_in(conn, now_ms, canary, why)
            return deployments.get(conn, canary.id)
        model = _with_versions(conn, name)
        return back_in(conn, now_ms, model, why, lambda version: release.servable(shop, name, version))


def back_in(conn: sa.Connection, now_ms: int, model: models.Model, why: str, check: Any = None) -> Record:
    """The version before answers again, on the engine that it had."""
    before = deployments.version_before(conn, model.name)
    if before is None or before.engine == "upstream":
        there, before_it = before is not None, {"version": model.version, "name": model.name}
        raise Conflict(
            say("versions.was_upstream", "Before version {version}, {name} was answered by an upstream.", **before_it)
            if there
            else say(
                "versions.was_nothing",
                "Before version {version}, {name} was answered by nothing: there is no version to go back to.",
                **before_it,
            ),
            code="no_way_back",
            hint=say("versions.add_upstream", "`tollway model add` offers an upstream.")
            if there
            else say("versions.shelf", "`tollway model list --all` shows the shelf."),
        )
    if check is not None:
        check(before.version)
    stable = deployments.running(conn, model.name).get("stable")
    if stable is not None:
        deployments.end(conn, now_ms, stable, "rolled_back", why)
    engine = msgspec.convert(before.engine or model.engine, models.EngineName)
    return move_in(conn, now_ms, model, before.version, engine, before.chosen_engine)


def stop(shop: Shop, name: str, why: str = _ENDED) -> list[Record]:
    """End the canary, the shadow and what is kept warm. Raises NotFound when there is none of them."""
    with shop.db.write() as conn:
        deployments.alone(conn, name)
        beside = [one for role, one in deployments.running(conn, name).items() if role != "stable"]
        if not beside:
            raise NotFound(f"Nothing runs beside the stable version of {name}.", code="nothing_beside")
        for one in beside:
            deployments.end(conn, shop.clock.now_ms(), one, "ended", why)
        revision.touch(conn)
        return [deployments.get(conn, one.id) for one in beside]


def status(shop: Shop, name: str) -> Status:
    """What is in service under a model's name, and what was. Raises NotFound."""
    with shop.db.read() as conn:
        model = models.get_model(conn, name)
        before = deployments.version_before(conn, name)
        in_service = tuple(deployments.running(conn, name).values())
        found = tuple(deployments.history(conn, name))
    way_back = before.version if before is not None and before.engine != "upstream" else ""
    return Status(name, model.version, in_service, found, way_back)


def not_up(shop: Shop) -> list[tuple[str, str]]:
    """What a running gateway should answer with and cannot, and why: `("reviews@1", "its replica does not come up: …")`."""
    with shop.db.read() as conn:
        return [
            (f"{one.model}@{one.version}", one.why)
            for one in deployments.all_running(conn)
            if one.role == "stable" and one.ready_ms is None and one.why
        ]


def _with_versions(conn: sa.Connection, name: str) -> models.Model:
    """A model on offer that has versions of its own. Raises NotFound, Conflict."""
    model = models.get_model(conn, name)
    if model.base:
        raise Conflict(
            say(
                "versions.adapter",
                "{name} is an adapter on {base}: it has no replicas of its own to share calls with.",
                name=name,
                base=model.base,
            ),
            code="adapter",
            hint=say(
                "versions.adapter_hint",
                "A new version of the adapter takes over when {base} has loaded it; calls are not shared out.",
                base=model.base,
            ),
        )
    if model.engine == "upstream":
        raise Conflict(
            say("versions.upstream", "{name} is answered by an upstream: its versions are not ours.", name=name),
            code="upstream",
            hint=say("versions.own_name", "Offer the package under a name of its own, or deploy it without a canary."),
        )
    return model


def _grace(policy: dict[str, Any]) -> int:
    return int(policy.get("grace_s", 0))
