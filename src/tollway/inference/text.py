"""Texts to token numbers: classification, regression and sentence embeddings.

A text is cut at `max_length` tokens; an empty one becomes a single unknown token, so that it has a defined answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from tollway.inference import vocabulary
from tollway.inference.encoding import Arrays, Encoded, Features, Row, Table, Target, column, pad, text_of
from tollway.kit.errors import BadRequest

_JUDGED = ("text-classification", "text-regression")
_CHARACTERS_PER_TOKEN = 40  # a text is cut here before the tokenizer sees it: a megabyte costs no more than a page


class TextFeatures(Features):
    """`text` (and, for sentence embeddings, `text_b` while training) to `input_ids` and `attention_mask`. Where the rows to
    learn from have a `text_b` to be judged with it, both are read as one: a cross-encoder."""

    kind: ClassVar[str] = "text"
    columns: ClassVar[tuple[str, ...]] = ("text",)
    defaults: ClassVar[dict[str, Any]] = {
        "tokenizer": "words", "vocabulary": 20_000, "lower": True, "min_count": 2, "max_length": 256, "frame": False, "pair": False,
    }  # fmt: skip

    def __init__(self, task: str, options: Mapping[str, Any], target: Target, tokenizer: Any) -> None:
        self.task, self.target, self.tokenizer = task, target, tokenizer
        self.options = {**self.defaults, **options}
        self.pad_id = vocabulary.pad_id(tokenizer)
        self.unknown_id = next(
            (one for name in ("[UNK]", "<unk>") if (one := tokenizer.token_to_id(name)) is not None), self.pad_id
        )
        self.max_length = int(self.options["max_length"])
        if self.max_length < 8:
            raise BadRequest("max_length must be at least 8 tokens.", param="max_length")
        if type(self).truncates:
            tokenizer.enable_truncation(self.max_length)

    truncates: ClassVar[bool] = True

    @classmethod
    def fit(cls, task: str, table: Table, options: Mapping[str, Any] | None = None) -> Self:
        chosen = {**cls.defaults, **{name: one for name, one in (options or {}).items() if name in cls.defaults}}
        given = (options or {}).get("folder")
        if given is not None:
            tokenizer = vocabulary.read(Path(given))
            chosen["tokenizer"] = "given"
        else:
            tokenizer = vocabulary.learn(
                cls.texts(table), chosen["tokenizer"], int(chosen["vocabulary"]), bool(chosen["lower"]),
                int(chosen["min_count"]), bool(chosen["frame"]),
            )  # fmt: skip
        chosen["pair"] = task in _JUDGED and "text_b" in table.column_names
        return cls(task, chosen, Target.fit(task, table), tokenizer)

    @classmethod
    def texts(cls, table: Table) -> Iterable[str]:
        """What a tokenizer learns from."""
        for name in (*cls.columns, *(["text_b"] if "text_b" in table.column_names else [])):
            for one in column(table, name):
                if isinstance(one, str):
                    yield one

    @property
    def characters_most(self) -> int:
        return self.max_length * _CHARACTERS_PER_TOKEN

    @property
    def vocabulary_size(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def words(self) -> list[str]:
        """Every token in the order of its number."""
        numbers = self.tokenizer.get_vocab()
        return sorted(numbers, key=numbers.__getitem__)

    def fields(self) -> dict[str, str]:
        return {"text": "text", "text_b": "text"} if self.options["pair"] else {"text": "text"}

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        if self.options["pair"]:
            return [{"input_ids": one} for one in self._joined(rows)]
        pairs = self.task == "sentence-embedding" and bool(rows) and "text_b" in rows[0]
        made: list[Encoded] = [{"input_ids": one} for one in self._numbers(rows, "text")]
        if pairs:
            for row, second in zip(made, self._numbers(rows, "text_b"), strict=True):
                row["input_ids_b"] = second
        return made

    def _joined(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """Both texts of a row as one, with the tokenizer's own mark between them, or an unknown token."""
        firsts, seconds = self._texts(rows, "text"), self._texts(rows, "text_b")
        if self.tokenizer.post_processor is not None:
            found = self.tokenizer.encode_batch_fast(list(zip(firsts, seconds, strict=True)))
            return [np.asarray(one.ids or [self.unknown_id], dtype=np.int64) for one in found]
        halves = [self.tokenizer.encode_batch_fast(texts) for texts in (firsts, seconds)]
        room = self.max_length // 2
        joined = [
            [*a.ids[:room], self.unknown_id, *b.ids[: self.max_length - room - 1]]
            for a, b in zip(*halves, strict=True)
        ]  # fmt: skip
        return [np.asarray(one, dtype=np.int64) for one in joined]

    def _texts(self, rows: Sequence[Row], name: str) -> list[str]:
        return [text_of(row, name, number)[: self.characters_most] for number, row in enumerate(rows)]

    def _numbers(self, rows: Sequence[Row], name: str) -> list[np.ndarray]:
        texts = self._texts(rows, name)
        found = self.tokenizer.encode_batch_fast(texts)
        return [np.asarray(one.ids or [self.unknown_id], dtype=np.int64) for one in found]

    def targets(self, rows: Sequence[Row]) -> Arrays:
        if self.task == "sentence-embedding" and rows and rows[0].get("label") is not None:
            return {"target": np.asarray([float(row["label"]) for row in rows], dtype=np.float32)}
        return super().targets(rows)

    def length(self, encoded: Encoded) -> int:
        return len(encoded["input_ids"])

    def collate(self, encoded: Sequence[Encoded]) -> Arrays:
        arrays: Arrays = {}
        for ids, mask in (("input_ids", "attention_mask"), ("input_ids_b", "attention_mask_b")):
            if encoded and ids in encoded[0]:
                rows = [one[ids] for one in encoded]
                arrays[ids] = pad(rows, self.pad_id)
                arrays[mask] = pad([np.ones(len(one), dtype=np.int64) for one in rows])
        return arrays

    def dynamic(self) -> dict[str, dict[int, str]]:
        return {name: {0: "rows", 1: "length"} for name in ("input_ids", "attention_mask")}

    def example(self, rows: int = 2) -> list[dict[str, Any]]:
        words = [word for word in self.words() if word.isalpha()][:12] or ["a"]
        made = [{"text": " ".join(words[: 6 + number % 6])} for number in range(rows)]
        return [one | {"text_b": " ".join(words[3:9]) or "a"} for one in made] if self.options["pair"] else made

    def state(self) -> dict[str, Any]:
        return {}

    def save(self, folder: Path) -> None:
        super().save(folder)
        plain = vocabulary.same(self.tokenizer)
        (folder / vocabulary.FILE_NAME).write_text(plain.to_str(), encoding="utf-8")

    @classmethod
    def restore(cls, state: dict[str, Any], folder: Path) -> Self:
        return cls(state["task"], state["options"], Target(**state["target"]), vocabulary.read(folder))
