"""`/openapi.json` and `/docs`: the whole API, hot path included, described from the same types that decode it.

The docs page is rendered here and needs nothing from anywhere else.
"""

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import Response

from tollway import __version__
from tollway.faces.console.shown import Shown
from tollway.faces.http import docs_page, made_shapes, spoken_shapes
from tollway.faces.http.answer_shapes import OF_CALL, PARAMETERS, RATE_LIMITS, REQUEST_ID, RETRY_AFTER, SHAPES
from tollway.faces.http.asked import ASKED
from tollway.faces.http.policy import Door

_BODIES = ASKED | spoken_shapes.BODIES
_GENERATES = _BODIES.keys() | spoken_shapes.GENERATES
_TITLES = {
    "/v1/chat/completions": "Answer a conversation",
    "/v1/completions": "Continue a text",
    "/v1/embeddings": "Texts as vectors",
    "/v1/classify": "Classes, numbers or spans for texts, pictures or rows of a table",
    "/v1/detect": "Which objects are where in a picture",
    "/v1/explain": "Which parts of an input made the answer",
    "/v1/rerank": "Documents in the order in which they fit a query",
    "/v1/moderations": "Whether a text is harmful, and in which way",
    "/v1/images/generations": "Pictures made by a model",
    "/v1/recommendations": "The best items for a user",
    "/v1/models": "Models this key may use",
    "/v1/models/{model}": "One model",
    "/v1/key": "What this key may do and has left",
    "/v1/usage": "What this organization used, by day",
}
_ERRORS = {
    "400": "The request is wrong; `param` names the parameter.",
    "401": "No valid API key.",
    "402": "No money or quota left: paying helps, retrying does not.",
    "403": "The key or plan does not allow this.",
    "404": "No such model or URL.",
    "405": "The method is not allowed here.",
    "413": "The body is too large.",
    "429": "A rate limit is reached; see Retry-After.",
    "503": "Cannot be answered now; nothing was billed.",
}
_ONLY_GENERATION = ("402", "413", "429")


def mount(app: FastAPI, doors: list[Door]) -> tuple[list[Door], dict[str, Shown]]:
    """Add `/openapi.json` and `/docs`; returns their doors, and what is to be seen there."""
    described = openapi(app, doors)
    policy = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'"
    # Made once: anybody may ask, and to write it all down anew would take the time of a hundred calls.
    shown = {
        "/openapi.json": Shown(msgspec.json.encode(described), "application/json"),
        "/docs": Shown(docs_page.page(described).encode(), "text/html; charset=utf-8", {"content-security-policy": policy}),
    }

    async def page(request: Request) -> Response:
        return Response(shown[request.url.path].body)  # the house answers before it comes to this

    own = [Door("GET", path, "public", page) for path in shown]
    for door in own:
        app.add_route(door.path, door.endpoint, methods=[door.method], include_in_schema=False)
    return own, shown


def openapi(app: FastAPI, doors: list[Door]) -> dict[str, Any]:
    """OpenAPI 3.1 of `/v1` and `/admin`."""
    described: dict[str, Any] = get_openapi(title="Tollway", version=__version__, routes=app.routes)
    components = described.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    bodies = _BODIES | made_shapes.BODIES
    made, found = msgspec.json.schema_components(list(bodies.values()), ref_template="#/components/schemas/{name}")
    schemas.update(found)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    described["security"] = [{"key": []}]
    paths = described.setdefault("paths", {})
    references = dict(zip(bodies, made, strict=True))
    for door in doors:
        if door.path.startswith("/v1/"):
            paths.setdefault(door.path, {})[door.method.lower()] = _operation(door, _of(references, door))
    for operations in paths.values():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # what does not fit is a 400 here
            operation["responses"]["200"].setdefault("content", {"application/json": {"schema": {}}})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return described


def _operation(door: Door, body: Any) -> dict[str, Any]:
    problem = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    kind = "application/octet-stream" if door.path.endswith("/content") else "application/json"
    content: dict[str, Any] = {kind: {"schema": _of(SHAPES | made_shapes.SHAPES, door)}}
    if door.path in spoken_shapes.CONTENT:
        content = {kind: {"schema": shape} for kind, shape in spoken_shapes.CONTENT[door.path].items()}
    if door.path.endswith("completions"):
        content["text/event-stream"] = {"schema": {"type": "string"}}
    headers = REQUEST_ID | (RATE_LIMITS | OF_CALL if door.path in _GENERATES else {})
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": content, "headers": headers}}
    form = _of(made_shapes.FORMS | spoken_shapes.FORMS, door)
    left_out = set() if door.path in _GENERATES else made_shapes.NOT_HERE.get(door.method, set(_ONLY_GENERATION))
    for status, text in (_ERRORS | ({} if door.path in _GENERATES else made_shapes.ERRORS)).items():
        if status not in left_out:
            more = RETRY_AFTER if status in ("429", "503") else {}
            responses[status] = {"description": text, "headers": REQUEST_ID | more, **problem}
    operation: dict[str, Any] = {
        "tags": ["v1"],
        "summary": _of(_TITLES | spoken_shapes.TITLES | made_shapes.TITLES, door),
        "responses": responses,
    }
    parameters = _of(PARAMETERS | made_shapes.PARAMETERS, door)
    if parameters:
        operation["parameters"] = parameters
    if form is not None:
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _of(table: dict[str, Any], door: Door) -> Any:
    """What a table says of a door, by its method and path or by its path alone."""
    return table.get(f"{door.method} {door.path}", table.get(door.path))
