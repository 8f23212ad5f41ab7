"""A small HTTP server for one device, on the loopback unless told otherwise: the shop's doors that a device has.

POST /v1/classify, /v1/embeddings       as in the shop, without a key
GET  /health, /v1/usage                 whether it answers; what it counted and sent
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from tollway.edge.device import Device
from tollway.kit.errors import BadRequest, NotFound, TollwayError, TooLarge

BODY_BYTES_MAX: Final = 8 * 1024 * 1024
_TIMEOUT_S: Final = 30


def serve(device: Device, host: str, port: int) -> ThreadingHTTPServer:
    """A server that listens; call `serve_forever`."""

    class Handler(_Handler):
        owner = device

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    owner: Device
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        log = self.owner.log
        try:
            if self.path == "/health":
                self._answer(200, {"status": "ok", "model": self.owner.model})
            elif self.path == "/v1/usage":
                counted = sum(1 for _ in log.entries())
                self._answer(200, {"object": "usage", "entries": counted, "synced": log.synced()})
            else:
                raise NotFound(f"There is no {self.path[:80]!r} here.", code="unknown_url")
        except TollwayError as error:
            self._refuse(error)

    def do_POST(self) -> None:
        try:
            asked = self._body()
            if self.path == "/v1/classify":
                told = self.owner.classify(asked.get("input"), asked.get("top_k"))
            elif self.path == "/v1/embeddings":
                told = self.owner.embed(asked.get("input"), asked.get("encoding_format") or "float")
            else:
                raise NotFound(f"There is no {self.path[:80]!r} here.", code="unknown_url")
            self._answer(200, told)
        except TollwayError as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - the last wall: its text may quote an input, so only its kind is told
            self.log_error("unexpected %s", type(error).__name__)
            self._refuse(TollwayError(f"Something went wrong ({type(error).__name__})."))

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()) or len(length) > 9 or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            raise TooLarge(f"A body has a content-length of at most {BODY_BYTES_MAX:,} bytes.")
        try:
            asked = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise BadRequest("The body is not valid JSON.", code="invalid_json") from None
        known = {"model", "input", "top_k", "encoding_format", "user"}
        if not isinstance(asked, dict) or asked.keys() - known:
            strange = min(asked.keys() - known, default=None) if isinstance(asked, dict) else None
            raise BadRequest(f"Known parameters: {', '.join(sorted(known))}.", code="unknown_parameter", param=strange)
        top_k = asked.get("top_k")
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise BadRequest("`top_k` is a whole number from 1.", code="invalid_value", param="top_k")
        if asked.get("encoding_format") not in (None, "float", "base64"):
            raise BadRequest("`encoding_format` is float or base64.", code="invalid_value", param="encoding_format")
        return asked

    def _refuse(self, error: TollwayError) -> None:
        self._answer(error.status, {"error": error.shown()})

    def _answer(self, status: int, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *words: Any) -> None:
        """Requests are not logged: they could quote what was asked."""
