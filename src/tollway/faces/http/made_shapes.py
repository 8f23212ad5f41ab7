"""Shapes of `/v1/files`, `/v1/fine_tuning/jobs`, `/v1/batches` and `/v1/feedback` for `/openapi.json`, by "METHOD path"."""

from typing import Any

from tollway.faces.http.batches import BatchRequest
from tollway.faces.http.edge import EdgeUsageRequest
from tollway.faces.http.feedback import FeedbackRequest
from tollway.faces.http.fine_tuning import FineTuningRequest
from tollway.sell.file_checks import CHECKS, ENDPOINTS

Shape = dict[str, Any]
_TEXT: Shape = {"type": "string"}
_MAYBE_TEXT: Shape = {"type": ["string", "null"]}
_COUNT: Shape = {"type": "integer", "minimum": 0}
_MAYBE_COUNT: Shape = {"type": ["integer", "null"], "minimum": 0}
_JOBS = "/v1/fine_tuning/jobs"


def _object(kind: str, fields: Shape) -> Shape:
    properties = {"object": {"const": kind}, **fields}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _page(item: Shape) -> Shape:
    rest = {"has_more": {"type": "boolean"}, "first_id": _MAYBE_TEXT, "last_id": _MAYBE_TEXT}
    return _object("list", {"data": {"type": "array", "items": item}, **rest})


_FILE = _object(
    "file",
    {
        "id": _TEXT, "bytes": _COUNT, "created_at": _COUNT, "expires_at": _MAYBE_COUNT, "filename": _TEXT,
        "purpose": {"enum": [*CHECKS, "batch_output"]}, "status": {"enum": ["processed"]},
    },
)  # fmt: skip
_JOB = _object(
    "fine_tuning.job",
    {
        "id": _TEXT, "created_at": _COUNT, "finished_at": _MAYBE_COUNT, "model": _TEXT, "fine_tuned_model": _MAYBE_TEXT,
        "organization_id": _TEXT, "status": {"enum": ["queued", "running", "succeeded", "failed", "cancelled"]},
        "training_file": _TEXT, "validation_file": _MAYBE_TEXT, "trained_tokens": _MAYBE_COUNT,
        "hyperparameters": {"type": "object"}, "seed": _COUNT, "error": {"type": ["object", "null"]},
    },
)  # fmt: skip
_EVENT = _object(
    "fine_tuning.job.event",
    {
        "id": _TEXT, "created_at": _COUNT, "level": {"enum": ["info", "warn", "error"]}, "message": _TEXT,
        "type": {"enum": ["message", "metrics"]}, "data": {"type": "object"},
    },
)  # fmt: skip
_CHECKPOINT = _object(
    "fine_tuning.job.checkpoint",
    {
        "id": _TEXT, "created_at": _COUNT, "fine_tuned_model_checkpoint": _TEXT, "fine_tuning_job_id": _TEXT,
        "step_number": _COUNT, "metrics": {"type": "object"},
    },
)  # fmt: skip
_FEEDBACK = _object(
    "feedback",
    {
        "id": _TEXT, "created_at": _COUNT, "answer_id": _TEXT, "model": _TEXT, "model_version": _TEXT,
        "rating": {"enum": ["good", "bad", "neutral"]}, "comment": _TEXT,
    },
)  # fmt: skip

_TAKEN = _object(
    "edge.usage", {"device": _TEXT, "accepted": _COUNT, "duplicates": _COUNT, "head": _COUNT, "moved": _COUNT}
)
_DEVICE = _object(
    "edge.device", {"device": _TEXT, "model": _TEXT, "version": _TEXT, "revoked": {"type": "boolean"}, "head": _COUNT}
)
_BATCH = _object(
    "batch",
    {
        "id": _TEXT, "endpoint": {"enum": [*ENDPOINTS]}, "errors": {"type": ["object", "null"]}, "input_file_id": _TEXT,
        "completion_window": {"const": "24h"},
        "status": {
            "enum": ["validating", "failed", "in_progress", "completed", "expired", "cancelling", "cancelled"],
        },
        "output_file_id": _MAYBE_TEXT, "error_file_id": _MAYBE_TEXT, "created_at": _COUNT, "expires_at": _COUNT,
        "in_progress_at": _MAYBE_COUNT, "completed_at": _MAYBE_COUNT, "cancelled_at": _MAYBE_COUNT,
        "request_counts": {
            "type": "object", "properties": {"total": _COUNT, "completed": _COUNT, "failed": _COUNT},
            "required": ["total", "completed", "failed"],
        },
        "metadata": {"type": ["object", "null"]},
    },
)  # fmt: skip

BODIES = {"POST /v1/batches": BatchRequest, f"POST {_JOBS}": FineTuningRequest, "POST /v1/feedback": FeedbackRequest}
BODIES["POST /v1/edge/usage"] = EdgeUsageRequest
ERRORS = {"409": "It is not in the state that this needs."}
NOT_HERE: dict[str, set[str]] = {"POST": set(), "GET": {"402", "409", "413", "429"}, "DELETE": {"402", "413", "429"}}
"""What a method of these doors never answers."""
FORMS: dict[str, Shape] = {
    "POST /v1/files": {
        "type": "object",
        "properties": {"purpose": {"enum": [*CHECKS]}, "file": {"type": "string", "format": "binary"}},
        "required": ["purpose", "file"],
    }
}
SHAPES: dict[str, Shape] = {
    "POST /v1/files": _FILE,
    "GET /v1/files": _page(_FILE),
    "GET /v1/files/{file}": _FILE,
    "DELETE /v1/files/{file}": _object("file", {"id": _TEXT, "deleted": {"type": "boolean"}}),
    "GET /v1/files/{file}/content": {"type": "string", "format": "binary"},
    f"POST {_JOBS}": _JOB,
    f"GET {_JOBS}": _page(_JOB),
    f"GET {_JOBS}/{{job}}": _JOB,
    f"POST {_JOBS}/{{job}}/cancel": _JOB,
    f"GET {_JOBS}/{{job}}/events": _page(_EVENT),
    f"GET {_JOBS}/{{job}}/checkpoints": _page(_CHECKPOINT),
    "DELETE /v1/models/{model}": _object("model", {"id": _TEXT, "deleted": {"type": "boolean"}}),
    "POST /v1/batches": _BATCH,
    "GET /v1/batches": _page(_BATCH),
    "GET /v1/batches/{batch}": _BATCH,
    "POST /v1/batches/{batch}/cancel": _BATCH,
    "POST /v1/edge/usage": _TAKEN,
    "GET /v1/edge/usage": _DEVICE,
    "POST /v1/feedback": _FEEDBACK,
    "GET /v1/feedback": _page(_FEEDBACK),
}
TITLES = {
    "POST /v1/files": "Upload examples to learn from, or the calls of a batch",
    "GET /v1/files": "Uploads of this organization",
    "GET /v1/files/{file}": "One upload",
    "DELETE /v1/files/{file}": "Delete an upload",
    "GET /v1/files/{file}/content": "The bytes of an upload",
    f"POST {_JOBS}": "Train a model of one's own on a shared base",
    f"GET {_JOBS}": "Trainings of this organization",
    f"GET {_JOBS}/{{job}}": "One training",
    f"POST {_JOBS}/{{job}}/cancel": "End a training",
    f"GET {_JOBS}/{{job}}/events": "What happened in a training",
    f"GET {_JOBS}/{{job}}/checkpoints": "What a training made",
    "DELETE /v1/models/{model}": "Delete a model that a training of this organization made",
    "POST /v1/batches": "Have a file of calls answered in idle time, at a lower price",
    "GET /v1/batches": "Batches of this organization",
    "GET /v1/batches/{batch}": "One batch",
    "POST /v1/batches/{batch}/cancel": "End a batch",
    "POST /v1/edge/usage": "What a device used while it was alone",
    "GET /v1/edge/usage": "How far a device's usage is in the books",
    "POST /v1/feedback": "Say what an answer was worth, and what it should have been",
    "GET /v1/feedback": "What this organization said of answers",
}


def _named(name: str) -> Shape:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


_PAGING: list[Shape] = [
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100}},
    {"name": "after", "in": "query", "schema": _TEXT, "description": "The last id of the page before."},
]
PARAMETERS: dict[str, list[Shape]] = {
    key: [_named(name) for name in ("file", "job", "batch", "model") if "{" + name + "}" in key]
    + (
        _PAGING
        if key.startswith("GET") and SHAPES[key].get("properties", {}).get("object") == {"const": "list"}
        else []
    )
    for key in SHAPES
}
PARAMETERS["GET /v1/edge/usage"] = [{"name": "device", "in": "query", "required": True, "schema": _TEXT}]
