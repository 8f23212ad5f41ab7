"""`/v1/files`: uploads for fine-tuning and batches, in OpenAI's shape. Checked as a whole before anything is kept; an organization
sees its own and no others."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tollway.faces.http import once, templates
from tollway.faces.http.listing import listing, page_of, query_of, reading
from tollway.faces.http.policy import Door
from tollway.faces.http.wire import Headers, Receive, Scope, Send, header, read_body, send_json
from tollway.flows import uploads
from tollway.flows.gateway import Gateway
from tollway.kit.errors import BadRequest, NotFound, RateLimited, TooLarge
from tollway.sell import files
from tollway.sell.access import Caller
from tollway.sell.file_checks import CHECKS

_AT_ONCE = 8  # an upload is held in memory until it is checked
_AT_ONCE_EACH = 2  # of one organization
_CHECKED_AT_ONCE = 2
_PARTS_MAX = 8
_PIECE = 256 * 1024  # of a download that is in memory at a time
_AROUND = 64 * 1024  # the form's own bytes around the file's


def doors(gateway: Gateway) -> list[Door]:
    """The doors of `/v1/files`."""
    doors = Files(gateway)
    return [
        Door("POST", "/v1/files", "inference", doors.upload),
        Door("GET", "/v1/files", "inference", doors.list_),
        Door("GET", "/v1/files/{file}", "inference", doors.show),
        Door("DELETE", "/v1/files/{file}", "inference", doors.delete),
        Door("GET", "/v1/files/{file}/content", "inference", doors.content),
    ]


class Files:
    """Answers `/v1/files*`."""

    def __init__(self, gateway: Gateway) -> None:
        self._shop, self._root = gateway.shop, uploads.root_of(gateway.shop)
        self._places, self._checking = asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(_CHECKED_AT_ONCE)
        self._sending: Counter[str] = Counter()

    async def upload(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """POST /v1/files: multipart/form-data with `purpose` and `file`."""
        settings = self._shop.settings
        kind = header(scope, b"content-type")
        if not kind.lower().startswith("multipart/form-data"):
            raise BadRequest("Send the file as multipart/form-data.", param="file", code="invalid_content_type")
        async with self._place_of(caller.account.org_id):
            body = await read_body(scope, receive, settings.file_bytes_max + _AROUND)
            async with self._checking:
                fields, name, data = await asyncio.to_thread(parts_of, kind, body)
                del body
                purpose = _purpose_of(fields)
                if data is None:
                    raise BadRequest("There is no file in the form.", param="file", code="missing_file")
                if len(data) > settings.file_bytes_max:
                    raise TooLarge(f"A file may have {settings.file_bytes_max:,} bytes.", param="file")
                # a form has another boundary each time it is sent: what counts is what is in it
                asked = once.asked_of(scope, caller, purpose.encode(), name.encode("utf-8", "replace"), data)
                given = (self._shop, caller.account.org_id, caller.key.id, name, purpose, data)

                async def make(note: once.Note) -> bytes:
                    kept = await asyncio.to_thread(
                        uploads.keep, *given, lambda conn, made: note(conn, msgspec.json.encode(_shown(made)))
                    )
                    return msgspec.json.encode(_shown(kept))

                return await once.answer(self._shop, send, headers, asked, make)

    async def list_(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """GET /v1/files, newest first."""
        asked = query_of(scope, {"purpose", "limit", "after", "order"})
        limit, after = page_of(asked)
        org_id = caller.account.org_id
        found = await reading(self._shop, lambda conn: files.list_of(conn, org_id, asked.get("purpose")))
        if asked.get("order") == "asc":
            found.reverse()
        await send_json(send, 200, listing([_shown(one) for one in found], limit, after), headers)
        return 200

    async def show(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """GET /v1/files/{file}."""
        await send_json(send, 200, msgspec.json.encode(_shown(await self._get(scope, caller))), headers)
        return 200

    async def content(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """GET /v1/files/{file}/content: the bytes as they came, some at a time."""
        found = await self._get(scope, caller)
        try:
            file = await asyncio.to_thread(files.path_of(self._root, found).open, "rb")
        except FileNotFoundError:
            raise NotFound(f"The file {found.id!r} was deleted just now.", code="file_not_found") from None
        with file:
            size_bytes = os.fstat(file.fileno()).st_size
            kind = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % size_bytes)]
            await send({"type": "http.response.start", "status": 200, "headers": [*kind, *headers]})
            left = size_bytes
            while left > 0:
                piece = await asyncio.to_thread(file.read, min(_PIECE, left))
                left = left - len(piece) if piece else 0
                await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
            if not size_bytes:
                await send({"type": "http.response.body", "body": b""})
        return 200

    async def delete(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """DELETE /v1/files/{file}."""
        file_id, org_id = templates.name_in(scope["path"]), caller.account.org_id
        gone = await asyncio.to_thread(uploads.delete, self._shop, org_id, file_id)
        await send_json(send, 200, msgspec.json.encode({"id": gone.id, "object": "file", "deleted": True}), headers)
        return 200

    @asynccontextmanager
    async def _place_of(self, org_id: str) -> AsyncIterator[None]:
        """A place to send a file from: few for each organization, so that one who sends slowly keeps no other waiting.
        Raises RateLimited."""
        if self._sending[org_id] >= _AT_ONCE_EACH:
            raise RateLimited(
                f"This organization sends {_AT_ONCE_EACH} files already.",
                code="too_many_uploads",
                hint="Send them one after the other.",
                retry_after_s=1,
            )
        self._sending[org_id] += 1
        try:
            async with self._places:
                yield
        finally:
            self._sending[org_id] -= 1
            if not self._sending[org_id]:
                del self._sending[org_id]

    async def _get(self, scope: Scope, caller: Caller) -> files.StoredFile:
        file_id, org_id = templates.name_in(scope["path"]), caller.account.org_id
        return await reading(self._shop, lambda conn: files.get(conn, org_id, file_id))


def _purpose_of(fields: dict[str, str]) -> str:
    strange = fields.keys() - {"purpose"}
    if strange:
        name = min(strange)[:80]
        raise BadRequest(f"Unknown parameter: {name!r}.", param=name, code="unknown_parameter")
    purpose = fields.get("purpose", "")
    if purpose not in CHECKS:
        raise BadRequest(f"`purpose` must be one of {', '.join(CHECKS)}.", param="purpose", code="invalid_value")
    return purpose


def parts_of(content_type: str, body: bytes) -> tuple[dict[str, str], str, bytes | None]:
    """(fields, file name, file bytes) of a form. Raises BadRequest for what is none."""
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # each broken form would be a line of our log
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary or len(boundary) > 200:
        raise BadRequest("The form has no boundary.", param="file", code="invalid_form")
    reader = _Reader()
    parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type]
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise BadRequest(f"The form is not valid: {str(error)[:120]}.", param="file", code="invalid_form") from None
    return reader.result()


class _Reader:
    """Collects the parts of a form."""

    def __init__(self) -> None:
        self._parts: list[tuple[dict[str, str], bytearray]] = []
        self._name, self._value = bytearray(), bytearray()

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_part_data": lambda data, start, end: self._parts[-1][1].extend(data[start:end]),
        }

    def _begin(self) -> None:
        if len(self._parts) >= _PARTS_MAX:
            raise BadRequest("The form has too many parts.", param="file", code="invalid_form")
        self._parts.append(({}, bytearray()))

    def _header(self) -> None:
        name, value = self._name.decode("latin-1").lower(), self._value.decode("latin-1")
        self._parts[-1][0][name] = value
        self._name.clear()
        self._value.clear()

    def result(self) -> tuple[dict[str, str], str, bytes | None]:
        from python_multipart.multipart import parse_options_header

        fields: dict[str, str] = {}
        file_name, data = "upload.jsonl", None
        for headers, content in self._parts:
            try:  # bytes pass through as latin-1 and are read as UTF-8 below; what is beyond both is no header
                _, options = parse_options_header(headers.get("content-disposition", ""))
            except UnicodeError:
                raise BadRequest("A part's header cannot be read.", param="file", code="invalid_form") from None
            name = options.get(b"name", b"").decode("utf-8", "replace")
            if name == "file":
                if data is not None:
                    raise BadRequest("Send one file at a time.", param="file", code="invalid_form")
                file_name = options.get(b"filename", b"upload.jsonl").decode("utf-8", "replace")
                data = bytes(content)
            elif name in fields or len(content) > 1000:
                raise BadRequest(f"The field {name[:40]!r} cannot be read.", param=name[:80], code="invalid_form")
            else:
                fields[name] = content.decode("utf-8", "replace")
        return fields, file_name, data


def _shown(file: files.StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.created_ms // 1000,
        "expires_at": None,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
