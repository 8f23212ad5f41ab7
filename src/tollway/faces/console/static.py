"""The console's own scripts, styles and icons, read once at start and served from memory with their digest as version."""

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Final

from starlette.responses import Response

from tollway.kit.errors import NotFound

_FOLDER: Final = Path(__file__).parent / "static"
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_FOREVER: Final = "public, max-age=31536000, immutable"


@cache
def _files() -> dict[str, tuple[bytes, bytes, str]]:
    """Path below static/ -> (bytes, gzipped bytes, digest). Only these can be asked for: there is no path to escape by."""
    found = {}
    for path in sorted(_FOLDER.rglob("*")):
        if path.suffix in _TYPES:
            raw = path.read_bytes()
            packed = gzip.compress(raw, 9, mtime=0)
            found[path.relative_to(_FOLDER).as_posix()] = (raw, packed, hashlib.sha256(raw).hexdigest()[:12])
    return found


def address(name: str) -> str:
    """The address of a file, changing whenever its content does."""
    return f"/console/static/{name}?v={_files()[name][2]}"


def file(visit: Any) -> Response:
    """GET /console/static/…"""
    name = visit.request.path_params["name"]
    if name not in _files():
        raise NotFound(visit.t("error.not_found"))
    raw, packed, digest = _files()[name]
    headers = {"etag": f'"{digest}"', "vary": "accept-encoding"}
    headers["cache-control"] = _FOREVER if visit.query.get("v") == digest else "no-cache"
    if visit.request.headers.get("if-none-match") == f'"{digest}"':
        return Response(status_code=304, headers=headers)
    if "gzip" in visit.request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        raw = packed
    media_type = _TYPES[Path(name).suffix]
    return Response(raw, media_type=media_type, headers=headers)
