"""`/v1/audio/transcriptions` and `/v1/audio/speech`, in OpenAI's shapes: a form with a recording in, a file of sound out."""

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tollway.faces.http import call_headers
from tollway.faces.http.files import parts_of
from tollway.faces.http.policy import Door
from tollway.faces.http.wire import (
    Departure,
    Headers,
    Receive,
    Scope,
    Send,
    decode,
    header,
    read_body,
    send_json,
    timeout_of,
)
from tollway.flows.answer import answer_whole, open_call
from tollway.flows.gateway import Gateway
from tollway.kit.crash import crashpoint
from tollway.kit.delays import Delays
from tollway.kit.errors import BadRequest, RateLimited, TooLarge, Unavailable
from tollway.sell.access import Caller
from tollway.serve.requests import SpeechRequest, TranscriptionRequest

_AROUND = 64 * 1024  # the form's own bytes around the recording's
_AT_ONCE = 16  # recordings in memory at the same time
_AT_ONCE_EACH = 8  # of one organization: whoever sends many, or slowly, leaves as many places to the others
_TEXT = "text/plain; charset=utf-8"
_LISTS = {"timestamp_granularities[]": "timestamp_granularities", "timestamp_granularities": "timestamp_granularities"}


def doors(gateway: Gateway) -> list[Door]:
    """The doors of `/v1/audio`."""
    doors = Audio(gateway)
    return [
        Door("POST", "/v1/audio/transcriptions", "inference", doors.transcribe),
        Door("POST", "/v1/audio/speech", "inference", doors.speak),
    ]


class Audio:
    """Answers `/v1/audio/*`."""

    def __init__(self, gateway: Gateway) -> None:
        self._service, self._settings = gateway.service, gateway.shop.settings
        self._hearing: Counter[str] = Counter()  # recordings of each organization
        self._departures = Delays(Departure.AFTER_S)
        self._decoder = msgspec.json.Decoder(SpeechRequest)

    async def transcribe(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """POST /v1/audio/transcriptions: multipart/form-data with `model` and `file`."""
        kind = header(scope, b"content-type")
        if not kind.lower().startswith("multipart/form-data"):
            raise BadRequest("Send the recording as multipart/form-data.", param="file", code="invalid_content_type")
        limit = self._settings.audio_bytes_max
        async with self._place_of(caller.account.org_id):
            body = await read_body(scope, receive, limit + _AROUND)
            fields, _, recording = await asyncio.to_thread(parts_of, kind, body)
            del body
            if recording is None:
                raise BadRequest("There is no file in the form.", param="file", code="missing_file")
            if len(recording) > limit:
                raise TooLarge(f"A recording may have {limit:,} bytes.", param="file", hint="Cut or compress it.")
            request = _transcription(fields, recording)
            async with Departure(receive, self._departures) as departure:
                call = await open_call(self._service, caller, request, call_id, timeout_s=timeout_of(scope))
                headers += self._service.access.rate_headers(caller)
                told = msgspec.json.decode(await answer_whole(call))
                content_type, shown = rendered(told, request.response_format)
                await _send(send, content_type, shown, headers + call_headers.of(call))
                crashpoint("answer.after_last_byte")
        return 499 if departure.gone else 200

    async def speak(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """POST /v1/audio/speech: JSON in, a file of sound out."""
        body = await read_body(scope, receive, self._settings.body_bytes_max)
        request: SpeechRequest = decode(self._decoder, body)
        call = await open_call(self._service, caller, request, call_id, timeout_s=timeout_of(scope))
        headers += self._service.access.rate_headers(caller)
        async with Departure(receive, self._departures) as departure:
            told = msgspec.json.decode(await answer_whole(call))
            headers += call_headers.of(call)
            await _send(send, told["content_type"], base64.b64decode(told["audio"]), headers)
            crashpoint("answer.after_last_byte")
        return 499 if departure.gone else 200

    @asynccontextmanager
    async def _place_of(self, org_id: str) -> AsyncIterator[None]:
        """A place to send a recording from. Raises Unavailable, RateLimited."""
        if self._hearing.total() >= _AT_ONCE:
            raise Unavailable("Many recordings are being heard already.", code="overloaded", retry_after_s=2)
        if self._hearing[org_id] >= _AT_ONCE_EACH:
            raise RateLimited(
                f"{_AT_ONCE_EACH} recordings of this organization are being heard already.",
                code="too_many_recordings",
                hint="Send fewer at the same time.",
                retry_after_s=2,
            )
        self._hearing[org_id] += 1
        try:
            yield
        finally:
            self._hearing[org_id] -= 1
            if not self._hearing[org_id]:
                del self._hearing[org_id]


async def _send(send: Send, content_type: str, body: bytes, headers: Headers) -> None:
    if content_type == "application/json":
        await send_json(send, 200, body, headers)
        return
    head = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})


def _transcription(fields: dict[str, str], recording: bytes) -> TranscriptionRequest:
    """A form as a request. Raises BadRequest naming the field."""
    given: dict[str, Any] = {}
    for name, value in fields.items():
        if name in _LISTS:
            given[_LISTS[name]] = [one.strip() for one in value.split(",") if one.strip()]
        elif name == "temperature":
            given[name] = _number(name, value)
        elif name == "stream":
            if value.lower() not in ("false", "0", ""):
                raise BadRequest("Transcriptions come in one piece.", param=name, code="unsupported_parameter")
        elif name in ("recording", "seconds"):
            raise BadRequest(f"Unknown parameter: {name!r}.", param=name, code="unknown_parameter")
        else:
            given[name] = value
    request: TranscriptionRequest = decode(_TRANSCRIPTION, msgspec.json.encode(given))
    request.recording = recording
    return request


_TRANSCRIPTION = msgspec.json.Decoder(TranscriptionRequest)


def _number(name: str, value: str) -> float:
    try:
        return float(value[:20])
    except ValueError:
        raise BadRequest(f"`{name}` must be a number.", param=name, code="invalid_value") from None


def rendered(told: dict[str, Any], form: str) -> tuple[str, bytes]:
    """What was heard, as the caller wants to read it: content type and bytes."""
    segments, seconds = told["segments"], told["usage"]["audio_seconds"]
    if form == "text":
        return _TEXT, (told["text"] + "\n").encode()
    if form == "srt":
        blocks = [
            f"{number}\n{_clock(one['start'], ',')} --> {_clock(one['end'], ',')}\n{_line(one['text'])}\n"
            for number, one in enumerate(segments, 1)
        ]
        return _TEXT, "\n".join(blocks).encode()
    if form == "vtt":
        cues = [
            f"{_clock(one['start'], '.')} --> {_clock(one['end'], '.')}\n{_line(one['text'])}\n" for one in segments
        ]
        return "text/vtt; charset=utf-8", "\n".join(["WEBVTT\n", *cues]).encode()
    usage = {"type": "duration", "seconds": seconds}
    if form == "json":
        return "application/json", msgspec.json.encode({"text": told["text"], "usage": usage})
    whole = {"task": "transcribe", "language": told["language"], "duration": told["duration"], "text": told["text"]}
    shown = [{"seek": 0, "tokens": [], **one} for one in segments]
    words = {"words": told["words"]} if "words" in told else {}
    return "application/json", msgspec.json.encode(whole | {"segments": shown} | words | {"usage": usage})


def _line(text: str) -> str:
    return text.replace("-->", "->")


def _clock(seconds: float, point: str) -> str:
    whole = round(seconds * 1000)
    hours, minutes, rest = whole // 3_600_000, whole // 60_000 % 60, whole % 60_000
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"
