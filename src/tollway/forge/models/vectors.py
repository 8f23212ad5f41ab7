"""Pre-trained word vectors in GloVe's text format: `word 0.1 -0.2 ...`, one word a line (word2vec's text format has a first
line with two counts, which is skipped). Read line by line: a file of gigabytes costs only the words that are wanted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tollway.kit.errors import BadRequest, NotFound

_LONGEST_LINE: Final = 1 << 17


@dataclass(frozen=True, slots=True)
class Found:
    """Vectors for some of the words: `rows[i]` belongs to word number `places[i]`."""

    places: np.ndarray
    rows: np.ndarray
    wanted: int

    @property
    def width(self) -> int:
        return int(self.rows.shape[1])

    @property
    def missing_share(self) -> float:
        """Share of the words for which the file has no vector (out of vocabulary)."""
        return 1.0 - len(self.places) / max(self.wanted, 1)

    @property
    def spread(self) -> float:
        """Standard deviation of a value: what fresh vectors beside these should have."""
        return float(self.rows.std()) or 0.1


def read(path: Path, words: Sequence[str]) -> Found:
    """The vectors of `words`. Exact spelling first, then lower case. Raises BadRequest naming the line that is wrong."""
    if not path.is_file():
        raise NotFound(f"There is no file of word vectors {path}.", hint="[model] options.vectors names it.")
    exact: dict[str, int] = {word: place for place, word in enumerate(words)}
    lower: dict[str, list[int]] = {}
    for place, word in enumerate(words):
        lower.setdefault(word.lower(), []).append(place)
    rows: dict[int, np.ndarray] = {}
    loose: dict[int, np.ndarray] = {}
    width = 0
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            if number == 1 and len(line.split()) == 2:
                continue
            if not width:
                width = _width(line, number, path)
            start, rest = _split(line, width, number, path)
            text = start.decode("utf-8", "replace")
            mine = exact.get(text)
            others = lower.get(text, [])
            if mine is None and not others:
                continue
            vector = _vector(rest, width, number, path)
            if mine is not None:
                rows.setdefault(mine, vector)
            for other in others:
                loose.setdefault(other, vector)
    for place, vector in loose.items():
        rows.setdefault(place, vector)
    if not rows:
        raise BadRequest(f"{path.name} has no vector for any of the {len(words)} words of the data.")
    places = sorted(rows)
    return Found(np.asarray(places, dtype=np.int64), np.stack([rows[place] for place in places]), len(words))


def _width(line: bytes, number: int, path: Path) -> int:
    width = len(line.split()) - 1
    if width < 1:
        raise _wrong(number, path, "a word and its numbers are expected")
    return width


def _split(line: bytes, width: int, number: int, path: Path) -> tuple[bytes, bytes]:
    """A word may hold spaces: the last `width` fields are the numbers."""
    parts = line.rstrip().rsplit(b" ", width)
    if len(parts) != width + 1:
        raise _wrong(number, path, f"{width} numbers are expected")
    return parts[0], b" ".join(parts[1:])


def _vector(text: bytes, width: int, number: int, path: Path) -> np.ndarray:
    try:
        vector = np.array(text.split(), dtype=np.float32)
    except ValueError:
        raise _wrong(number, path, "a number is expected") from None
    if vector.shape != (width,) or not np.isfinite(vector).all():
        raise _wrong(number, path, f"{width} finite numbers are expected")
    return vector


def _wrong(number: int, path: Path, text: str) -> BadRequest:
    return BadRequest(f"Line {number} of {path.name}: {text}.", hint="GloVe's text format: word 0.1 -0.2 ...")
