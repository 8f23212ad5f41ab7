"""Doors beside classify and embeddings that a row-by-row model answers: rerank, moderations, pictures.

Each is two small functions: what a call asks as rows of the model, and how the model's answers read at that door.
"""

import base64
from collections.abc import Sequence
from typing import Any, Final

from tollway.guard import masking
from tollway.kit.errors import BadRequest

HARMLESS: Final = frozenset(
    (
        *("ok", "okay", "safe", "clean", "none", "neutral", "normal", "fine", "harmless", "benign", "polite", "ham"),
        *("no", "false", "negative", "other", "0", "not_spam", "not_toxic", "non_toxic", "not_insult"),
    )
)
"""Labels that say that nothing is wrong: no category of their own."""
RELEVANT: Final = ("relevant", "yes", "true", "entailment", "match", "duplicate", "1")
_FLAGGED_FROM: Final = 0.5
_DIGITS: Final = 6
_CERTAIN: Final = tuple(kind for kind in masking.KINDS if kind not in masking.HINTS)

Answers = Sequence[dict[str, Any]]


def pairs(query: Any, documents: Any) -> list[dict[str, Any]]:
    """A row for each document."""
    if not isinstance(query, str) or not isinstance(documents, list):
        raise BadRequest("A query and a list of documents are expected.", param="documents", code="invalid_value")
    return [{"text": query, "text_b": one} for one in documents]


def ranked(answers: Answers, labels: Sequence[str]) -> dict[str, Any]:
    """How relevant each document is: the value, or the share of the label that says so."""
    wanted = next((one for one in labels if one.lower() in RELEVANT), labels[-1] if labels else "")
    scores = [one["scores"][wanted] if "scores" in one else one.get("value", 0.0) for one in answers]
    return {"results": [{"index": index, "relevance_score": score} for index, score in enumerate(scores)]}


def judged(answers: Answers, texts: Sequence[str]) -> dict[str, Any]:
    """OpenAI's shape: a score for each label that accuses, and one for personal data that can be proved."""
    results = []
    for answer, text in zip(answers, texts, strict=True):
        shares: dict[str, float] = answer.get("scores", {})
        scores = {label: round(share, _DIGITS) for label, share in shares.items() if label.lower() not in HARMLESS}
        scores["pii"] = 1.0 if masking.find(text, _CERTAIN) else 0.0
        categories = {label: score >= _FLAGGED_FROM for label, score in scores.items()}
        results.append(
            {
                "flagged": any(categories.values()),
                "categories": categories,
                "category_scores": scores,
                "category_applied_input_types": {label: ["text"] for label in scores},
            }
        )
    return {"results": results}


def seeds(count: Any, seed: Any, label: Any) -> list[dict[str, Any]]:
    """A row for each picture."""
    if not isinstance(count, int) or not isinstance(seed, int):
        raise BadRequest("`n` and `seed` are whole numbers.", param="n", code="invalid_value")
    return [{"seed": seed + index} | ({"label": label} if label else {}) for index in range(count)]


def pictures(answers: Answers) -> dict[str, Any]:
    """OpenAI's shape."""
    return {"data": [{"b64_json": base64.b64encode(one["image"]).decode("ascii")} for one in answers]}
