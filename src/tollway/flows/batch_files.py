"""What a buyer sends and gets of a batch: a file of calls, one a line; a file of answers, and one of errors, as OpenAI has them.

    {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {…}}                                          a call
    {"id": "batch_req_…", "custom_id": "a", "response": {"status_code": 200, …, "body": {…}}, "error": null}       its answer
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from tollway.flows.batch_journal import Entry, Journal
from tollway.kit.errors import TollwayError
from tollway.sell.batches import code_of

_CHUNK: Final = 500


class BatchLine(msgspec.Struct):
    """One call of the input file."""

    custom_id: str
    body: msgspec.Raw


class Rest(msgspec.Struct, frozen=True):
    """The calls of an expired batch, of which those without an answer get an error that says what they waited for."""

    path: Path
    why: str


class _Named(msgspec.Struct):
    model: str


_line = msgspec.json.Decoder(BatchLine)
_named = msgspec.json.Decoder(_Named)


def lines(path: Path) -> Iterator[tuple[int, BatchLine]]:
    """The calls of a checked file, numbered."""
    number = 0
    with path.open("rb") as file:
        for text in file:
            if text.strip():
                yield number, _line.decode(text)
                number += 1


async def read(path: Path) -> AsyncIterator[tuple[int, BatchLine]]:
    """The same, read in a thread some at a time."""
    left = lines(path)
    while some := await asyncio.to_thread(lambda: list(itertools.islice(left, _CHUNK))):
        for one in some:
            yield one


def models_of(path: Path) -> set[str]:
    """The models that a checked file calls."""
    return {_named.decode(line.body).model for _, line in lines(path)}


def row(call_id: str, line: BatchLine, status: int, body: Any) -> dict[str, Any]:
    """A call's answer."""
    response = {"status_code": status, "request_id": f"req_{call_id}", "body": body}
    return {"id": f"batch_req_{call_id}", "custom_id": line.custom_id, "response": response, "error": None}


def refused(call_id: str, line: BatchLine, error: TollwayError) -> dict[str, Any]:
    """The answer to a call that was not let in, or that nothing could answer."""
    return row(call_id, line, error.status, {"error": error.shown()})


def write(folder: Path, job_id: str, journal: Journal, expired: Rest | None) -> dict[str, tuple[Path, int]]:
    """The output and error files, durable beside the journal; only those that have lines."""
    counts = {"output": 0, "error": 0}
    open_files = {name: (folder / f"{name}.jsonl").open("wb") for name in counts}
    try:

        def put(name: str, made: bytes) -> None:
            counts[name] += 1
            open_files[name].write(made + b"\n")

        for entry in _once(journal):
            put("output" if entry.good else "error", bytes(entry.row))
        if expired is not None:
            for number, line in lines(expired.path):
                if number not in journal.lines:
                    put("error", msgspec.json.encode(_expired(code_of(job_id, str(number)), line, expired.why)))
        for file in open_files.values():
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in open_files.values():
            file.close()
    return {name: (folder / f"{name}.jsonl", count) for name, count in counts.items() if count}


def _once(journal: Journal) -> Iterator[Entry]:
    """Each line's first answer."""
    seen: set[int] = set()
    for entry in journal.entries():
        if entry.line not in seen:
            seen.add(entry.line)
            yield entry


def _expired(call_id: str, line: BatchLine, why: str) -> dict[str, Any]:
    message = f"This request could not be executed before the batch expired. {why}".rstrip()
    error = {"code": "batch_expired", "message": message}
    return {"id": f"batch_req_{call_id}", "custom_id": line.custom_id, "response": None, "error": error}
