"""Rows that are the same, or nearly so: exact ones by a hash of their content, near ones by MinHash and a check.

MinHash over character shingles (Broder 1997): 64 permutations, 16 bands of 4 rows find pairs of Jaccard similarity 0.8
with probability 0.9998 (1 - (1 - s^4)^16), and every candidate pair is compared for real before it counts. Shingles are
of characters, so Chinese needs no words. Images are compared by an 8 x 8 difference hash and then by their pixels.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from tollway.forge.data import digest

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, Any]

_BANDS: Final = 16
_DEEP: Final = 4
_SHINGLE: Final = 5
_CHARS_MAX: Final = 4000
"""Of a text this much is looked at: near duplicates that differ only after it count as near."""
_BUCKET_MAX: Final = 64
_PIXELS_APART: Final = 0.02


def exact(table: "pa.Table", columns: Sequence[str] | None = None) -> list[list[int]]:
    """Groups of rows with equal values in `columns`, each in row order; singles are left out."""
    groups: dict[int, list[int]] = defaultdict(list)
    for row, key in enumerate(digest.keys(table, columns).tolist()):
        groups[key].append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def near(table: "pa.Table", columns: Sequence[str], similarity: float = 0.8) -> list[list[int]]:
    """Groups of rows that are equal or nearly so, each in row order; singles are left out."""
    import pyarrow as pa

    if not columns:
        return exact(table)
    if len(columns) == 1 and pa.types.is_binary(table[columns[0]].type):
        return _pictures(table[columns[0]].to_pylist())
    parts = [table[name].to_pylist() for name in columns]
    texts = ["\n".join("" if one is None else str(one) for one in row) for row in zip(*parts, strict=True)]
    return _texts(texts, similarity)


def _texts(texts: Sequence[str], similarity: float) -> list[list[int]]:
    import numpy as np

    random = np.random.Generator(np.random.PCG64(20260101))
    factors = random.integers(1, 2**63, _BANDS * _DEEP, dtype=np.uint64) | np.uint64(1)
    shifts = random.integers(0, 2**63, _BANDS * _DEEP, dtype=np.uint64)
    buckets: dict[bytes, list[int]] = defaultdict(list)
    seen: dict[str, int] = {}
    groups = _Groups(len(texts))
    kept: dict[int, Array] = {}
    for row, text in enumerate(texts):
        plain = " ".join(text.casefold().split())[:_CHARS_MAX]
        if plain in seen:
            groups.join(seen[plain], row)
            continue
        seen[plain] = row
        shingles = _shingles(plain)
        kept[row] = shingles
        with np.errstate(over="ignore"):
            hashed = (shingles[:, None] * factors[None, :] + shifts[None, :]) >> np.uint64(16)
        signature = hashed.min(axis=0)
        for band in range(_BANDS):
            key = bytes([band]) + hashlib.blake2b(signature[band * _DEEP : (band + 1) * _DEEP].tobytes(), digest_size=8).digest()
            there = buckets[key]
            for other in there:
                if not groups.same(other, row) and _jaccard(kept[other], shingles) >= similarity:
                    groups.join(other, row)
            if len(there) < _BUCKET_MAX:
                there.append(row)
    return groups.found()


def _shingles(text: str) -> "Array":
    """Hashes of all runs of five characters, each once."""
    import numpy as np

    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if len(codes) < _SHINGLE:
        codes = np.concatenate([codes, np.zeros(_SHINGLE - len(codes), np.uint64)])
    hashed = np.zeros(len(codes) - _SHINGLE + 1, np.uint64)
    with np.errstate(over="ignore"):
        for place in range(_SHINGLE):
            hashed = hashed * np.uint64(0x100000001B3) + codes[place : place + len(hashed)]
        hashed = (hashed ^ (hashed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.unique(hashed)


def _jaccard(left: "Array", right: "Array") -> float:
    import numpy as np

    small, large = sorted((len(left), len(right)))
    if small < 0.5 * large:
        return small / large
    both = len(np.intersect1d(left, right, assume_unique=True))
    return both / (len(left) + len(right) - both)


def _pictures(images: Sequence[bytes | None]) -> list[list[int]]:
    import numpy as np
    from PIL import Image

    from tollway.forge.data.images import pixels

    small = np.zeros((len(images), 16, 16), np.float32)
    hashes = []
    for row, data in enumerate(images):
        grey = Image.fromarray(pixels(data, colour=False)) if data else Image.new("L", (16, 16))
        small[row] = np.asarray(grey.resize((16, 16), Image.Resampling.BOX), np.float32) / 255
        steps = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), np.int16)
        hashes.append(np.packbits(steps[:, 1:] > steps[:, :-1]).tobytes())
    groups = _Groups(len(images))
    buckets: dict[bytes, list[int]] = defaultdict(list)
    for row, key in enumerate(hashes):
        there = buckets[key]
        for other in there:
            if float(np.abs(small[row] - small[other]).mean()) <= _PIXELS_APART * max(float(small[row].mean()), 0.1):
                groups.join(other, row)
                break
        if len(there) < _BUCKET_MAX:
            there.append(row)
    return groups.found()


class _Groups:
    """Disjoint sets: which rows belong together."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, row: int) -> int:
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row

    def same(self, left: int, right: int) -> bool:
        return self.root(left) == self.root(right)

    def join(self, left: int, right: int) -> None:
        first, second = sorted((self.root(left), self.root(right)))
        self._parent[second] = first

    def found(self) -> list[list[int]]:
        groups: dict[int, list[int]] = defaultdict(list)
        for row in range(len(self._parent)):
            groups[self.root(row)].append(row)
        return [rows for rows in groups.values() if len(rows) > 1]
