"""One text to another: translation. The answer is written token by token, greedily or with several beams.

A model of this kind is two in one: `input_ids` and `attention_mask` give `encoded`, what was read; `memory` (that, again),
`memory_mask` and `decoder_input_ids` (what is written so far) give `logits`. So the source is read once, however long the
answer becomes; the half that is not wanted is fed a single token.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np

from tollway.inference import marian, vocabulary
from tollway.inference.encoding import IGNORE, Arrays, Encoded, Row, Table, Target, column, text_of
from tollway.inference.text import TextFeatures

_TARGET_FILE: Final = "target_tokenizer.json"
_ROOM: Final = 16  # an answer may be twice as long as its question, and this
Run = Callable[[Arrays], Arrays]
_LENGTH_POWER: Final = 0.7  # beams are compared by log-likelihood / length ** this


class SequenceFeatures(TextFeatures):
    """`source` to token numbers; `target` to `labels`; one vocabulary for both languages, though each may have its own way
    of cutting texts into it (Marian's)."""

    kind: ClassVar[str] = "sequence"
    columns: ClassVar[tuple[str, ...]] = ("source", "target")
    defaults: ClassVar[dict[str, Any]] = {
        **TextFeatures.defaults, "tokenizer": "bpe", "vocabulary": 8000, "lower": False, "max_length": 128, "frame": True,
        "beams": 1, "start": "[CLS]", "end": "[SEP]",
        "memory": 0,  # width of what the model remembers of the source; 0: it reads it anew for each token
    }  # fmt: skip

    def __init__(
        self, task: str, options: Mapping[str, Any], target: Target, tokenizer: Any, target_tokenizer: Any = None
    ) -> None:
        super().__init__(task, options, target, tokenizer)
        self.target_tokenizer = target_tokenizer or tokenizer
        self.start_id = self._id("start")
        self.end_id = self._id("end")

    def _id(self, option: str) -> int:
        found = self.options[option]
        if isinstance(found, int):
            return found
        number = self.tokenizer.token_to_id(found)
        return int(number) if number is not None else self.pad_id

    @classmethod
    def fit(cls, task: str, table: Table, options: Mapping[str, Any] | None = None) -> Self:
        given = {**(options or {}), "frame": True}
        if given.get("folder") is None or not marian.is_marian(Path(given["folder"])):
            return super().fit(task, table, given)
        chosen = {
            **cls.defaults,
            **{name: one for name, one in given.items() if name in cls.defaults},
            "tokenizer": "given",
        }
        return cls(task, chosen, Target(), *marian.read(Path(given["folder"])))

    @classmethod
    def texts(cls, table: Table) -> Iterable[str]:
        return (one for name in cls.columns for one in column(table, name) if isinstance(one, str))

    def fields(self) -> dict[str, str]:
        return {"source": "text"}

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        return [{"input_ids": one} for one in self._numbers(rows, "source")]

    def targets(self, rows: Sequence[Row]) -> Arrays:
        """`labels`: the target's tokens and the end mark, padded with -100."""
        texts = [text_of(row, "target", number) for number, row in enumerate(rows)]
        found = self.target_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        numbers = [[*one.ids[: self.max_length - 1], self.end_id] for one in found]
        labels = np.full((len(rows), max((len(one) for one in numbers), default=1)), IGNORE, dtype=np.int64)
        for place, one in enumerate(numbers):
            labels[place, : len(one)] = one
        return {"labels": labels}

    def generate(self, run: Callable[[Arrays], Arrays], arrays: Arrays) -> Arrays:
        """Write the answers: `tokens` [rows, length] (without marks, padded with -1) and `score` (mean log-likelihood)."""
        beams = int(self.options["beams"])
        limits = np.minimum(2 * arrays["attention_mask"].sum(1) + _ROOM, self.max_length)
        if self.options["memory"]:
            run, arrays = self._remembering(run, arrays)
        written, scores = (_greedy if beams == 1 else _beams)(run, arrays, limits, self.start_id, self.end_id, beams)
        width = max((len(one) for one in written), default=0)
        tokens = np.full((len(written), max(width, 1)), -1, dtype=np.int64)
        for row, one in enumerate(written):
            tokens[row, : len(one)] = one
        return {"tokens": tokens, "score": np.asarray(scores, dtype=np.float32)}

    def _remembering(self, run: Run, arrays: Arrays) -> tuple[Run, Arrays]:
        """Read the sources once; then a model that only writes, and what it goes by."""
        one = np.ones((1, 1), dtype=np.int64)
        read: Arrays = {"input_ids": one * self.pad_id, "attention_mask": one}
        memory = np.zeros((1, 1, int(self.options["memory"])), dtype=np.float32)
        written: Arrays = {"memory": memory, "memory_mask": one, "decoder_input_ids": one * self.start_id}
        encoded = run({**arrays, **written})["encoded"].astype(np.float32)
        return lambda asked: run({**read, **asked}), {"memory": encoded, "memory_mask": arrays["attention_mask"]}

    def decode(
        self, outputs: Arrays, rows: Sequence[Row] = (), encoded: Sequence[Encoded] = ()
    ) -> list[dict[str, Any]]:
        written = [[int(one) for one in row if one >= 0] for row in outputs["tokens"]]
        texts = self.target_tokenizer.decode_batch(written)
        shares = np.exp(outputs["score"]).tolist()
        return [
            {"text": text.strip(), "score": share, "tokens": len(row) + 1}  # the end mark is written too
            for text, share, row in zip(texts, shares, written, strict=True)
        ]

    def dynamic(self) -> dict[str, dict[int, str]]:
        both = {name: {0: "rows", 1: "length"} for name in ("input_ids", "attention_mask")}
        if not self.options["memory"]:
            return {**both, "decoder_input_ids": {0: "rows", 1: "written"}}
        memory = {name: {0: "writers", 1: "remembered"} for name in ("memory", "memory_mask")}
        return {**both, **memory, "decoder_input_ids": {0: "writers", 1: "written"}}

    def example(self, rows: int = 2) -> list[dict[str, Any]]:
        return [{"source": one["text"]} for one in super().example(rows)]

    @classmethod
    def restore(cls, state: dict[str, Any], folder: Path) -> Self:
        other = folder / _TARGET_FILE
        target = vocabulary.loads(other.read_text(encoding="utf-8")) if other.is_file() else None
        return cls(state["task"], state["options"], Target(**state["target"]), vocabulary.read(folder), target)

    def save(self, folder: Path) -> None:
        super().save(folder)
        if self.target_tokenizer is not self.tokenizer:
            (folder / _TARGET_FILE).write_text(self.target_tokenizer.to_str(), encoding="utf-8")


def _greedy(
    run: Run, arrays: Arrays, limits: np.ndarray, start: int, end: int, beams: int
) -> tuple[list[list[int]], list[float]]:
    """Always the likeliest token. Rows that are done leave the batch."""
    rows = len(limits)
    written: list[list[int]] = [[] for _ in range(rows)]
    sums, counts = np.zeros(rows), np.ones(rows)
    active = np.arange(rows)
    so_far = np.full((rows, 1), start, dtype=np.int64)
    while len(active):
        feed = {name: one[active] for name, one in arrays.items()} | {"decoder_input_ids": so_far}
        logs = log_softmax(run(feed)["logits"][:, -1])
        best = logs.argmax(-1)
        sums[active] += logs[np.arange(len(active)), best]
        going = np.ones(len(active), dtype=bool)
        for place, row in enumerate(active.tolist()):
            counts[row] = len(written[row]) + 1
            if best[place] == end:
                going[place] = False
                continue
            written[row].append(int(best[place]))
            going[place] = len(written[row]) < limits[row]
        so_far = np.concatenate([so_far, best[:, None]], axis=1)[going]
        active = active[going]
    return written, (sums / counts).tolist()


def _beams(
    run: Run, arrays: Arrays, limits: np.ndarray, start: int, end: int, beams: int
) -> tuple[list[list[int]], list[float]]:
    """Keep the likeliest beginnings of each row; a row is done when no beginning can beat its best ending."""
    done = [_one_row(run, {name: one[[row]] for name, one in arrays.items()}, int(limits[row]), start, end, beams)
            for row in range(len(limits))]  # fmt: skip
    return [one[0] for one in done], [one[1] for one in done]


def _one_row(run: Run, arrays: Arrays, limit: int, start: int, end: int, beams: int) -> tuple[list[int], float]:
    open_ones: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, float, list[int]]] = []  # (normalised, mean, tokens)
    for length in range(1, limit + 1):
        so_far = np.asarray([[start, *one] for _, one in open_ones], dtype=np.int64)
        feed = {name: one.repeat(len(open_ones), axis=0) for name, one in arrays.items()}
        logs = log_softmax(run(feed | {"decoder_input_ids": so_far})["logits"][:, -1])
        total = logs + np.asarray([score for score, _ in open_ones])[:, None]
        order = np.argsort(-total.reshape(-1), kind="stable")[: 2 * beams]
        following: list[tuple[float, list[int]]] = []
        for flat in order.tolist():
            beam, token = divmod(flat, logs.shape[1])
            score, tokens = float(total[beam, token]), open_ones[beam][1]
            if token == end:
                ended.append((score / length**_LENGTH_POWER, score / length, tokens))
            elif len(following) < beams:
                following.append((score, [*tokens, token]))
        open_ones = following
        best = max((one[0] for one in ended), default=-np.inf)
        if not open_ones or (len(ended) >= beams and best >= open_ones[0][0] / length**_LENGTH_POWER):
            break
    if not ended:
        ended = [(one[0], one[0] / max(len(one[1]), 1), one[1]) for one in open_ones]
    _, mean, tokens = max(ended, key=lambda one: one[0])
    return tokens, mean


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64: sums of many of them are compared."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
