"""One call into an engine: send it, pass on what comes, and keep the tally of what was used.

`Tally` is the service line's own record of use: the engine's counts, its own share of engine time, and, where an
upstream never reports usage, an honest estimate that says it is one. None is not zero: a count that never came stays None.
"""

import base64
import re
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec

from tollway.kit.errors import BadRequest, TollwayError, Unavailable
from tollway.serve.engine_time import EngineTime, Stint
from tollway.serve.line import Seat
from tollway.serve.quarantine import Guest, Life
from tollway.serve.requests import EngineCall
from tollway.serve.wire import Answer

_TIMINGS = b',"timings":{'
_DONE = b"[DONE]"
_NO_TEXT = re.compile(rb'"content": ?(?:""|null)|"delta": ?\{\}')  # what opens or ends a stream
_OTHER_TEXT = re.compile(rb'"tool_calls": ?\[|"reasoning(?:_content)?": ?"[^"]')
_OUR_CODES = ("invalid_audio", "audio_too_long")  # of our own engines, for callers to tell apart
_PAGE = re.compile(rb'\s*(?:\{\s*"|<(?:!doctype|html|\?xml))', re.IGNORECASE)  # an error, or a proxy's page: no sound
_STARTS = {"audio/wav": b"RIFF", "audio/flac": b"fLaC", "audio/ogg": b"OggS"}
_PARTS = {"/chat/completions": "choices", "/completions": "choices", "/embeddings": "data", "/classify": "data",
          "/images/generations": "data"}  # fmt: skip
_EVENT_BYTES_MAX = 4 * 1024 * 1024


_Tokens = Annotated[int, msgspec.Meta(ge=0)]


class _Details(msgspec.Struct):
    cached_tokens: _Tokens | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Tokens
    completion_tokens: _Tokens = 0
    prompt_tokens_details: _Details | None = None


class _WithUsage(msgspec.Struct):
    usage: _Usage | None = None


class _Outline(msgspec.Struct):
    choices: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    data: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    error: Any | msgspec.UnsetType = msgspec.UNSET
    usage: msgspec.Raw = msgspec.Raw(b"null")


class _Timings(msgspec.Struct):
    cache_n: int = 0
    prompt_n: int = 0
    predicted_n: int = 0


_decode_usage = msgspec.json.Decoder(_WithUsage).decode
_decode_outline = msgspec.json.Decoder(_Outline).decode
_decode_told: msgspec.json.Decoder[_Usage | None] = msgspec.json.Decoder(_Usage | None)
_decode_loosely = msgspec.json.Decoder(dict[str, Any] | None).decode
_decode_timings = msgspec.json.Decoder(_Timings).decode


class Tally(msgspec.Struct):
    """What one engine call used. `input_tokens` excludes `cached_tokens`."""

    stint: Stint | None = None
    usage: _Usage | None = None
    timings: bytes = b""
    pieces: int = 0
    first_piece_at: float | None = None  # monotonic
    prefill_us: int = 0
    decode_us: int = 0
    time: EngineTime | None = None
    version: str = ""
    sat_at: float = 0.0  # monotonic
    life: Life = (0, 0)  # of the replica that it was in
    guest: Guest | None = None  # when the request is marked

    def counts(self, input_bound: int) -> tuple[int, int, int]:
        """(input, cached, output) tokens: the engine's final word, else its last word before we were cut off, else an
        estimate (one token a piece; a quarter of the input's bytes)."""
        if self.usage is not None:
            usage, details = self.usage, self.usage.prompt_tokens_details
            cached = (details.cached_tokens or 0) if details is not None else 0
            if cached > usage.prompt_tokens:
                cached = usage.prompt_tokens
            return usage.prompt_tokens - cached, cached, usage.completion_tokens
        if self.timings:
            seen = _decode_timings(self.timings)
            return seen.prompt_n, seen.cache_n, seen.predicted_n
        if self.pieces:
            return max(1, input_bound // 4), 0, self.pieces
        return 0, 0, 0


async def relay(seat: Seat, call: EngineCall, tally: Tally) -> AsyncIterator[list[bytes]]:
    """Run a streamed call. Yields the JSON of its events as they arrive, without usage and without the engine's own
    timings. Leaving early stops the generation. Raises BadRequest, Unavailable, WireError."""
    async with seat.pool.stream(seat.prefix + call.path, call.body) as answer:
        if answer.status != 200:
            raise refusal_of(answer.status, await answer.body())
        async for events in _events(answer):
            kept = [piece for event in events if (piece := _note(seat, tally, event))]
            if kept:
                yield kept


async def once(seat: Seat, call: EngineCall, tally: Tally) -> bytes:
    """Run a call that is answered in one piece; the engine's JSON, untouched. A file of sound comes as the JSON that our own
    engines answer with."""
    reply = await seat.pool.post(seat.prefix + call.path, call.body, call.kind)
    if reply.status != 200:
        raise refusal_of(reply.status, reply.body)
    try:
        if call.sound:
            return _sound_of(reply.body, call.sound, tally)
        if seat.time is not None:
            tally.usage = _usage_of(reply.body)
        else:  # an engine of our own writes what can be read; an upstream's answer is looked through
            found = _decode_outline(reply.body)
            _require_answer(call.path, found)
            tally.usage = _strangers_usage(found.usage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_answer() from error
    tally.pieces = 1
    return reply.body


def _require_answer(path: str, found: _Outline) -> None:
    """Raise Unavailable for what is no answer though it says 200: an error object, or something else altogether."""
    if found.error is not msgspec.UNSET and found.error is not None:
        raise invalid_answer()
    part = _PARTS.get(path)
    if part is not None and getattr(found, part) is msgspec.UNSET:
        raise invalid_answer()


def _sound_of(body: bytes, kind: str, tally: Tally) -> bytes:
    """A file of sound in JSON. Raises Unavailable for what is none: somebody pays for it."""
    if not body or _PAGE.match(body) or not body.startswith(_STARTS.get(kind, b"")):
        raise invalid_answer()
    tally.usage, tally.pieces = _Usage(0), 1
    return msgspec.json.encode({"audio": base64.b64encode(body).decode("ascii"), "content_type": kind})


def _strangers_usage(raw: bytes) -> _Usage | None:
    """What an upstream says of usage. Each of its doors counts in words of its own: pictures `input_tokens`, rankings a
    total, recordings seconds. None where no tokens are named."""
    try:
        return _decode_told.decode(raw)
    except msgspec.ValidationError:
        told = _decode_loosely(raw) or {}
    read = next(
        (told[name] for name in ("prompt_tokens", "input_tokens", "total_tokens") if _counts(told.get(name))), None
    )
    written = next((told[name] for name in ("completion_tokens", "output_tokens") if _counts(told.get(name))), 0)
    return None if read is None else _Usage(read, written)


def _counts(told: Any) -> bool:
    return type(told) is int and told >= 0


def _usage_of(body: bytes) -> _Usage | None:
    """The usage of a whole answer. It stands at the end of most: a long list of numbers before it need not be read."""
    at = body.rfind(b',"usage":{')
    if at > 0:
        try:
            return _decode_usage(b"{" + body[at + 1 :]).usage
        except msgspec.DecodeError:
            pass  # it does not end there
    return _decode_usage(body).usage


async def _events(answer: Answer) -> AsyncIterator[list[bytes]]:
    """The `data:` payloads of a server-sent event stream, in groups as they arrive; comments are skipped."""
    rest = b""
    async for chunk in answer.chunks():
        *blocks, rest = (rest + chunk).split(b"\n\n")
        if len(rest) > _EVENT_BYTES_MAX:
            raise Unavailable("The engine sent an event larger than 4 MiB.", code="engine_failed")
        events = [block[6:] for block in blocks if block.startswith(b"data: ")]
        if events:
            yield events


def _note(seat: Seat, tally: Tally, event: bytes) -> bytes:
    """Take from an event what is ours; what remains goes to the caller (nothing of it: b"")."""
    if event == _DONE:
        return b""
    at = event.rfind(_TIMINGS)
    if at > 0 and event.endswith(b"}}"):
        tally.timings = event[at + len(_TIMINGS) - 1 : -1]
        event = event[:at] + b"}"
    if event.startswith(b'{"error"'):
        raise refusal_of(500, event)
    if b'"usage":{' in event:
        try:
            ours = seat.time is not None
            told = _decode_usage(event).usage if ours else _strangers_usage(_decode_outline(event).usage)
            tally.usage = told or tally.usage
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise invalid_answer() from error
        if b'"choices":[]' in event:
            return b""
    if tally.first_piece_at is None:
        tally.first_piece_at = now = time.monotonic()
        if seat.time is not None and tally.stint is not None:
            seat.time.first_token(tally.stint, now)
    if tally.timings or not _NO_TEXT.search(event) or _OTHER_TEXT.search(event):
        tally.pieces += 1
    return event


def invalid_answer() -> Unavailable:
    """What an engine said cannot be read."""
    return Unavailable("The engine gave an answer that is not valid.", code="engine_failed")


def refusal_of(status: int, body: bytes) -> TollwayError:
    """An engine's error as ours. What the caller did wrong is said; what is wrong inside is not."""
    try:
        error: Any = msgspec.json.decode(body).get("error")
    except (msgspec.DecodeError, AttributeError):
        error = None
    told = error if isinstance(error, dict) else {}
    message = str(told.get("message", ""))[:300]
    if told.get("type") == "exceed_context_size_error" or told.get("code") == "context_length_exceeded":
        return BadRequest(
            message or "The prompt is longer than the model's context.",
            code="context_length_exceeded",
            param="messages",
            hint="Shorten the prompt.",
        )
    if "too large to process" in message:  # an encoder reads each text whole
        return BadRequest(
            "A text is longer than this model's context.",
            code="context_length_exceeded",
            param="input",
            hint="Shorten or split it.",
        )
    if status in (400, 413, 422):
        param = str(told["param"])[:120] if told.get("param") else None
        code = str(told["code"]) if told.get("code") in _OUR_CODES else "engine_refused"
        return BadRequest(message or "The engine refused this request.", code=code, param=param)
    if status == 501:
        return BadRequest("This model does not offer that operation.", code="unsupported_operation", param="model")
    if told.get("code") == "late":
        return Unavailable("The call could not be begun in the time that it had.", code="overloaded", retry_after_s=1)
    if status == 499:
        return BadRequest("The caller left before the call began.", code="left")
    if status == 429:
        return Unavailable("The engine is busy.", code="engine_busy", retry_after_s=2, hint="Try again shortly.")
    return Unavailable("The engine could not answer; nothing was billed.", code="engine_failed", hint="Try again.")
