"""How alike are two answers to one request? 1 is the same, 0 has nothing in common; None: they cannot be compared. Pure.

    labels and values      the share of inputs with the same first label, or with values within one hundredth
    embeddings             the cosine of each pair, the worst of them
    generated text         the share of words in common, in order (the longest matching runs)

`alike` says from where on that counts as the same answer. Text that is drawn at a temperature differs from itself too:
what share of it can agree at all is best seen by shadowing a version with itself.
"""

import base64
import math
import operator
import struct
from difflib import SequenceMatcher
from typing import Any, Final

import msgspec

LABELS, EMBEDDINGS, TEXT = "labels", "embeddings", "text"
_ENOUGH: Final = {LABELS: 1.0, EMBEDDINGS: 0.98, TEXT: 0.8}
_WORDS_MOST: Final = 400
_NEAR: Final = 0.01


def compare(one: bytes, other: bytes) -> tuple[str, float] | None:
    """What kind of answers two whole JSON answers are, and how alike."""
    try:
        first, second = msgspec.json.decode(one), msgspec.json.decode(other)
    except msgspec.DecodeError:
        return None
    if not isinstance(first, dict) or not isinstance(second, dict):
        return None
    if "choices" in first:
        return TEXT, _texts(_said(first), _said(second))
    rows, others = first.get("data"), second.get("data")
    if not isinstance(rows, list) or not isinstance(others, list) or not rows or not isinstance(rows[0], dict):
        return None
    if len(rows) != len(others):
        return LABELS, 0.0
    if "embedding" in rows[0]:
        return EMBEDDINGS, min(
            _cosine(a.get("embedding"), b.get("embedding")) for a, b in zip(rows, others, strict=True)
        )
    if "label" in rows[0] or "value" in rows[0]:
        return LABELS, sum(_same(a, b) for a, b in zip(rows, others, strict=True)) / len(rows)
    return None


def alike(kind: str, likeness: float) -> bool:
    """Whether that counts as the same answer."""
    return likeness >= _ENOUGH[kind] - 1e-9


def text_of(text: str) -> bytes:
    """A streamed answer's text in the shape that `compare` reads."""
    return msgspec.json.encode({"choices": [{"text": text}]})


def _said(answer: dict[str, Any]) -> str:
    parts = []
    for choice in answer["choices"]:
        message = choice.get("message") or {}
        parts.append(str(message.get("content") or choice.get("text") or ""))
        parts += [str(call.get("function")) for call in message.get("tool_calls") or ()]
    return "\n".join(parts)


def _texts(one: str, other: str) -> float:
    if one.strip() == other.strip():
        return 1.0
    first, second = one.split()[:_WORDS_MOST], other.split()[:_WORDS_MOST]
    return SequenceMatcher(None, first, second, autojunk=False).ratio()


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if "label" in one:
        return bool(one["label"] == other.get("label"))
    mine, theirs = one.get("value"), other.get("value")
    if not isinstance(mine, int | float) or not isinstance(theirs, int | float):
        return False
    return math.isclose(mine, theirs, rel_tol=_NEAR, abs_tol=1e-9)


def _cosine(one: Any, other: Any) -> float:
    first, second = _vector(one), _vector(other)
    if not first or len(first) != len(second):
        return 0.0
    lengths = math.hypot(*first) * math.hypot(*second)
    return sum(map(operator.mul, first, second)) / lengths if lengths else float(first == second)


def _vector(given: Any) -> tuple[float, ...]:
    if isinstance(given, str):  # base64 of little-endian floats
        raw = base64.b64decode(given)
        return struct.unpack(f"<{len(raw) // 4}f", raw[: len(raw) // 4 * 4])
    return tuple(given) if isinstance(given, list) else ()
