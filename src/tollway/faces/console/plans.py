"""Plans: what is sold and at which price. A change is drafted, shown as a difference, and published as a new version."""

from typing import Any

from starlette.responses import Response

from tollway.faces.console import queries
from tollway.faces.console.confirm import confirmation
from tollway.faces.console.terms_form import FormTerms, differences, read_terms, written_terms
from tollway.faces.console.visit import Visit
from tollway.flows import unpriced
from tollway.kit.errors import BadRequest, Conflict, TollwayError
from tollway.sell import catalog
from tollway.sell.unpriced import Gap


def plans(visit: Visit) -> Response:
    """GET /console/plans"""
    with visit.shop.db.read() as conn:
        subscribers = queries.subscribers(conn)
        versions = catalog.plan_versions(conn).values()
        rows = [
            {
                "plan": plan,
                "subscribers": sum(subscribers.get(one.id, 0) for one in versions if one.plan_id == plan.plan_id),
                "on_newest": subscribers.get(plan.id, 0),
            }
            for plan in catalog.list_plans(conn, archived=True)
        ]
    return visit.page("plans.html", rows=rows)


def plan(visit: Visit) -> Response:
    """GET /console/plans/{name}?version=2"""
    name = visit.request.path_params["name"]
    with visit.shop.db.read() as conn:
        newest = catalog.get_plan(conn, name)
        versions = sorted(
            (one for one in catalog.plan_versions(conn).values() if one.plan_id == newest.plan_id),
            key=lambda one: one.version,
            reverse=True,
        )
        subscribers = queries.subscribers(conn)
    wanted = visit.query.get("version", "")
    shown = next((one for one in versions if str(one.version) == wanted), newest)
    before = next((one for one in versions if one.version == shown.version - 1), None)
    changes = differences(visit, before.terms, shown.terms) if before else []
    return visit.page(
        "plan.html",
        shown=shown,
        newest=newest,
        versions=versions,
        subscribers=subscribers,
        changes=changes,
        gaps=_gaps(visit, shown.terms),
    )


def new(visit: Visit) -> Response:
    """GET /console/plans/new"""
    form = FormTerms.empty(visit.currency)
    return visit.page("plan_form.html", plan=None, form=form, name="", title="", problems=[], changes=None)


def create(visit: Visit) -> Response:
    """POST /console/plans/new: checks, shows what will be sold, and with `confirmed` creates it."""
    name, title = visit.field("name"), visit.field("title")
    form, terms, problems = read_terms(visit, visit.field("currency") or visit.currency)
    if terms is not None and not problems and visit.field("step") == "publish":
        try:
            with visit.shop.db.write() as conn:
                catalog.create_plan(conn, visit.now_ms, name, title, terms)
            return visit.go(f"/plans/{name}", done="plan_created")
        except (BadRequest, Conflict) as error:
            problems = [visit.tell(error)]
    changes = (
        differences(visit, None, terms)
        if terms is not None and not problems and visit.field("step") == "preview"
        else None
    )
    status = 400 if problems else 200
    return visit.page(
        "plan_form.html",
        status,
        plan=None,
        form=form,
        name=name,
        title=title,
        problems=problems,
        changes=changes,
        gaps=_gaps(visit, terms) if changes else [],
    )


def revise_form(visit: Visit) -> Response:
    """GET /console/plans/{name}/revise"""
    with visit.shop.db.read() as conn:
        found = catalog.get_plan(conn, visit.request.path_params["name"])
    form = written_terms(found.terms)
    return visit.page(
        "plan_form.html", plan=found, form=form, name=found.plan_name, title=found.title, problems=[], changes=None
    )


def revise(visit: Visit) -> Response:
    """POST /console/plans/{name}/revise: preview the difference, then publish the next version."""
    with visit.shop.db.read() as conn:
        found = catalog.get_plan(conn, visit.request.path_params["name"])
        subscribers = queries.subscribers(conn)
    form, terms, problems = read_terms(visit, found.terms.currency)
    changes = differences(visit, found.terms, terms) if terms is not None and not problems else None
    if changes is not None and not changes:
        problems, changes = [visit.t("plan.no_change")], None
    if changes and visit.field("step") == "publish":
        if visit.field("base_version") != str(found.version):
            problems, changes = [visit.t("plan.changed_meanwhile", version=found.version)], None
        else:
            return _publish(visit, found, terms)
    return visit.page(
        "plan_form.html",
        400 if problems else 200,
        plan=found,
        form=form,
        name=found.plan_name,
        title=found.title,
        problems=problems,
        changes=changes if visit.field("step") != "edit" else None,
        gaps=_gaps(visit, terms) if changes else [],
        staying=subscribers.get(found.id, 0),
    )


def archive(visit: Visit) -> Response:
    """GET asks, POST does: /console/plans/{name}/archive"""
    with visit.shop.db.read() as conn:
        found = catalog.get_plan(conn, visit.request.path_params["name"])
        subscribers = queries.subscribers(conn)
        versions = [one for one in catalog.plan_versions(conn).values() if one.plan_id == found.plan_id]
    if visit.request.method == "GET":
        count = sum(subscribers.get(one.id, 0) for one in versions)
        facts = [(visit.t("plan.one"), found.title), (visit.t("plan.subscribers"), visit.fmt.number(count))]
        return confirmation(
            visit,
            visit.t("confirm.archive.title", name=found.title),
            visit.t("confirm.archive.effect"),
            facts,
            {},
            visit.t("confirm.archive.yes"),
            f"/plans/{found.plan_name}",
            danger=True,
        )
    with visit.shop.db.write() as conn:
        catalog.archive_plan(conn, visit.now_ms, found.plan_name)
    return visit.go(f"/plans/{found.plan_name}", done="archived")


def _gaps(visit: Visit, terms: catalog.Terms | None) -> list[Gap]:
    """What these terms have no price for."""
    if terms is None:
        return []
    with visit.shop.db.read() as conn:
        return unpriced.of_plan(conn, visit.shop.store, terms)


def _publish(visit: Visit, found: Any, terms: Any) -> Response:
    try:
        with visit.shop.db.write() as conn:
            catalog.revise_plan(conn, visit.now_ms, found.plan_name, terms)
    except TollwayError as error:
        form = written_terms(terms)
        return visit.page(
            "plan_form.html",
            error.status,
            plan=found,
            form=form,
            name=found.plan_name,
            title=found.title,
            problems=[visit.tell(error)],
            changes=None,
            staying=0,
        )
    return visit.go(f"/plans/{found.plan_name}", done="plan_published")
