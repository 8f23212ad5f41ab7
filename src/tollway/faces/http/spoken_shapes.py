"""Shapes of `/v1/responses` and `/v1/audio/*` for `/openapi.json`, by path: not one body of JSON in and one out."""

from typing import Any

from tollway.faces.http.response_words import ResponsesRequest
from tollway.serve.requests import SpeechRequest

Shape = dict[str, Any]
_TEXT: Shape = {"type": "string"}
_BYTES: Shape = {"type": "string", "format": "binary"}
_COUNT: Shape = {"type": "integer", "minimum": 0}
_DURATION: Shape = {
    "type": "object",
    "properties": {"type": {"const": "duration"}, "seconds": _COUNT},
    "required": ["type", "seconds"],
}
_ITEM: Shape = {"type": "object", "properties": {"id": _TEXT, "type": _TEXT}, "required": ["id", "type"]}

BODIES = {"/v1/responses": ResponsesRequest, "/v1/audio/speech": SpeechRequest}
TITLES = {
    "/v1/responses": "Answer a conversation, in the words of the Responses API",
    "/v1/audio/speech": "A text, spoken",
    "/v1/audio/transcriptions": "What is said in a recording",
}
FORMS: dict[str, Shape] = {
    "/v1/audio/transcriptions": {
        "type": "object",
        "properties": {
            "model": {"type": "string", "minLength": 1, "maxLength": 120},
            "file": _BYTES,
            "language": _TEXT,
            "prompt": {"type": "string", "maxLength": 1000},
            "response_format": {"enum": ["json", "text", "verbose_json", "srt", "vtt"]},
            "temperature": {"type": "number", "minimum": 0, "maximum": 1},
        },
        "required": ["model", "file"],
    }
}
_RESPONSE: Shape = {
    "type": "object",
    "properties": {
        "id": _TEXT,
        "object": {"const": "response"},
        "created_at": _COUNT,
        "status": {"enum": ["completed", "incomplete"]},
        "model": _TEXT,
        "output": {"type": "array", "items": _ITEM},
        "usage": {
            "type": "object",
            "properties": {"input_tokens": _COUNT, "output_tokens": _COUNT, "total_tokens": _COUNT},
            "required": ["input_tokens", "output_tokens", "total_tokens"],
        },
    },
    "required": ["id", "object", "created_at", "status", "model", "output", "usage"],
}
_HEARD: Shape = {"type": "object", "properties": {"text": _TEXT, "usage": _DURATION}, "required": ["text", "usage"]}
CONTENT: dict[str, dict[str, Shape]] = {
    "/v1/responses": {"application/json": _RESPONSE, "text/event-stream": _TEXT},
    "/v1/audio/speech": {"audio/wav": _BYTES, "audio/flac": _BYTES, "audio/pcm": _BYTES},
    "/v1/audio/transcriptions": {
        "application/json": _HEARD,
        "text/plain; charset=utf-8": _TEXT,
        "text/vtt; charset=utf-8": _TEXT,
    },
}
GENERATES = frozenset(CONTENT)
