"""Jobs, batches and files in the console: how far each is, what happened, what it cost, and a way to end it.

A member sees their organization's; the operator sees everybody's, and the adaptations they asked for.
"""

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from starlette.responses import FileResponse, Response

from tollway.faces.console.confirm import confirmation
from tollway.faces.console.factory import curve
from tollway.faces.console.visit import Visit, currencies
from tollway.flows import adaptations, uploads
from tollway.kit import jobs
from tollway.kit.errors import NotFound, TollwayError
from tollway.kit.jobs import Job
from tollway.sell import accounts, batches, catalog, feedback, files, fine_tuning, usage

KINDS: Final = (fine_tuning.KIND, batches.KIND)
_SHOWN: Final = 200
_EVENTS: Final = 100
_POINTS: Final = 5000


def jobs_page(visit: Visit) -> Response:
    """GET /console/jobs: newest first, of one kind if asked."""
    org_id, wanted = visit.org_id, visit.query.get("kind", "")
    kind = wanted if wanted in _kinds(visit) else None
    with visit.shop.db.read() as conn:
        rows = jobs.list_of(conn, kind, org_id, limit=_SHOWN)
        names = {one.id: one.name for one in accounts.list_organizations(conn)} if org_id is None else {}
        steps = {job.id: _progress(conn, job) for job in rows}
    template = "parts/jobs.html" if visit.is_fragment else "jobs.html"
    return visit.page(
        template, rows=rows, names=names, steps=steps, kinds=_kinds(visit), chosen=kind or "", subject=_subject
    )


def job_page(visit: Visit) -> Response:
    """GET /console/jobs/{job_id}"""
    with visit.shop.db.read() as conn:
        job = _job(visit, conn)
        events = jobs.events(conn, job.id, _EVENTS)
        progress = _progress(conn, job)
        losses = [
            (int(one.data["step"]), float(one.data["train_loss"]))
            for one in reversed(jobs.events(conn, job.id, _POINTS, kind="metrics"))
            if isinstance(one.data.get("train_loss"), int | float)
        ]
        organization = accounts.get_organization(conn, job.org_id) if job.org_id else None
        cost = _cost(visit, conn, job)
    template = "parts/job.html" if visit.is_fragment else "job.html"
    return visit.page(
        template,
        job=job,
        asked=job.asked,
        made=job.made,
        events=events,
        ended=next((one for one in events if one.level == "error"), None) if job.error else None,
        progress=progress,
        loss=curve("loss", losses) if len(losses) > 1 else None,
        organization=organization,
        cost=cost,
        subject=_subject(job),
    )


def cancel(visit: Visit) -> Response:
    """GET, POST /console/jobs/{job_id}/cancel: shows what was done so far, then ends it."""
    with visit.shop.db.write() as conn:
        job = _job(visit, conn)
        if visit.request.method == "POST":
            if job.kind == batches.KIND:
                batches.ask_to_cancel(conn, visit.now_ms, job.org_id, job.id)
            else:
                jobs.ask_to_cancel(conn, visit.now_ms, job.kind, job.org_id, job.id)
            return visit.go(f"/jobs/{job.id}", done="job_cancelled")
        progress = _progress(conn, job)
    facts = [
        (visit.t("job.what"), _subject(job)),
        (visit.t("job.progress"), visit.t("job.of", done=progress[0], total=progress[1])),
    ]
    return confirmation(
        visit, visit.t("confirm.job_cancel.title"), visit.t("confirm.job_cancel.effect"), facts, {},
        visit.t("confirm.job_cancel.yes"), f"/jobs/{job.id}", danger=True,
    )  # fmt: skip


def files_page(visit: Visit) -> Response:
    """GET /console/files"""
    with visit.shop.db.read() as conn:
        rows = files.list_of(conn, str(visit.org_id))
    quota = int(visit.shop.settings.files_bytes_max)
    return visit.page("files.html", rows=rows, used=sum(one.size_bytes for one in rows), quota=quota)


def file_content(visit: Visit) -> Response:
    """GET /console/files/{file_id}/content: as it is, never shown by the browser."""
    with visit.shop.db.read() as conn:
        found = files.get(conn, str(visit.org_id), visit.request.path_params["file_id"])
    headers = {"content-disposition": f'attachment; filename="{found.id}.jsonl"'}
    path = files.path_of(uploads.root_of(visit.shop), found)
    return FileResponse(path, media_type="application/octet-stream", headers=headers)


def delete_file(visit: Visit) -> Response:
    """GET, POST /console/files/{file_id}/delete"""
    file_id, org_id = visit.request.path_params["file_id"], str(visit.org_id)
    if visit.request.method == "POST":
        uploads.delete(visit.shop, org_id, file_id)
        return visit.go("/files", done="file_deleted")
    with visit.shop.db.read() as conn:
        found = files.get(conn, org_id, file_id)
    facts = [(visit.t("file.name"), found.name), (visit.t("file.size"), visit.fmt.size(found.size_bytes))]
    return confirmation(
        visit, visit.t("confirm.file_delete.title"), visit.t("confirm.file_delete.effect"), facts, {},
        visit.t("confirm.file_delete.yes"), "/files", danger=True,
    )  # fmt: skip


def feedback_page(visit: Visit) -> Response:
    """GET /console/feedback: what buyers said, by model, and what is learned of it."""
    with visit.shop.db.read() as conn:
        rows = feedback.tallies(conn)
        asked = jobs.list_of(conn, adaptations.KIND, limit=50)
    open_now = {job.asked["model"] for job in asked if job.open}
    return visit.page("feedback.html", rows=rows, asked=asked, open_now=open_now)


def adapt(visit: Visit) -> Response:
    """POST /console/feedback: train the next version of a model from its corrections."""
    with visit.shop.db.write() as conn:
        job = adaptations.ask(conn, visit.now_ms, visit.field("model"), visit.member.email)
    return visit.go(f"/jobs/{job.id}", done="adaptation_asked")


def _kinds(visit: Visit) -> tuple[str, ...]:
    return (*KINDS, adaptations.KIND) if visit.org_id is None else KINDS


def _job(visit: Visit, conn: sa.Connection) -> Job:
    """The job of the address, if the visitor may see it."""
    job_id = visit.request.path_params["job_id"]
    for kind in _kinds(visit):
        try:
            return jobs.get(conn, kind, job_id, visit.org_id)
        except NotFound:
            continue
    raise NotFound(visit.t("error.no_job"))


def _subject(job: Job) -> str:
    """What it is about."""
    asked: Mapping[str, Any] = job.asked
    return str(asked.get("base") or asked.get("endpoint") or asked.get("model", ""))


def _progress(conn: sa.Connection, job: Job) -> tuple[int, int]:
    """(done, of how many)."""
    if job.kind == batches.KIND:
        made = batches.made_of(job)
        return made.completed + made.failed, batches.order_of(job).lines
    last = jobs.events(conn, job.id, 1, kind="metrics")
    done, total = (int(last[0].data["step"]), int(last[0].data["total_steps"])) if last else (0, 1)
    return (total, total) if job.status == "succeeded" else (done, total)


def _cost(visit: Visit, conn: sa.Connection, job: Job) -> tuple[int, str] | None:
    """What it cost its buyer (picos), and in which currency; None while that is not settled."""
    if job.kind == batches.KIND:
        picos = batches.made_of(job).price_picos
        return None if picos is None else (picos, catalog.currency_of(conn, job.org_id, str(visit.shop.settings.currency)))
    event_id = job.made.get("event_id")
    if not event_id:
        return None
    try:
        event = usage.find_event(conn, event_id)
    except TollwayError:
        return None
    return event.price_picos, currencies(conn)[event.plan_version_id]
