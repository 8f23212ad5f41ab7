"""What `[evaluate]` may name, by task, known before a row is read: for `recipe check`, without numpy.

Which of these a dataset allows (a label's own F1, the sixth class that makes a top five) is seen once its rows are prepared
(`examination.refuse_part`); what no dataset allows is refused here, before any work.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from tollway.forge.evaluate import gates
from tollway.kit.errors import BadRequest
from tollway.kit.said import say

_CLASSES: Final = (
    "accuracy", "balanced_accuracy", "precision", "recall", "f1", "ece", "log_loss", "brier", "auc", "top5_accuracy",
)  # fmt: skip
_NUMBERS: Final = ("rmse", "mae", "r2", "bias")
_LANGUAGE: Final = ("perplexity", "bits_per_byte", "next_token_accuracy")
_LISTS: Final = tuple(f"{name}@{depth}" for name in ("ndcg", "recall", "precision", "map") for depth in (5, 10, 20))
MEASURES: Final[Mapping[str, Sequence[str]]] = {
    "text-classification": _CLASSES,
    "image-classification": _CLASSES,
    "tabular-classification": _CLASSES,
    "text-regression": _NUMBERS,
    "tabular-regression": _NUMBERS,
    "token-classification": ("f1", "precision", "recall"),
    "question-answering": ("f1", "exact_match"),
    "translation": ("chrf", "bleu", "exact_match"),
    "language-modeling": _LANGUAGE,
    "chat": _LANGUAGE,
    "preference": ("preference_accuracy", "margin"),
    "sentence-embedding": (
        "spearman", "pearson", "mrr", *(one for one in _LISTS if one.startswith(("recall", "ndcg"))),
    ),
    "recommendation": (*_NUMBERS[:2], *_LISTS, "mrr"),
    "image-generation": (
        "pixel_frechet", "realism", "coverage", "classifier_score", "class_as_asked", "reconstruction_mse", "psnr_db",
        "elbo_at_mean",
    ),
    "object-detection": ("map", "map@50", "map@75", "precision", "recall", "f1"),
}  # fmt: skip
OF_LABELS: Final[Mapping[str, Sequence[str]]] = {
    **{f"{kind}-classification": ("precision", "recall", "f1") for kind in ("text", "image", "tabular", "token")},
    "object-detection": ("ap", "ap50"),
}
"""Measures that there are for each label too, as `f1.LABEL`."""
BASELINES: Final[Mapping[str, Sequence[str]]] = {
    "text-classification": ("majority", "tf-idf+logistic"),
    "image-classification": ("majority", "pixels+logistic"),
    "tabular-classification": ("majority", "columns+logistic"),
    "text-regression": ("mean", "tf-idf+ridge"),
    "tabular-regression": ("mean", "columns+ridge"),
    "token-classification": ("frequent-tag",),
    "question-answering": ("likely-sentence",),
    "translation": ("copy",),
    "language-modeling": ("byte-bigram",),
    "chat": ("byte-bigram",),
    "sentence-embedding": ("tf-idf",),
    "recommendation": ("popular-and-bias",),
    "image-generation": ("independent-pixels",),
    "object-detection": ("usual-boxes", "blobs+logistic"),
}
NOISE: Final[Mapping[str, Sequence[str]]] = {
    **dict.fromkeys(("text-classification", "text-regression", "question-answering", "translation"), ("typos", "case")),
    "token-classification": ("case",),
    **dict.fromkeys(("image-classification", "object-detection"), ("pixels",)),
    **dict.fromkeys(("tabular-classification", "tabular-regression"), ("missing", "jitter")),
}


def check(part: Any, task: str, columns: Collection[str] | None = None, others: Collection[str] = ()) -> None:
    """Raises BadRequest naming every metric and gate that no rows could give. `columns`: of the dataset (None: not known
    before cleaning); `others`: what the model is held against besides baselines, "parent" or "base"."""
    if task not in MEASURES:
        return
    problems: list[str] = []
    strange = [name for name in part.metrics if not _measured(name, task)]
    if strange:
        near = [close for name in strange for close in difflib.get_close_matches(name, MEASURES[task], n=1)]
        problems.append(
            say("gates.no_metric_close", "[evaluate] metrics: there is no {names} for {task}. Did you mean {close}?",
                names=", ".join(strange), task=task, close=", ".join(near))
            if near else
            say("gates.no_metric", "[evaluate] metrics: there is no {names} for {task}. There are: {these}.",
                names=", ".join(strange), task=task, these=", ".join(MEASURES[task]))
        )  # fmt: skip
    known = dict.fromkeys([*(f"{side}{name}" for name in MEASURES[task] for side in ("", "low.", "high.")),
                           *_sides(part, task, others), *_parts(part, columns),
                           *(f"noise.{kind}" for kind in (NOISE.get(task, ()) if part.noise else ()))])  # fmt: skip
    known |= {name: None for name in part.require if _of_a_label(name, task) or (columns is None and _of_a_part(name))}
    try:
        gates.refuse_unknown(part.require, known)
    except BadRequest as error:
        problems.append(say("gates.and_known", "{said} {hint}", said=error.said, hint=error.said_hint))
    if len(problems) == 2:
        raise BadRequest(say("gates.both", "{said}\n{parts}", said=problems[0], parts=problems[1]), code="unknown_gate")
    if problems:
        raise BadRequest(problems[0], code="unknown_gate")


def _measured(name: str, task: str) -> bool:
    return name in MEASURES[task] or (not name.startswith(("low.", "high.")) and _of_a_label(name, task))


def _of_a_label(name: str, task: str) -> bool:
    head, dot, label = name.removeprefix("low.").removeprefix("high.").partition(".")
    return bool(dot and label) and head in OF_LABELS.get(task, ())


def _of_a_part(name: str) -> bool:
    return name.startswith(("gap.", "slice."))


def _sides(part: Any, task: str, others: Collection[str]) -> list[str]:
    """Whom the model is held against, and the ends of those intervals."""
    simple = BASELINES.get(task, ()) if part.baseline else ()
    sides = [*(["baseline"] if simple else []), *simple, *others]
    return [f"vs.{side}{end}" for side in sides for end in ("", ".low", ".high")]


def _parts(part: Any, columns: Collection[str] | None) -> list[str]:
    found = []
    for column in sorted({*(columns or ())} - {"length"}):
        found += [f"gap.{column}{kind}" for kind in ("", ".parity", ".opportunity", ".quality")]
    return found + [f"slice.{column}" for column in sorted({*(columns or ()), "length"})]
