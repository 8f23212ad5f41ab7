"""The factory in the console: which data there is, which runs were made of it, how each went and what it made.

Everything here is read from the home's folders, as `tollway dataset` and `tollway run` read them; runs are started on
the command line, where their progress and their checkpoints are at hand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.responses import Response

from tollway.faces.console.visit import Visit
from tollway.flows import workshop
from tollway.kit.errors import NotFound

_WIDTH, _HEIGHT = 320, 96
_POINTS = 400
_REPORT_CSP = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:"


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure over the steps of a run, as the path of a small drawing, with the ends written out."""

    name: str
    path: str
    first: float
    last: float
    least: float
    most: float
    steps: int


def runs(visit: Visit) -> Response:
    """GET /console/runs: newest first; looked at again every few seconds while one is running."""
    found = list(reversed(_runs(visit).list()))
    template = "parts/runs.html" if visit.is_fragment else "runs.html"
    return visit.page(template, rows=found)


def run(visit: Visit) -> Response:
    """GET /console/runs/{run_id}"""
    every = _runs(visit)
    record = every.get(visit.request.path_params["run_id"])
    events = every.events(record)
    template = "parts/run.html" if visit.is_fragment else "run.html"
    seconds, cost_micros, energy_wh = record.so_far(visit.now_ms)
    return visit.page(
        template,
        run=record,
        seconds=seconds,
        cost_micros=cost_micros,
        energy_wh=energy_wh,
        curves=curves(events),
        progress=_progress(events) if record.alive_state == "running" else None,
        notes=[event for event in events if event["kind"] in ("note", "warning")][-12:],
        figures={name: value for name, value in record.metrics.items() if type(value) in (int, float)},
        has_report=any(every.folder(record).glob("report*.html")),
        recipe=(every.folder(record) / "recipe.toml").read_text(encoding="utf-8"),
    )


def report(visit: Visit) -> Response:
    """GET /console/runs/{run_id}/report: the run's own page, shut in a sandbox: it may draw, and nothing else."""
    every = _runs(visit)
    record = every.get(visit.request.path_params["run_id"])
    path = _in_language(visit, every.folder(record))
    return Response(path.read_bytes(), media_type="text/html", headers={"content-security-policy": _REPORT_CSP})


def datasets(visit: Visit) -> Response:
    """GET /console/datasets: the newest version of each, with how many there are."""
    newest: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for version in _shelf(visit).list():
        counts[version.name] = counts.get(version.name, 0) + 1
        newest[version.name] = version
    return visit.page("datasets.html", rows=list(newest.values()), counts=counts)


def dataset(visit: Visit) -> Response:
    """GET /console/datasets/{ref}: columns, splits, where it came from, its card."""
    found = _shelf(visit).get(visit.request.path_params["ref"])
    card = found.folder / "card.md"
    versions = [one for one in _shelf(visit).list() if one.name == found.name]
    return visit.page(
        "dataset.html",
        found=found,
        versions=versions,
        card=card.read_text(encoding="utf-8") if card.is_file() else "",
        has_report=any(found.folder.glob("report*.html")),
    )


def dataset_report(visit: Visit) -> Response:
    """GET /console/datasets/{ref}/report"""
    path = _in_language(visit, _shelf(visit).get(visit.request.path_params["ref"]).folder)
    return Response(path.read_bytes(), media_type="text/html", headers={"content-security-policy": _REPORT_CSP})


def _in_language(visit: Visit, folder: Path) -> Path:
    """A report in the visitor's language, else as it was written. Raises NotFound."""
    for name in (f"report.{visit.lang}.html", "report.html", *sorted(one.name for one in folder.glob("report.*.html"))):
        if (folder / name).is_file():
            return folder / name
    raise NotFound(visit.t("error.no_report"))


def curves(events: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """One curve for every figure that was written down over steps."""
    series: dict[str, list[tuple[int, float]]] = {}
    for event in events:
        if event["kind"] == "metric" and event.get("at") is not None and isinstance(event["value"], (int, float)):
            series.setdefault(str(event["name"]), []).append((int(event["at"]), float(event["value"])))
    return [curve(name, points) for name, points in series.items() if len(points) > 1]


def curve(name: str, points: list[tuple[int, float]]) -> Curve:
    """Where the steps begin again (another member, another trial) another line begins."""
    every = max(1, len(points) // _POINTS)
    shown = [*points[::every], points[-1]]
    values = [value for _, value in points]
    least, most = min(values), max(values)
    start = min(at for at, _ in points)
    span = max(1, max(at for at, _ in points) - start)
    height = (most - least) or 1.0
    path, before = [], float("inf")
    for at, value in shown:
        across, down = (at - start) / span * _WIDTH, _HEIGHT - (value - least) / height * (_HEIGHT - 4) - 2
        path.append(f"{'L' if at >= before else 'M'}{across:.1f} {down:.1f}")
        before = at
    return Curve(name, "".join(path), values[0], values[-1], least, most, points[-1][0])


def _progress(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The last word of the step in work."""
    return next((event for event in reversed(events) if event["kind"] == "progress"), None)


def _runs(visit: Visit) -> Any:
    return workshop.runs(visit.shop.settings.home, visit.shop.clock)


def _shelf(visit: Visit) -> Any:
    return workshop.datasets(visit.shop.settings.home, visit.shop.clock)
