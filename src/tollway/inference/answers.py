"""What is asked, as rows; what a model says, as it is shown; what that used. For the replica and for devices: one reading."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from tollway.inference.encoding import Encoded, Features, Row
from tollway.kit.errors import BadRequest

INPUTS_MAX: Final = 256
_DIGITS: Final = 6
_PIXEL_DIGITS: Final = 2


def rows_of(given: Any, features: Features, kind: str) -> list[Row]:
    """The inputs of a call: objects with the model's fields, or the values themselves where there is only one field.
    `kind` is what one input is: text, image or row. Raises BadRequest."""
    fields = features.fields()
    single = kind if kind in fields else next(iter(fields)) if len(fields) == 1 else None
    rows: list[Row] = []
    for index, one in enumerate(given if isinstance(given, list) else [given]):
        if isinstance(one, Mapping):
            rows.append(one)
        elif isinstance(one, str) and single is not None:
            rows.append({single: one})
        else:
            told = ", ".join(f"{name} ({what})" for name, what in fields.items())
            raise BadRequest(
                f"Input {index} must be an object with the fields of this model: {told}.",
                param="input",
                code="invalid_value",
            )
    if not 1 <= len(rows) <= INPUTS_MAX:
        raise BadRequest(f"Give 1 to {INPUTS_MAX} inputs.", param="input", code="invalid_value")
    return rows


def classified(index: int, answer: Mapping[str, Any], top_k: int | None = None) -> dict[str, Any]:
    """One answer, rounded, its scores from the highest down, cut at `top_k`."""
    shown: dict[str, Any] = {"object": "classification", "index": index}
    for name, value in answer.items():
        if name == "scores":
            best = sorted(value.items(), key=lambda item: -item[1])[:top_k]
            shown[name] = {label: round(score, _DIGITS) for label, score in best}
        elif isinstance(value, float):
            shown[name] = round(value, _DIGITS)
        elif isinstance(value, bytes):
            shown[name] = "data:image/png;base64," + base64.b64encode(value).decode("ascii")
        elif isinstance(value, list) and top_k is not None and name == "items":
            shown[name] = value[:top_k]
        else:
            shown[name] = value
    return shown


def detected(
    index: int, answer: Mapping[str, Any], features: Features, threshold: float | None = None, top_k: int | None = None
) -> dict[str, Any]:
    """One picture's objects, surest first: those that reach `threshold` (the package's own by default), cut at `top_k`."""
    least = float(features.options["threshold"]) if threshold is None else threshold
    found = [one for one in answer["detections"] if one["score"] >= least][:top_k]
    shown = [
        {
            "label": one["label"],
            "score": round(one["score"], _DIGITS),
            "box": [round(side, _PIXEL_DIGITS) for side in one["box"]],
        }
        for one in found
    ]
    size = {"width": answer["width"], "height": answer["height"]}
    return {"object": "detection", "index": index} | size | {"detections": shown}


def embedded(index: int, answer: Mapping[str, Any], form: str = "float") -> dict[str, Any]:
    """One vector, as numbers or as base64. Raises BadRequest where the model makes none."""
    vector = answer.get("embedding")
    if vector is None:
        raise BadRequest("This model makes no embeddings.", code="unsupported_operation", param="model")
    shown = vector
    if form == "base64":
        shown = base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")
    return {"object": "embedding", "index": index, "embedding": shown}


def usage_of(
    features: Features, encoded: Sequence[Encoded], kind: str, answers: Sequence[Mapping[str, Any]] = ()
) -> dict[str, int]:
    """What a call used: tokens of texts, and of what was written where the answer is one; the rest is counted by the piece."""
    if kind == "text":
        tokens = sum(features.length(one) for one in encoded)
        written = sum(int(one.get("tokens", 0)) for one in answers)
        return {"prompt_tokens": tokens, "total_tokens": tokens + written} | ({"completion_tokens": written} if written else {})
    return {"prompt_tokens": 0, "total_tokens": 0, "images" if kind == "image" else "rows": len(encoded)}
