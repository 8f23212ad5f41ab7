"""Questions about a text: where in `context` is the answer to `question`? An empty answer means: it is not there.

A long context is read in windows that overlap; the window with the surest answer wins.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np

from tollway.inference import vocabulary
from tollway.inference.encoding import Arrays, Encoded, Row, Table, Target, column, pad, softmax, text_of
from tollway.inference.text import TextFeatures

_LONGEST_ANSWER: Final = 30  # tokens
_CANDIDATES: Final = 20
_QUESTION_SHARE: Final = 4  # a question may fill at most this part of a window


class QuestionFeatures(TextFeatures):
    """Question and context to `input_ids`, `token_type_ids` (1 = context) and the mask. A row may bring several windows."""

    kind: ClassVar[str] = "question"
    columns: ClassVar[tuple[str, ...]] = ("question", "context")
    truncates: ClassVar[bool] = False
    defaults: ClassVar[dict[str, Any]] = {**TextFeatures.defaults, "frame": True, "doc_stride": 64}

    def __init__(self, task: str, options: Mapping[str, Any], target: Target, tokenizer: Any) -> None:
        super().__init__(task, options, target, tokenizer)
        self._questions = vocabulary.same(tokenizer)
        self._questions.enable_truncation(self.max_length // _QUESTION_SHARE)
        room = self.max_length - self.max_length // _QUESTION_SHARE - 8
        stride = max(0, min(int(self.options["doc_stride"]), room // 2))
        tokenizer.enable_truncation(self.max_length, stride=stride, strategy="only_second")

    @classmethod
    def fit(cls, task: str, table: Table, options: Mapping[str, Any] | None = None) -> Self:
        column(table, "answer")
        return super().fit(task, table, options)

    def fields(self) -> dict[str, str]:
        return {"question": "text", "context": "text"}

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """All windows of each row, end to end; where rows bring the answer (training), the one window that holds it."""
        made = []
        for number, (row, windows) in enumerate(zip(rows, self._windows(rows), strict=True)):
            if row.get("answer") is not None:
                windows = [windows[self._holding(row, number, windows)[0]]]
            made.append(
                {
                    "input_ids": np.concatenate([np.asarray(one.ids, dtype=np.int64) for one in windows]),
                    "token_type_ids": np.concatenate([_second(one) for one in windows]),
                    "_windows": np.asarray([len(one.ids) for one in windows]),
                    "_offsets": np.concatenate([np.asarray(one.offsets, dtype=np.int64) for one in windows]),
                }
            )
        return made

    def _windows(self, rows: Sequence[Row]) -> list[list[Any]]:
        pairs = []
        for number, row in enumerate(rows):
            question = text_of(row, "question", number).strip()
            short = self._questions.encode(question, add_special_tokens=False)
            if len(short.overflowing):
                question = question[: short.offsets[-1][1]]
            pairs.append((question or "?", text_of(row, "context", number)))
        return [[one, *one.overflowing] for one in self.tokenizer.encode_batch(pairs)]

    def _holding(self, row: Row, number: int, windows: list[Any]) -> tuple[int, int, int]:
        """(window, first token, last token) of the answer; (0, 0, 0) when there is none."""
        answer = row["answer"]
        if isinstance(answer, (list, tuple)):
            answer = answer[0] if answer else ""
        start = row.get("answer_start")
        begin = str(row["context"]).find(str(answer)) if start is None or int(start) < 0 else int(start)
        end = begin + len(str(answer))
        if not answer or begin < 0:
            return 0, 0, 0
        for place, one in enumerate(windows):
            inside = [at for at, sort in enumerate(one.type_ids) if sort == 1 and one.special_tokens_mask[at] == 0]
            first = next((at for at in inside if one.offsets[at][0] <= begin < one.offsets[at][1]), None)
            last = next((at for at in inside if one.offsets[at][0] < end <= one.offsets[at][1]), None)
            if first is not None and last is not None and first <= last:
                return place, first, last
        return 0, 0, 0

    def targets(self, rows: Sequence[Row]) -> Arrays:
        """`start` and `end`: token numbers in the window that `encode` chose; 0 and 0 for no answer."""
        found = [
            self._holding(row, number, windows)
            for number, (row, windows) in enumerate(zip(rows, self._windows(rows), strict=True))
        ]
        return {
            "start": np.asarray([one[1] for one in found], dtype=np.int64),
            "end": np.asarray([one[2] for one in found], dtype=np.int64),
        }

    def collate(self, encoded: Sequence[Encoded]) -> Arrays:
        """Every window is a row of the batch."""
        ids = [part for one in encoded for part in _cut(one["input_ids"], one["_windows"])]
        kinds = [part for one in encoded for part in _cut(one["token_type_ids"], one["_windows"])]
        return {
            "input_ids": pad(ids, self.pad_id),
            "attention_mask": pad([np.ones(len(one), dtype=np.int64) for one in ids]),
            "token_type_ids": pad(kinds),
        }

    def parts(self, outputs: Arrays, encoded: Sequence[Encoded]) -> list[Arrays]:
        sizes = [one["_windows"].tolist() for one in encoded]
        firsts = np.cumsum([0, *(len(one) for one in sizes)]).tolist()
        return [
            {
                name: np.concatenate([array[first + at, :size] for at, size in enumerate(mine)])
                for name, array in outputs.items()
            }
            for first, mine in zip(firsts, sizes, strict=False)
        ]

    def decode(
        self, outputs: Arrays, rows: Sequence[Row] = (), encoded: Sequence[Encoded] = ()
    ) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        place = 0
        for number, (row, one) in enumerate(zip(rows, encoded, strict=True)):
            context = text_of(row, "context", number)
            best: dict[str, Any] = {"answer": "", "score": 0.0, "start": 0, "end": 0}
            nothing = []
            offsets = _cut(one["_offsets"], one["_windows"])
            kinds = _cut(one["token_type_ids"], one["_windows"])
            for where, kind in zip(offsets, kinds, strict=True):
                size = len(where)
                first = softmax(outputs["start_logits"][place, :size])
                last = softmax(outputs["end_logits"][place, :size])
                place += 1
                nothing.append(float(first[0] * last[0]))
                score, begin, end = _span(first, last, kind)
                if score > best["score"]:
                    low, high = int(where[begin][0]), int(where[end][1])
                    best = {"answer": context[low:high], "score": score, "start": low, "end": high}
            if min(nothing) > best["score"]:
                best = {"answer": "", "score": min(nothing), "start": 0, "end": 0}
            answers.append(best)
        return answers

    def dynamic(self) -> dict[str, dict[int, str]]:
        return {name: {0: "rows", 1: "length"} for name in ("input_ids", "attention_mask", "token_type_ids")}

    def example(self, rows: int = 2) -> list[dict[str, Any]]:
        texts = [one["text"] for one in super().example(rows)]
        return [{"question": text.split()[0], "context": text} for text in texts]

    @classmethod
    def restore(cls, state: dict[str, Any], folder: Path) -> Self:
        return cls(state["task"], state["options"], Target(**state["target"]), vocabulary.read(folder))


def _second(window: Any) -> np.ndarray:
    return np.asarray(window.type_ids, dtype=np.int64)


def _cut(flat: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    return list(np.split(flat, np.cumsum(sizes)[:-1]))


def _span(first: np.ndarray, last: np.ndarray, kinds: np.ndarray) -> tuple[float, int, int]:
    """The likeliest (start, end) inside the context, at most `_LONGEST_ANSWER` tokens long."""
    inside = kinds == 1
    if inside.any():
        inside[np.flatnonzero(inside)[-1]] = False  # the mark that ends the window
    first, last = np.where(inside, first, 0.0), np.where(inside, last, 0.0)
    best = (0.0, 0, 0)
    for begin in np.argsort(-first)[:_CANDIDATES].tolist():
        part = last[begin : begin + _LONGEST_ANSWER]
        if not len(part):
            continue
        end = int(part.argmax())
        score = float(first[begin] * part[end])
        if score > best[0]:
            best = (score, begin, begin + end)
    return best
