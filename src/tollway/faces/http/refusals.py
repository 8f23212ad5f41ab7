"""Errors outside the hot path, said exactly as `/v1` says them: one shape, whichever part of the house refuses."""

from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tollway.faces.http.wire import error_body, error_headers
from tollway.kit import log
from tollway.kit.errors import BadRequest, TollwayError

_log = log.get("faces.http")
_CODES = {"extra_forbidden": "unknown_parameter", "json_invalid": "invalid_json"}


def install(app: FastAPI) -> None:
    """Teach an app to refuse in our shape."""

    async def told(_request: Request, error: Exception) -> Response:
        assert isinstance(error, TollwayError)
        return answer(error)

    async def misused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        phrase = HTTPStatus(error.status_code).phrase.lower()
        refusal = BadRequest(f"{request.method} {request.url.path[:80]!r}: {phrase}.", code=phrase.replace(" ", "_"))
        refusal.status = error.status_code
        return answer(refusal, dict(error.headers or {}))

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = [str(part) for part in first["loc"][1:]]
        param = None if first["type"] == "json_invalid" else ".".join(where)[:120] or None
        message = f"Invalid value for {param or 'the body'}: {first['msg']}."[:300]
        return answer(BadRequest(message, param=param, code=_CODES.get(first["type"], "invalid_value")))

    async def broken(request: Request, error: Exception) -> Response:
        _log.error("unexpected", path=request.url.path[:80], error=type(error).__name__)
        return answer(TollwayError("Something went wrong on our side."))

    for kind, handler in ((TollwayError, told), (HTTPException, misused), (RequestValidationError, invalid)):
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(Exception, broken)


def answer(error: TollwayError, headers: dict[str, str] | None = None) -> Response:
    """An error as a response."""
    said = {name.decode(): value.decode() for name, value in error_headers(error)}
    return Response(error_body(error), error.status, {**said, **(headers or {})}, "application/json")
