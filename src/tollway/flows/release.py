"""From a file to something buyers can call: import -> verify -> offer. Every model takes this road, the starters too.

Running gateways see a new, moved or retired model at their next look (settings.refresh_s).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from tollway.artifacts import store
from tollway.artifacts.manifest import Manifest
from tollway.flows import engine_choice
from tollway.kit.crash import crashpoint
from tollway.kit.errors import BadRequest, Conflict, NotFound
from tollway.kit.formats import FORMATS, SERVED
from tollway.kit.said import Said, say
from tollway.sell import catalog, revision
from tollway.serve import deployments, models
from tollway.serve.deployments import Record
from tollway.shop import Shop


def import_file(
    shop: Shop, path: Path, name: str, about: store.About | None = None, progress: store.Progress | None = None
) -> store.ModelPackage:
    """Put a GGUF file on the shelf as the next version of `name`: inspected, hashed, described, signed."""
    if path.is_dir():
        raise BadRequest(
            f"{path} is a folder, not a .gguf file.",
            hint=f'A Hugging Face folder comes in by a recipe: [model] base = "{path}", [train] method = "none".',
        )
    if not path.is_file():
        what = f"{path} is a pipe or a device, not a file." if path.exists() else f"There is no file {path}."
        raise NotFound(what, hint="Give the path of a .gguf file.")
    return shop.store.import_gguf(path, name, about, progress=progress)


def servable(shop: Shop, name: str, version: str | None = None) -> Manifest:
    """The manifest of a package (the newest version unless one is named) that verifies and that an engine can serve."""
    package = shop.store.get(name, version)
    shop.store.verify(package).require()
    manifest = package.manifest
    form = FORMATS.get(manifest.weights.format)
    if manifest.kind == "adapter" or manifest.engine not in SERVED or not (form and form.served):
        only = ", ".join(manifest.formats)
        why = say(
            "release.formats",
            "The package {ref} has only {only}: it cannot be served by itself.",
            ref=package.ref,
            only=only,
        )
        if manifest.kind == "adapter":
            why = say(
                "release.adapter", "The package {ref} is an adapter: it cannot be served by itself.", ref=package.ref
            )
        raise Conflict(
            why,
            code="not_servable",
            hint=say(
                "release.add_format", 'Add "onnx" (or "gguf" for language models) to [convert] formats of its recipe.'
            ),
        )
    return manifest


def deploy(
    shop: Shop, name: str, version: str | None = None, title: str = "", *, grace_s: int = 0, engine: str = ""
) -> models.Model:
    """Make a package the one that answers under its name. A running gateway loads it beside the version before and moves
    over when it answers; that one stays loaded for `grace_s` seconds more. What else was tried out beside it ends.
    `engine`: it is served on this one for as long as it is in service; a version that answers already is loaded anew there,
    as a step of the model's history. "": a version in service goes on with the one it has."""
    manifest = servable(shop, name, version)
    package = shop.store.get(name, manifest.version)
    if engine:
        engine_choice.require(package, engine)
    kind = msgspec.convert(manifest.kind, models.Kind)
    usual = msgspec.convert(manifest.engine, models.EngineName)
    shown = title or manifest.title or name
    with shop.db.write() as conn:
        deployments.alone(conn, name)
        now_ms, beside = shop.clock.now_ms(), deployments.running(conn, name)
        chosen = engine or deployments.chosen_for(beside, manifest.version)
        offered = models.offer_package(conn, now_ms, name, kind, manifest.version, shown, usual, chosen)
        before = beside.pop("stable", None)
        if before is not None and before.version != manifest.version:
            _leave(conn, now_ms, before, [*beside.values()], manifest.version, grace_s)
        revision.touch(conn)
        crashpoint("deploy.before_commit")
    return offered


def _leave(
    conn: sa.Connection, now_ms: int, before: Record, beside: Sequence[Record], version: str, grace_s: int
) -> None:
    """What a deployment ends: what was measured against the version before means nothing any more."""
    for one in beside:
        if one.version != version:
            words = say("rollout.other_deployed", "version {version} was deployed", version=version)
            deployments.end(conn, now_ms, one, "ended", words)
    if grace_s and before.engine != "upstream":
        deployments.begin(
            conn, now_ms, before.model, before.version, "warm", policy={"grace_s": grace_s}, engine=before.engine,
            chosen_engine=before.chosen_engine, why=kept_loaded(grace_s),
        )  # fmt: skip


def kept_loaded(grace_s: int) -> Said:
    """Why the version before is still there."""
    return say("rollout.kept_loaded", "kept loaded for {grace_s}", grace_s=grace_s)


def add_upstream(shop: Shop, name: str, kind: models.Kind, upstream: models.Upstream, title: str = "") -> models.Model:
    """Offer somebody else's OpenAI-compatible server under a name of ours, metered and priced like any model. Raises
    BadRequest for a cost of a meter that there is not."""
    unknown = next((meter for meter, _ in upstream.costs if meter not in catalog.METERS), None)
    if unknown is not None:
        raise BadRequest(f"There is no meter {unknown!r}.", hint=f"Use one of: {', '.join(catalog.METERS)}.")
    with shop.db.write() as conn:
        offered = models.offer_upstream(conn, shop.clock.now_ms(), name, kind, upstream, title)
        revision.touch(conn)
    return offered


def serve(shop: Shop, name: str, serving: models.Serving) -> models.Model:
    """Serve a model with so many replicas, so much memory and cost. Raises NotFound, BadRequest."""
    with shop.db.write() as conn:
        model = models.set_serving(conn, name, serving)
        revision.touch(conn)
    return model


def retire(shop: Shop, name: str) -> models.Model:
    """Withdraw a model from sale; its packages and its usage stay."""
    with shop.db.write() as conn:
        retired = models.retire_model(conn, shop.clock.now_ms(), name)
        revision.touch(conn)
    return retired


def offer_adapter_again(shop: Shop, name: str) -> models.Model | None:
    """The way back from `retire` for an adapter; None for anything else. Raises NotFound when its base is not on offer."""
    with shop.db.write() as conn:
        model = models.offer_adapter_again(conn, name)
        if model is not None:
            revision.touch(conn)
    return model


def sell(
    shop: Shop, model: str, plan: str, prices: Sequence[tuple[str, int]], *, move: bool = False
) -> tuple[catalog.PlanVersion, int]:
    """Put a model's prices (meter, micros per 1M units) into a plan, as its next version; a plan that is not there is made
    with them. `move` takes those who are subscribed to it along. Returns the version and how many were moved."""
    now_ms = shop.clock.now_ms()
    charges = tuple(
        catalog.Charge(meter=msgspec.convert(meter, catalog.Meter), model=model, price_micros=micros)
        for meter, micros in prices
    )
    with shop.db.write() as conn:
        try:
            before = catalog.get_plan(conn, plan)
        except NotFound:
            terms = catalog.Terms(currency=shop.settings.currency, charges=charges, models=(model,), unpriced="refuse")
            return catalog.create_plan(conn, now_ms, plan, plan.replace("-", " ").capitalize(), terms), 0
        slots = {(charge.meter, charge.model) for charge in charges}
        kept = tuple(one for one in before.terms.charges if (one.meter, one.model) not in slots)
        models_ = before.terms.models
        if "*" not in models_ and model not in models_:
            models_ = (*models_, model)
        terms = msgspec.structs.replace(before.terms, charges=(*kept, *charges), models=models_)
        version = catalog.revise_plan(conn, now_ms, plan, terms)
        moved = 0
        if move:
            older = {one.id for one in catalog.plan_versions(conn).values() if one.plan_id == version.plan_id}
            for sub in catalog.list_subscriptions(conn):
                if sub.ended_ms is None and sub.plan_version_id in older - {version.id}:
                    catalog.subscribe(conn, now_ms, sub.org_id, version.id)
                    moved += 1
        return version, moved


def plan_to_sell_on(shop: Shop, wanted: str | None) -> str:
    """The plan that was named, else the only one there is. Raises BadRequest when that is not clear."""
    if wanted:
        return wanted
    with shop.db.read() as conn:
        names = [one.plan_name for one in catalog.list_plans(conn)]
    if len(names) != 1:
        raise BadRequest(
            f"There are {len(names)} plans: say on which one it is sold.",
            hint=f"Add --plan with one of {', '.join(names)}, or with a new name." if names else "Add --plan NAME.",
        )
    return names[0]


def lineage(shop: Shop, name: str, version: str | None = None) -> dict[str, Any]:
    """Where an answer of this model comes from: package, run, recipe, parents, and the datasets' digests."""
    found = shop.store.get(name, version)
    shop.store.verify(found).require()
    steps: list[dict[str, Any]] = []
    seen: set[str] = set()
    while found.ref not in seen:
        seen.add(found.ref)
        manifest, made = found.manifest, found.manifest.lineage
        steps.append(
            {
                "package": found.ref,
                "digest": manifest.digest,
                "created": manifest.created,
                "source": " ".join(filter(None, (manifest.source.package, manifest.source.file))),
                **{key: value for key, value in msgspec.to_builtins(made).items() if value},
            }
        )
        parent, _, parent_version = made.parent.partition("@")
        try:
            found = shop.store.get(parent, parent_version or None) if parent else found
        except (NotFound, BadRequest):
            break  # a parent from outside the shelf: its name is all there is
    return {"model": name, "version": steps[0]["package"].partition("@")[2], "steps": steps}
