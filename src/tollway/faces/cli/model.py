"""`tollway model …`: what is on offer, and the packages on the shelf behind it."""

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tollway.artifacts import tuning
from tollway.faces.cli import deploy_view, model_serving, model_tune, tables, unpriced
from tollway.faces.cli.desk import Desk, Yes, amount, command, group, nearest, pairs, quoted
from tollway.faces.cli.progress import Progress
from tollway.flows import release
from tollway.kit.errors import BadRequest, NotFound, TollwayError
from tollway.sell import usage
from tollway.serve import models

app = group("Import, add, list, verify and retire models.")
model_tune.add_to(app)
model_serving.add_to(app)
Name = Annotated[str, typer.Argument(help="The name buyers call.", metavar="NAME")]
Title = Annotated[str, typer.Option("--title", help="What people see.")]


@command(app, "import")
def import_(
    desk: Desk,
    file: Annotated[Path, typer.Argument(help="A GGUF file.", metavar="FILE.gguf")],
    name: Annotated[str, typer.Option("--name", help="The name buyers will call.")],
    title: Title = "",
    no_deploy: Annotated[bool, typer.Option("--no-deploy", help="Only put it on the shelf.")] = False,
) -> None:
    """Make a signed package of a GGUF file and offer it. The same weights again are the same version."""
    with Progress(f"Importing {file.name}") as progress:
        package = release.import_file(desk.shop, file, name, progress=progress.bytes)
    offered = None if no_deploy else release.deploy(desk.shop, name, package.manifest.version, title)
    if offered is not None:
        deploy_view.until_up(desk, name, offered)
    data = {"name": name, "version": package.manifest.version, "offered": offered is not None,
            "package": msgspec.to_builtins(package.manifest), "path": str(package.folder)}  # fmt: skip
    desk.answer(data, lambda: _card(package.manifest, package.folder, package.manifest.engine))
    if offered is not None:
        unpriced.warn_of_model(desk, offered)
    desk.then(f"tollway deploy {name}" if no_deploy else f"tollway model show {name}")


@command(app, "add")
def add(
    desk: Desk,
    name: Name,
    upstream: Annotated[
        list[str],
        typer.Option(
            "--upstream", help="Base URL of an OpenAI-compatible server, up to /v1; several: calls are spread."
        ),
    ],
    upstream_model: Annotated[str | None, typer.Option("--upstream-model", help="Its name there.")] = None,
    upstream_key_env: Annotated[
        str, typer.Option("--upstream-key-env", help="Variable that holds the key for it.")
    ] = "",
    kind: Annotated[str, typer.Option("--kind", help=f"One of {', '.join(models.UPSTREAM_KINDS)}.")] = "chat",
    cost: Annotated[
        list[str] | None,
        typer.Option("--cost", help="METER=PRICE per 1M units: what the upstream charges you, for the books; repeat."),
    ] = None,
    title: Title = "",
) -> None:
    """Offer a model that another server runs (vLLM, another Tollway, a provider), metered and priced by us."""
    if kind not in models.UPSTREAM_KINDS:
        raise BadRequest(
            f"{kind!r} is not a kind of upstream.{nearest(kind, models.UPSTREAM_KINDS)}",
            hint=f"Use --kind with one of {', '.join(models.UPSTREAM_KINDS)}.",
        )
    first, *more = [url.rstrip("/") for url in upstream]
    costs = tuple((meter, amount(text)) for meter, text in pairs(cost or [], "--cost"))
    there = models.Upstream(first, upstream_model or name, upstream_key_env, tuple(dict.fromkeys(more)), costs)
    offered = release.add_upstream(desk.shop, name, kind, there, title)  # type: ignore[arg-type]
    desk.until_noticed()
    desk.answer(offered, lambda: f"{name} is on offer, answered by {' and '.join(there.urls)} ({there.model}).")
    if upstream_key_env and not os.environ.get(upstream_key_env):
        desk.say(
            f"Note: {upstream_key_env} is not set here. The gateway reads it from its own environment:"
            f" {upstream_key_env}=... tollway up"
        )
    unpriced.warn_of_model(desk, offered)
    desk.then(f"tollway model show {name}")


@command(app, "packaged")
def packaged_(
    desk: Desk,
    name: Annotated[str, typer.Argument(help="Bring this one; without: show what there is.", metavar="[NAME]")] = "",
    no_deploy: Annotated[bool, typer.Option("--no-deploy", help="Only put it on the shelf.")] = False,
) -> None:
    """Models that come inside packages: list them, or take one in as a signed package and offer it."""
    from tollway.flows import packaged

    if not name:
        rows = packaged.listing(desk.shop)
        columns = {"name": "model", "title": "what it is", "licence": "licence", "package": "package",
                   "installed": "installed", "offered": "on offer"}  # fmt: skip
        desk.answer(rows, lambda: tables.table([msgspec.to_builtins(row) for row in rows], columns))
        there = next((row.name for row in rows if row.installed and not row.offered), None)
        desk.then(f"tollway model packaged {there}" if there else "tollway model list")
        return
    with Progress(f"Importing {name}") as progress:
        package, offered = packaged.bring(desk.shop, name, progress.bytes, deploy=not no_deploy)
    if offered is not None:
        deploy_view.until_up(desk, name, offered)
    data = {"name": name, "version": package.manifest.version, "offered": offered is not None,
            "package": msgspec.to_builtins(package.manifest), "path": str(package.folder)}  # fmt: skip
    desk.answer(data, lambda: _card(package.manifest, package.folder, package.manifest.engine))
    missing = [] if offered is None else unpriced.warn_of_model(desk, offered)
    if no_deploy:
        desk.then(f"tollway deploy {name}")
    elif missing:
        desk.then(f"tollway plan show {missing[0][0].plan_name}", "what it has no price for, and what it has")
    else:
        desk.then(f"tollway model show {name}")


@command(app, "list")
def list_(
    desk: Desk,
    all_: Annotated[bool, typer.Option("--all", help="Also retired ones and packages not on offer.")] = False,
) -> None:
    """Models on offer."""
    with desk.shop.db.read() as conn:
        offered = models.list_models(conn, retired=all_)
    rows = [_row(model) | {"engine": _served_by(desk, model)} for model in offered]
    if all_:
        on_offer = {(model.name, model.version) for model in offered}
        for package in desk.shop.store.list():
            manifest = package.manifest
            if (manifest.name, manifest.version) not in on_offer:
                row = {
                    "name": manifest.name,
                    "kind": manifest.kind,
                    "engine": manifest.engine,
                    "version": manifest.version,
                }
                rows.append(row | {"title": manifest.title, "state": "on the shelf"})
    columns = {
        "name": "model",
        "kind": "kind",
        "engine": "engine",
        "version": "version",
        "title": "title",
        "state": "state",
    }
    desk.answer(rows, lambda: tables.table(rows, columns))
    desk.then(f"tollway model show {rows[0]['name']}" if offered else "tollway model packaged")


@command(app, "show")
def show(desk: Desk, name: Name) -> None:
    """One model: where it comes from, how large, how it is answered."""
    model = _model(desk, name)
    data: dict[str, Any] = _row(model)
    if model.engine == "upstream":
        desk.answer(data, lambda: _upstream_card(model, data["state"]))
    else:
        package = desk.shop.store.get(name, model.version)
        tuned = _tuned(desk, model)
        data |= {
            "engine": _served_by(desk, model), "tuned": msgspec.to_builtins(tuned), "path": str(package.folder),
            "package": msgspec.to_builtins(package.manifest), "lost": tuning.lost(package) if tuned else [],
        }  # fmt: skip
        lost = ", ".join(data["lost"])
        by = f"{tuned.engine} as {tuned.format}, {tuned.threads} threads (tuned here)" if tuned else data["engine"]
        by += f"; it refuses {lost}: `tollway model tune {name} --undo` gives them back" if lost else ""
        desk.answer(data, lambda: _card(package.manifest, package.folder, by))
    desk.then(f"tollway usage --by day --model {name}")


@command(app, "lineage")
def lineage(
    desk: Desk,
    name: Annotated[
        str,
        typer.Argument(help="A model, NAME@VERSION, or the x-request-id of an answer.", metavar="NAME[@VERSION]|REQUEST"),
    ],
) -> None:
    """Where its answers come from: package, run, recipe, parents, down to the digest of the data."""
    wanted, _, version = name.partition("@")
    with desk.shop.db.read() as conn:
        on_offer = {one.name: one for one in models.list_models(conn, retired=True)}
        if name.startswith("req_"):
            answer = usage.find_event(conn, name)
            wanted, version = answer.model, answer.model_version
    if wanted in on_offer and "@" not in name:  # as it is sold; NAME@VERSION is a package
        version, wanted = version or on_offer[wanted].version, on_offer[wanted].package_name
    found = release.lineage(desk.shop, wanted, version or None)
    desk.answer(found, lambda: _walk(found["steps"]))
    desk.then(f"tollway model verify {wanted}")


@command(app, "adapt")
def adapt(
    desk: Desk,
    name: Name,
    least: Annotated[int, typer.Option("--least", help="Corrections that must be there.")] = 10,
    canary: Annotated[
        str,
        typer.Option("--canary", help="The share of the calls it answers first, watched; 0%: it stays on the shelf."),
    ] = "10%",
) -> None:
    """Train the next version from what buyers corrected. If it passes the gates, it goes out as a canary."""
    from tollway.faces.cli.deploy import percent
    from tollway.faces.cli.run_view import RunView
    from tollway.flows import adapt as flow
    from tollway.flows import build

    share = percent(canary, least=0)
    cost = build.cost_of(desk.shop)
    with RunView(cost.micros_per_hour, cost.currency) as view:
        made = flow.adapt(desk.shop, name, least=least, share=share, sink=view.show)
    if made.canary is not None:
        desk.until_noticed()
    package = made.run.record.package
    data = {"package": package, "dataset": made.dataset, "corrections": made.taken, "left_out": list(made.left_out),
            "run": made.run.id, "metrics": made.run.record.metrics,
            "canary": made.canary and msgspec.to_builtins(made.canary)}  # fmt: skip
    out = f" It answers {share} % of the calls now." if made.canary is not None else ""
    left = "".join(f"\nLeft out: {one}" for one in made.left_out)
    desk.answer(data, lambda: f"{package} learned {made.taken} corrections ({made.dataset}).{out}{left}")
    if made.canary is not None:
        desk.then(f"tollway deploy status {name} --watch", f"how it does; `tollway deploy back {name}` takes it back")
    else:
        desk.then(f"tollway deploy {name}", "buyers reach it from then on")


@command(app, "verify")
def verify(
    desk: Desk,
    name: Annotated[str | None, typer.Argument(help="One package; all by default.", metavar="NAME")] = None,
    version: Annotated[str | None, typer.Option("--version", help="All versions by default.")] = None,
) -> None:
    """Hash every byte of the packages and check their signatures. Exit code 1 when one is not what was signed."""
    store = desk.shop.store
    if name is None:
        verdicts = list(store.audit(deep=True))
    else:
        kept = [p for p in store.list() if p.manifest.name == name and version in (None, p.manifest.version)]
        packages = kept or [store.get(name, version)]
        verdicts = [store.verify(package, deep=True) for package in packages]
    rows = [
        {"package": v.ref, "ok": v.ok, "problems": list(v.problems), "hashed_bytes": v.hashed_bytes} for v in verdicts
    ]
    columns = {"package": "package", "ok": "sound", "problems": "problems", "hashed_bytes": "bytes read"}
    desk.answer(rows, lambda: tables.table(rows, columns, empty="No packages yet."))
    if not all(verdict.ok for verdict in verdicts):
        desk.then("tollway model list --all", "import what is not sound again from a source you trust: tollway model import")
        raise typer.Exit(1)
    desk.then("tollway model list")


@command(app, "retire")
def retire(desk: Desk, name: Name, yes: Yes = False) -> None:
    """Withdraw a model from sale; packages and usage stay."""
    _model(desk, name)
    desk.confirm(f"Calls to {name} get 404 within a second; its packages and usage stay.", yes)
    retired = release.retire(desk.shop, name)
    desk.until_noticed()
    desk.answer(_row(retired) | {"state": "retired"}, lambda: f"{name} is retired.")
    desk.then(_added_again(retired) if retired.engine == "upstream" else f"tollway deploy {name}", "offers it again")


def _model(desk: Desk, name: str) -> models.Model:
    with desk.shop.db.read() as conn:
        known = models.list_models(conn)
    for model in known:
        if model.name == name:
            return model
    raise NotFound(
        f"There is no model {name!r} on offer.{nearest(name, [model.name for model in known])}",
        code="model_not_found",
        hint="`tollway model list --all` shows them.",
    )


def _added_again(model: models.Model) -> str:
    """The command that offers an upstream as it was."""
    there = model.upstream
    assert there is not None
    words = ["tollway", "model", "add", model.name, "--kind", model.kind, "--upstream-model", there.model]
    words += [word for url in there.urls for word in ("--upstream", url)]
    words += ["--upstream-key-env", there.key_env] if there.key_env else []
    words += [word for meter, micros in there.costs for word in ("--cost", f"{meter}={micros / 1e6:g}")]
    return " ".join(map(quoted, words))


def _row(model: models.Model) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(model)
    state = "retired" if model.retired_ms else "on offer"
    return plain | {"engine": model.chosen_engine or model.engine, "state": state}


def _tuned(desk: Desk, model: models.Model) -> tuning.Choice | None:
    """What tuning chose for it on this machine, unless an engine was chosen by its name since."""
    if model.engine == "upstream" or model.base or model.chosen_engine:
        return None
    try:
        return tuning.choice(desk.shop.store.get(model.package_name, model.version))
    except TollwayError:
        return None


def _served_by(desk: Desk, model: models.Model) -> str:
    tuned = _tuned(desk, model)
    return tuned.engine if tuned else model.chosen_engine or model.engine


def _upstream_card(model: models.Model, state: str) -> Any:
    there = model.upstream
    return tables.record(
        {
            "model": f"{model.name} ({model.kind})",
            "title": model.title,
            "answered by": ", ".join(there.urls) if there else None,
            "its name there": there.model if there else None,
            "key from": f"${there.key_env}" if there and there.key_env else "no key",
            "it charges": ", ".join(f"{meter} {micros / 1e6:g} per 1M" for meter, micros in there.costs) if there else None,
            "since": tables.moment(model.created_ms),
            "state": state,
        }
    )


def _walk(steps: list[dict[str, Any]]) -> Any:
    """The steps of a lineage, each under the one it explains."""
    from rich.tree import Tree

    tree = Tree("answers carry x-tollway-model-version")
    at = tree
    for step in steps:
        at = at.add(f"package {step['package']}  {step['digest']}")
        if step.get("run"):
            at.add(
                f"run {step['run']}  {step.get('training_ms', 0) / 1000:,.1f} s, code {step.get('code_version', '')}"
            )
        if step.get("recipe"):
            at.add(f"recipe {step['recipe']}  {step.get('recipe_digest', '')}")
        for ref, digest in step.get("datasets", {}).items():
            at.add(f"dataset {ref}  {digest}")
        if step["source"]:
            at.add(f"source {step['source']}")
        if step.get("parent"):
            at.add(f"parent {step['parent']}")
    return tree


def _card(manifest: Any, folder: Path, served_by: str) -> Any:
    weights = manifest.weights
    return tables.record(
        {
            "model": f"{manifest.name}, version {manifest.version} ({manifest.kind})",
            "title": manifest.title,
            "licence": manifest.licence,
            "served by": served_by,
            "weights": f"{f'{weights.format} {weights.quantisation}'.strip()}, {weights.size_bytes / 1e6:,.1f} MB",
            "parameters": manifest.parameters,
            "context": f"{manifest.context_tokens:,} tokens" if manifest.context_tokens else None,
            "task": manifest.task or None,
            "labels": list(manifest.labels) or None,
            "metrics": [f"{name} {value}" for name, value in manifest.metrics.items()] or None,
            "made by": manifest.lineage.run or None,
            "sha256": weights.sha256,
            "signed by": manifest.signed_by,
            "kept in": str(folder),
        }
    )
