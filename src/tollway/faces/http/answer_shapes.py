"""The shapes of `/v1`'s answers, as JSON schemas for `/openapi.json`. Clients read them, tests hold real answers to them."""

from typing import Any

Shape = dict[str, Any]


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> Shape:
    return {"type": "object", "properties": required | (optional or {}), "required": list(required)}


def _list_of(item: Shape) -> Shape:
    return {"type": "array", "items": item}


_COUNT: Shape = {"type": "integer", "minimum": 0}
_TEXT: Shape = {"type": "string"}
_MAYBE_TEXT: Shape = {"type": ["string", "null"]}
_MAYBE_COUNT: Shape = {"type": ["integer", "null"], "minimum": 0}
_DAY: Shape = {"type": "string", "format": "date"}
_USAGE = _object(
    {"prompt_tokens": _COUNT, "total_tokens": _COUNT},
    {
        "completion_tokens": _COUNT,
        "prompt_tokens_details": _object({"cached_tokens": _COUNT}),
        "images": _COUNT,
        "rows": _COUNT,
        "explanations": _COUNT,
        "audio_seconds": _COUNT,
        "characters": _COUNT,
    },
)
_MESSAGE = _object(
    {"role": {"const": "assistant"}, "content": _MAYBE_TEXT},
    {"refusal": _MAYBE_TEXT, "reasoning_content": _TEXT, "tool_calls": _list_of({"type": "object"})},
)
_CHOICE: Shape = {"index": _COUNT, "finish_reason": _MAYBE_TEXT}
_LOGPROBS: Shape = {"type": ["object", "null"]}
_HEAD: Shape = {"id": _TEXT, "created": _COUNT, "model": _TEXT}
_MODEL = _object(
    {"id": _TEXT, "object": {"const": "model"}, "created": _COUNT, "owned_by": _TEXT},
    {
        "kind": _TEXT,
        "version": _TEXT,
        "digest": _MAYBE_TEXT,
        "input": {"enum": ["text", "image", "row"]},
        "context_tokens": _MAYBE_COUNT,
        "capabilities": _list_of(_TEXT),
    },
)
_SCORE: Shape = {"type": "number"}
_JUDGED = _object(
    {
        "flagged": {"type": "boolean"},
        "categories": {"type": "object", "additionalProperties": {"type": "boolean"}},
        "category_scores": {"type": "object", "additionalProperties": _SCORE},
    },
    {"category_applied_input_types": {"type": "object"}},
)
_BOX: Shape = {
    "type": "array",
    "items": {"type": "number", "minimum": 0},
    "minItems": 4,
    "maxItems": 4,
    "description": "left, top, right, bottom, in pixels of the picture that was sent",
}
_VECTOR: Shape = {"oneOf": [_list_of({"type": "number"}), _TEXT]}

SHAPES: dict[str, Shape] = {
    "/v1/chat/completions": _object(
        _HEAD
        | {
            "object": {"const": "chat.completion"},
            "choices": _list_of(_object(_CHOICE | {"message": _MESSAGE}, {"logprobs": _LOGPROBS})),
            "usage": _USAGE,
        }
    ),
    "/v1/completions": _object(
        _HEAD
        | {
            "object": {"const": "text_completion"},
            "choices": _list_of(_object(_CHOICE | {"text": _TEXT}, {"logprobs": _LOGPROBS})),
            "usage": _USAGE,
        }
    ),
    "/v1/embeddings": _object(
        {
            "object": {"const": "list"},
            "model": _TEXT,
            "data": _list_of(_object({"object": {"const": "embedding"}, "index": _COUNT, "embedding": _VECTOR})),
            "usage": _USAGE,
        }
    ),
    "/v1/classify": _object(
        {
            "object": {"const": "list"},
            "model": _TEXT,
            "data": _list_of(
                _object(
                    {"object": {"const": "classification"}, "index": _COUNT},
                    {
                        "label": _TEXT,
                        "score": {"type": "number"},
                        "scores": {"type": "object", "additionalProperties": {"type": "number"}},
                        "value": {"type": "number"},
                    },
                )
            ),
            "usage": _USAGE,
        }
    ),
    "/v1/detect": _object(
        {
            "object": {"const": "list"},
            "model": _TEXT,
            "data": _list_of(
                _object(
                    {
                        "object": {"const": "detection"},
                        "index": _COUNT,
                        "width": _COUNT,
                        "height": _COUNT,
                        "detections": _list_of(_object({"label": _TEXT, "score": _SCORE, "box": _BOX})),
                    }
                )
            ),
            "usage": _USAGE,
        }
    ),
    "/v1/explain": _object(
        {
            "object": {"const": "list"},
            "model": _TEXT,
            "data": _list_of(
                _object(
                    {
                        "object": {"const": "explanation"},
                        "index": _COUNT,
                        "method": _TEXT,
                        "target": _TEXT,
                        "value": {"type": "number"},
                        "base": {"type": "number"},
                        "units": _list_of(_object({"weight": {"type": "number"}})),
                    },
                    {"faithfulness": {"type": "object"}, "checks": {"type": "object"}, "extra": {"type": "object"}},
                )
            ),
            "usage": _USAGE,
        }
    ),
    "/v1/rerank": _object(
        {
            "id": _TEXT,
            "object": {"const": "list"},
            "model": _TEXT,
            "method": {"enum": ["cross-encoder", "cosine of embeddings"]},
            "results": _list_of(
                _object({"index": _COUNT, "relevance_score": _SCORE}, {"document": _object({"text": _TEXT})})
            ),
            "usage": _USAGE,
        }
    ),
    "/v1/moderations": _object({"id": _TEXT, "model": _TEXT, "results": _list_of(_JUDGED)}, {"usage": _USAGE}),
    "/v1/images/generations": _object(
        {"created": _COUNT, "data": _list_of(_object({"b64_json": _TEXT}))}, {"usage": {"type": "object"}}
    ),
    "/v1/recommendations": _object(
        {
            "object": {"const": "list"},
            "model": _TEXT,
            "user": {"type": ["string", "integer"]},
            "data": _list_of(
                _object({"object": {"const": "recommendation"}, "index": _COUNT, "item": _TEXT, "score": _SCORE})
            ),
            "usage": _USAGE,
        }
    ),
    "/v1/models": _object({"object": {"const": "list"}, "data": _list_of(_MODEL)}),
    "/v1/models/{model}": _MODEL,
    "/v1/key": _object(
        {
            "object": {"const": "key"},
            "id": _TEXT,
            "organization": _object({"id": _TEXT, "name": _TEXT}),
            "scopes": _list_of(_TEXT),
            "models": {"type": ["array", "null"], "items": _TEXT},
            "expires_at": _MAYBE_TEXT,
            "plan": {"type": ["object", "null"]},
            "tokens_used": _COUNT,
            "tokens_max": _MAYBE_COUNT,
            "wallet_micros": _MAYBE_COUNT,
            "currency": _MAYBE_TEXT,
            "limits": {"type": ["object", "null"]},
        }
    ),
    "/v1/usage": _object(
        {
            "object": {"const": "list"},
            "from": _DAY,
            "to": _DAY,
            "currency": _MAYBE_TEXT,
            "data": _list_of(
                _object({"requests": _COUNT, "input_tokens": _COUNT, "cached_tokens": _COUNT, "output_tokens": _COUNT})
            ),
        }
    ),
}

PARAMETERS: dict[str, list[Shape]] = {
    "/v1/models/{model}": [
        {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    ],
    "/v1/usage": [
        {
            "name": "from",
            "in": "query",
            "schema": _DAY,
            "description": "First UTC day; the first of this month unless given.",
        },
        {"name": "to", "in": "query", "schema": _DAY, "description": "Last UTC day; today unless given."},
        {"name": "by", "in": "query", "schema": {"type": "string", "enum": ["day", "model", "key"]}},
    ],
}


def _header(text: str, kind: str = "string") -> Shape:
    return {"description": text, "schema": {"type": kind}}


OF_CALL: Shape = {
    "x-tollway-model-version": _header("The version of the model that answered."),
    "x-tollway-queue-ms": _header("Milliseconds that the call waited for its turn.", "integer"),
    "openai-processing-ms": _header("Milliseconds from the call's admission to this answer.", "integer"),
    "x-tollway-price": _header("What the call cost, and the currency; a stream's is in the usage afterwards."),
}
REQUEST_ID: Shape = {"x-request-id": _header("Names this call in logs, usage and support.")}
RATE_LIMITS: Shape = {
    f"x-ratelimit-{what}-{unit}": _header(f"{text} {unit} in the running minute.")
    for unit in ("requests", "tokens")
    for what, text in (("limit", "Allowed"), ("remaining", "Left"), ("reset", "Seconds until all are free again:"))
}
RETRY_AFTER: Shape = {
    "retry-after": _header("Seconds to wait before trying again."),
    "retry-after-ms": _header("The same, in milliseconds.", "integer"),
}
