"""Names in texts: token classification (people, places, amounts ...) with tags like B-PER, I-PER, O.

Learnt from rows of `tokens` and `tags`. Asked with `text`, or with `tokens`; answered with `entities`, whose places count
characters of the text (of the tokens joined by one space).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np

from tollway.inference import vocabulary
from tollway.inference.encoding import IGNORE, Arrays, Encoded, Row, Table, Target, column, softmax, wrong
from tollway.inference.text import TextFeatures

_WORD: Final = re.compile(r"[㐀-䶿一-鿿豈-﫿]|[^\W㐀-䶿一-鿿豈-﫿]+(?:['’-]\w+)*|[^\w\s]")
_LONGEST_WORD: Final = 100
OUTSIDE: Final = "O"


class TokenFeatures(TextFeatures):
    """Words to pieces; `_words` remembers which word each piece belongs to (-1: none)."""

    kind: ClassVar[str] = "token"
    columns: ClassVar[tuple[str, ...]] = ("tokens",)
    truncates: ClassVar[bool] = True

    @classmethod
    def fit(cls, task: str, table: Table, options: Mapping[str, Any] | None = None) -> Self:
        made = super().fit(task, table, options)
        made.target = cls.fit_target(task, table)
        return made

    @classmethod
    def fit_target(cls, task: str, table: Table) -> Target:
        tags = {str(tag) for row in column(table, "tags") for tag in row or ()}
        return Target("tags", sorted(tags | {OUTSIDE}))

    @classmethod
    def texts(cls, table: Table) -> list[str]:
        return [" ".join(str(word) for word in row or ()) for row in column(table, "tokens")]

    def fields(self) -> dict[str, str]:
        return {"text": "text", "tokens": "list"}

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        words = [[word[:_LONGEST_WORD] for word in words_of(row, number)[0]] for number, row in enumerate(rows)]
        made: list[Encoded] = []
        # a row without a word still needs one place: the unknown token, which belongs to no word
        found = self.tokenizer.encode_batch([one or ["?"] for one in words], is_pretokenized=True)
        for mine, one in zip(words, found, strict=True):
            places = [-1 if word is None else word for word in one.word_ids]
            if not one.ids:
                made.append({"input_ids": np.asarray([self.unknown_id]), "_words": np.asarray([-1])})
                continue
            if not mine:
                places = [-1] * len(places)
            made.append(
                {"input_ids": np.asarray(one.ids, dtype=np.int64), "_words": np.asarray(places, dtype=np.int64)}
            )
        return made

    def targets(self, rows: Sequence[Row]) -> Arrays:
        """`labels`: the tag's number at the first piece of each word, -100 elsewhere; one row as long as the longest."""
        known = {tag: number for number, tag in enumerate(self.labels)}
        encoded = self.encode(rows)
        width = max((len(one["input_ids"]) for one in encoded), default=1)
        labels = np.full((len(rows), width), IGNORE, dtype=np.int64)
        for number, (row, one) in enumerate(zip(rows, encoded, strict=True)):
            tags = list(row["tags"])
            if len(tags) != len(row["tokens"]):
                raise wrong(number, "tags", f"{len(tags)} tags for {len(row['tokens'])} tokens.")
            for place, word in _firsts(one["_words"]):
                if str(tags[word]) not in known:
                    raise wrong(number, "tags", f"{tags[word]!r} is not one of {', '.join(self.labels[:20])}.")
                labels[number, place] = known[str(tags[word])]
        return {"labels": labels}

    def parts(self, outputs: Arrays, encoded: Sequence[Encoded]) -> list[Arrays]:
        lengths = [len(one["input_ids"]) for one in encoded]
        return [{name: one[row, :length] for name, one in outputs.items()} for row, length in enumerate(lengths)]

    def decode(
        self, outputs: Arrays, rows: Sequence[Row] = (), encoded: Sequence[Encoded] = ()
    ) -> list[dict[str, Any]]:
        shares = softmax(outputs["logits"])
        answers: list[dict[str, Any]] = []
        for number, (row, one) in enumerate(zip(rows, encoded, strict=True)):
            words, starts, text = words_of(row, number)
            tags, scores = [OUTSIDE] * len(words), [1.0] * len(words)  # words beyond max_length are not looked at
            for place, word in _firsts(one["_words"]):
                best = int(shares[number, place].argmax())
                tags[word], scores[word] = self.labels[best], float(shares[number, place, best])
            answers.append({"entities": entities(tags, scores, words, starts, text)})
        return answers

    def example(self, rows: int = 2) -> list[dict[str, Any]]:
        return [{"tokens": one["text"].split()} for one in super().example(rows)]

    @classmethod
    def restore(cls, state: dict[str, Any], folder: Path) -> Self:
        return cls(state["task"], state["options"], Target(**state["target"]), vocabulary.read(folder))


def words_of(row: Row, number: int) -> tuple[list[str], list[int], str]:
    """The words of a row, where each begins, and the text they stand in."""
    tokens = row.get("tokens")
    if tokens is not None:
        if not isinstance(tokens, (list, tuple)) or not all(isinstance(one, str) for one in tokens):
            raise wrong(number, "tokens", "a list of words is expected.")
        words = [one.encode("utf-8", "replace").decode() for one in tokens]
        starts = np.cumsum([0, *(len(one) + 1 for one in words)])[:-1].tolist()
        return words, starts, " ".join(words)
    text = row.get("text")
    if not isinstance(text, str):
        raise wrong(number, "text", "text is expected.")
    text = text.encode("utf-8", "replace").decode()
    found = list(_WORD.finditer(text))
    return [one.group() for one in found], [one.start() for one in found], text


def _firsts(words: np.ndarray) -> list[tuple[int, int]]:
    """(place, word) of the first piece of each word."""
    found, before = [], -1
    for place, word in enumerate(words.tolist()):
        if word >= 0 and word != before:
            found.append((place, word))
        before = word if word >= 0 else before
    return found


def entities(
    tags: Sequence[str], scores: Sequence[float], words: Sequence[str], starts: Sequence[int], text: str
) -> list[dict[str, Any]]:
    """Runs of tags as spans of the text. B- begins one; I- goes on when its kind is that of the word before, else begins."""
    found: list[dict[str, Any]] = []
    before = ""
    for word, tag in enumerate(tags):
        if tag == OUTSIDE:
            before = ""
            continue
        mark, _, kind = tag.partition("-")
        if not kind:
            mark, kind = "I", tag
        end = starts[word] + len(words[word])
        if mark in ("I", "E", "L") and before == kind:
            last = found[-1]
            last["end"], last["text"] = end, text[last["start"] : end]
            last["score"] = min(last["score"], scores[word])
        else:
            found.append(
                {
                    "text": text[starts[word] : end],
                    "label": kind,
                    "start": starts[word],
                    "end": end,
                    "score": scores[word],
                }
            )
        before = "" if mark in ("S", "U") else kind
    return found
