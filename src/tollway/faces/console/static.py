"""The console's own scripts, styles, icons and one recording, read once at start, served from memory with their digest as version."""

from functools import cache
from pathlib import Path
from typing import Any, Final

from starlette.responses import Response

from tollway.faces.console.fence import HEADERS
from tollway.faces.console.shown import Shown
from tollway.kit.errors import NotFound

PLACE: Final = "/console/static/"
_FOLDER: Final = Path(__file__).parent / "static"
_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml; charset=utf-8",
    ".wav": "audio/wav",
}  # fmt: skip


@cache
def files() -> dict[str, Shown]:
    """By path below static/. Only these can be asked for: there is no path to escape by."""
    fence = {name: value for name, value in HEADERS.items() if name != "cache-control"}
    return {
        path.relative_to(_FOLDER).as_posix(): Shown(path.read_bytes(), _TYPES[path.suffix], fence)
        for path in sorted(_FOLDER.rglob("*"))
        if path.suffix in _TYPES
    }


def address(name: str) -> str:
    """The address of a file, changing whenever its content does."""
    return f"{PLACE}{name}?v={files()[name].digest}"


def file(visit: Any) -> Response:
    """GET /console/static/…"""
    found = files().get(visit.request.path_params["name"])
    if found is None:
        raise NotFound(visit.t("error.not_found"))
    asked = visit.request.headers
    status, headers, body = found.answer(
        asked.get("if-none-match", ""), asked.get("accept-encoding", ""), visit.query.get("v", "")
    )
    answer = Response(body, status)
    answer.raw_headers = list(headers)
    return answer
