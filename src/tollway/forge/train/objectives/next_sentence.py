"""Next-sentence prediction with masked words (BERT's two losses): does the second part follow the first, or is it foreign?"""

import re
from typing import Any, Final

import numpy as np

from tollway.forge.train.objectives.masked import Masked
from tollway.kit.errors import BadRequest

_SENTENCE: Final = re.compile(r"[^.!?。！？\n]+[.!?。！？]*\n*")
_FOREIGN: Final = 0.5  # share of pairs whose second part is another text's


class NextSentence(Masked):
    """Pairs [CLS] a [SEP] b [SEP] cut at a sentence's end; `next` is 0 when b follows a, 1 when it is foreign."""

    name = "next-sentence"

    def rows(self, rows: list[dict[str, Any]], features: Any) -> list[dict[str, Any]]:
        """One pair for every text of two or more sentences. The same texts give the same pairs."""
        texts = [found for row in rows if len(found := _SENTENCE.findall(str(row["text"]))) > 1]
        if rows and len(texts) < 2:
            raise BadRequest(
                "Next-sentence prediction needs texts of several sentences; there are fewer than two.",
                param="train.objective",
                hint='Use objective = "masked", or rows that are paragraphs.',
            )
        chance = np.random.default_rng(len(texts))
        return [self._pair(place, texts, features, chance) for place in range(len(texts))]

    def _pair(self, place: int, texts: list[list[str]], features: Any, chance: Any) -> dict[str, np.ndarray]:
        sentences = texts[place]
        cut = int(chance.integers(1, len(sentences)))
        foreign = bool(chance.random() < _FOREIGN)
        second = sentences[cut:]
        if foreign:
            other = texts[(place + int(chance.integers(1, len(texts)))) % len(texts)]
            second = other[int(chance.integers(0, len(other))) :]
        room = (features.max_length - 3) // 2
        first_ids = _ids(features, "".join(sentences[:cut]))[-room:]  # the sentence before the cut is what counts
        second_ids = _ids(features, "".join(second))[: features.max_length - 3 - len(first_ids)]
        ids = [features.bos, *first_ids, features.document_end, *second_ids, features.document_end]
        kinds = [0] * (len(first_ids) + 2) + [1] * (len(second_ids) + 1)
        return {
            "input_ids": np.asarray(ids, dtype=np.int64),
            "token_type_ids": np.asarray(kinds, dtype=np.int64),
            "_next": np.asarray(int(foreign)),
        }

    def targets(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"next": np.asarray([int(row.pop("_next")) for row in rows], dtype=np.int64)}


def _ids(features: Any, text: str) -> list[int]:
    return list(features.tokenizer.encode(text, add_special_tokens=False).ids)
