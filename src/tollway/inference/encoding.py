"""What every kind of features shares: the `Features` face, the target (classes or a number), padding, reading rows.

For whoever trains (the factory) and whoever serves (the replica): both turn rows into arrays with exactly this code, so
that a served model sees what it was trained on. numpy only; no torch.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, Self

import numpy as np

from tollway.kit.errors import BadRequest

Encoded = dict[str, np.ndarray]  # one row, unpadded; a name that begins with "_" stays here and never reaches a model
Arrays = dict[str, np.ndarray]  # a batch, padded to its longest row
Row = Mapping[str, Any]

FILE_NAME: Final = "features.json"
IGNORE: Final = -100  # a label that counts for nothing (torch's and transformers' convention)


class Table(Protocol):
    """As much of a pyarrow table as fitting needs."""

    @property
    def column_names(self) -> list[str]: ...

    def column(self, name: str) -> Any: ...


def column(table: Table, name: str) -> list[Any]:
    """One column as a list of Python values."""
    if name not in table.column_names:
        raise BadRequest(
            f"The data has no column {name!r}; it has {', '.join(table.column_names)}.",
            hint='Name it in the recipe: [data] columns = { text = "review", label = "sentiment" }.',
        )
    return list(table.column(name).to_pylist())


def wrong(row: int, name: str, text: str, hint: str = "") -> BadRequest:
    """A refusal that says which row and which field."""
    return BadRequest(f"Row {row}, {name!r}: {text}", param=name, hint=hint)


@dataclass(slots=True)
class Target:
    """What is to be predicted: one of `labels`, or a number with the mean and spread it had in training."""

    kind: str = "none"  # label | value | none
    labels: list[str] = field(default_factory=list)
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def fit(cls, task: str, table: Table) -> "Target":
        """Look at the training rows' labels or values."""
        if task.endswith("-classification") and task != "token-classification":
            labels = sorted({str(one) for one in column(table, "label") if one is not None})
            if len(labels) < 2:
                raise BadRequest(
                    f"A classifier needs at least two classes; the training rows have {len(labels)}: {labels}.",
                    hint="Check the label column and the split.",
                )
            return cls("label", labels)
        if task.endswith("-regression"):
            values = np.asarray([one for one in column(table, "target") if one is not None], dtype=np.float64)
            if not values.size or not np.isfinite(values).all():
                raise BadRequest("The target column is empty or holds numbers that are not finite.", param="target")
            return cls("value", [], float(values.mean()), float(values.std()) or 1.0)
        return cls()

    def of(self, rows: Sequence[Row]) -> Arrays:
        """`label` (class numbers) or `target` (numbers in their own unit)."""
        if self.kind == "label":
            known = {name: number for number, name in enumerate(self.labels)}
            found = [known.get(str(row["label"]), -1) for row in rows]
            if -1 in found:
                strange = str(rows[found.index(-1)]["label"])
                raise wrong(found.index(-1), "label", f"{strange!r} is not one of {', '.join(self.labels[:20])}.")
            return {"label": np.asarray(found, dtype=np.int64)}
        if self.kind == "value":
            return {"target": np.asarray([float(row["target"]) for row in rows], dtype=np.float32)}
        return {}

    def answers(self, outputs: Arrays) -> list[dict[str, Any]]:
        """From `logits`, `value` or `embedding` to what the caller reads."""
        if "logits" in outputs and self.kind == "label":
            return _classes(softmax(outputs["logits"]), self.labels)
        if "value" in outputs:
            return [{"value": float(one)} for one in outputs["value"].reshape(-1)]
        if "embedding" in outputs:
            return [{"embedding": one.tolist()} for one in outputs["embedding"].astype(np.float32)]
        raise BadRequest(f"The model's outputs {sorted(outputs)} do not fit what these features predict ({self.kind}).")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float32."""
    shifted = logits.astype(np.float32) - logits.max(axis=-1, keepdims=True).astype(np.float32)
    grown = np.exp(shifted)
    return np.asarray(grown / grown.sum(axis=-1, keepdims=True))


def _classes(shares: np.ndarray, labels: list[str]) -> list[dict[str, Any]]:
    answers = []
    for share, best in zip(shares.tolist(), shares.argmax(axis=-1).tolist(), strict=True):
        answers.append({"label": labels[best], "score": share[best], "scores": dict(zip(labels, share, strict=True))})
    return answers


class Features(ABC):
    """How the rows of one task become arrays, and the model's arrays become answers. Learnt from the training rows."""

    kind: ClassVar[str]
    task: str
    options: dict[str, Any]
    target: Target

    @classmethod
    @abstractmethod
    def fit(cls, task: str, table: Table, options: Mapping[str, Any] | None = None) -> Self:
        """Learn what encoding needs (vocabulary, means, categories, classes) from the training rows."""

    @abstractmethod
    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """Rows to arrays, one by one, unpadded. Raises BadRequest naming the row and the field."""

    @abstractmethod
    def collate(self, encoded: Sequence[Encoded]) -> Arrays:
        """A batch as the model takes it."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything `restore` needs, as JSON."""

    @classmethod
    @abstractmethod
    def restore(cls, state: dict[str, Any], folder: Path) -> Self:
        """The counterpart of `save`."""

    @abstractmethod
    def fields(self) -> dict[str, str]:
        """The fields a row may have when it is asked about, with their kind (text, image, number, category ...)."""

    def dynamic(self) -> dict[str, dict[int, str]]:
        """Which axes of each input vary; for exporters."""
        return {name: {0: "rows"} for name in self.collate(self.encode(self.example(2)))}

    @abstractmethod
    def example(self, rows: int = 2) -> list[dict[str, Any]]:
        """Plausible rows, for exporting and warming up."""

    @property
    def characters_most(self) -> int | None:
        """How much of a text is read at all; None: what there is."""
        return None

    def length(self, encoded: Encoded) -> int:
        """The work of a row in tokens; 1 where that means nothing."""
        return 1

    def targets(self, rows: Sequence[Row]) -> Arrays:
        """What is to be predicted: one array per name, first axis = rows; ragged ones are padded with -100."""
        return self.target.of(rows)

    def decode(
        self, outputs: Arrays, rows: Sequence[Row] = (), encoded: Sequence[Encoded] = ()
    ) -> list[dict[str, Any]]:
        """The model's outputs as answers. `rows` and `encoded` are needed where an answer quotes its input."""
        return self.target.answers(outputs)

    def parts(self, outputs: Arrays, encoded: Sequence[Encoded]) -> list[Arrays]:
        """A batch's raw outputs, row by row, without what belongs to padding."""
        return [{name: one[number] for name, one in outputs.items()} for number in range(len(encoded))]

    def check(self, rows: Sequence[Row]) -> None:
        """Refuse what a caller cannot have meant: no object, a field we do not know. Called when serving."""
        known = self.fields()
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise wrong(number, "input", f"an object with {', '.join(known)} is expected.")
            strange = [name for name in row if name not in known]
            if strange:
                raise wrong(number, str(strange[0]), f"there is no such field. Known: {', '.join(known)}.")

    def retarget(self, task: str, table: Table) -> Self:
        """The same encoding for new rows: what is to be predicted is learnt anew (classes that were known stay, in their
        order, when no new ones came)."""
        before, self.task = self.target, task
        fresh = self.fit_target(task, table)
        if fresh.kind == before.kind and fresh.labels and set(fresh.labels) <= set(before.labels):
            fresh.labels = before.labels
        self.target = fresh
        return self

    @classmethod
    def fit_target(cls, task: str, table: Table) -> Target:
        """What is to be predicted, from the training rows."""
        return Target.fit(task, table)

    def generate(self, run: Callable[[Arrays], Arrays], arrays: Arrays) -> Arrays:
        """Run the model on a batch. Those that write their answer token by token run it many times."""
        return run(arrays)

    @property
    def labels(self) -> list[str]:
        return self.target.labels

    def save(self, folder: Path) -> None:
        """Write features.json (and, for text, tokenizer.json) into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        target = self.target
        state = {
            "kind": self.kind,
            "task": self.task,
            "options": self.options,
            "target": {"kind": target.kind, "labels": target.labels, "mean": target.mean, "std": target.std},
            "state": self.state(),
        }
        text = json.dumps(state, ensure_ascii=False, indent=1, sort_keys=True)
        (folder / FILE_NAME).write_text(text, encoding="utf-8")


def pad(rows: Sequence[np.ndarray], value: int | float = 0) -> np.ndarray:
    """One-dimensional rows side by side, filled up to the longest."""
    width = max((len(row) for row in rows), default=0)
    out = np.full((len(rows), width), value, dtype=rows[0].dtype if rows else np.int64)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out


def text_of(row: Row, name: str, number: int) -> str:
    """The text of a field; None is refused, numbers are not: a column of years is text too. Half characters go."""
    value = row.get(name)
    if value is None or isinstance(value, (bytes, bool, list, tuple, Mapping)):
        raise wrong(number, name, f"text is expected, not {_shown(value)}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise wrong(number, name, "text is expected, not a missing number.")
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    return f"a {type(value).__name__}"
