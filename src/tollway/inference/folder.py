"""Which features belong to a task, and reading them back from a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tollway.inference.detection import DetectionFeatures
from tollway.inference.encoding import FILE_NAME, Features, Table
from tollway.inference.image import ImageFeatures
from tollway.inference.language import LanguageFeatures
from tollway.inference.pair import PairFeatures
from tollway.inference.question import QuestionFeatures
from tollway.inference.sequence import SequenceFeatures
from tollway.inference.tabular import TabularFeatures
from tollway.inference.text import TextFeatures
from tollway.inference.tokens import TokenFeatures
from tollway.kit.errors import BadRequest, NotFound

KINDS: Final[tuple[type[Features], ...]] = (
    TextFeatures, TokenFeatures, QuestionFeatures, SequenceFeatures, ImageFeatures, TabularFeatures, PairFeatures,
    LanguageFeatures, DetectionFeatures,
)  # fmt: skip
TASKS: Final[dict[str, type[Features]]] = {
    "text-classification": TextFeatures,
    "text-regression": TextFeatures,
    "sentence-embedding": TextFeatures,
    "token-classification": TokenFeatures,
    "question-answering": QuestionFeatures,
    "translation": SequenceFeatures,
    "image-classification": ImageFeatures,
    "image-generation": ImageFeatures,
    "object-detection": DetectionFeatures,
    "tabular-classification": TabularFeatures,
    "tabular-regression": TabularFeatures,
    "recommendation": PairFeatures,
    "language-modeling": LanguageFeatures,
    "chat": LanguageFeatures,
    "preference": LanguageFeatures,
}


def features_of(task: str) -> type[Features]:
    """The kind of features a task has."""
    if task not in TASKS:
        raise BadRequest(f"{task!r} is no task with features of its own.", hint=f"Known: {', '.join(TASKS)}.")
    return TASKS[task]


def fit(task: str, table: Table, options: Mapping[str, Any] | None = None) -> Features:
    """Learn the features of a task from the training rows; options["folder"] takes a pre-trained tokenizer."""
    return features_of(task).fit(task, table, options)


def load_features(folder: Path) -> Features:
    """What `Features.save` wrote."""
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise NotFound(f"{Path(folder).name} has no {FILE_NAME}: it is no model folder of this factory.")
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        kinds = {one.kind: one for one in KINDS}
        return kinds[state["kind"]].restore(state, Path(folder))
    except (ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"{FILE_NAME} of {Path(folder).name} cannot be read: {error}") from error
