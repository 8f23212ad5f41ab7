"""An input cut into units that can be taken away one by one: words of a text, cells of a picture, columns of a table.

What is left when a unit is gone: the text without the word; the picture with the cell in its median colour; the table row
with the column missing, or taken from background rows (the answer is then the mean over them).
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tollway.inference.image import opened, png
from tollway.kit.errors import BadRequest

UNITS_MAX: Final = 64
GRID: Final = 7
BACKGROUND_MAX: Final = 16
# a Chinese character is a word of its own; what follows a word (blanks, punctuation) goes with it
_WORD: Final = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
_UNKNOWN: Final = "(unknown)"


@dataclass
class Cut:
    """A row and its units. `rows(mask)` is the input with only the units of the mask: one row, or one per background row."""

    kind: str
    row: dict[str, Any]
    units: list[dict[str, Any]]
    background: list[Mapping[str, Any]] = field(default_factory=list)
    pixels: NDArray[np.uint8] | None = None
    fixed: tuple[str, ...] = ()

    @property
    def rows_each(self) -> int:
        return max(1, len(self.background))

    def rows(self, mask: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """The input as far as the mask lets it through."""
        if self.kind == "text":
            return [self._text(mask)]
        if self.kind == "image":
            return [self._image(mask)]
        shown = {unit["field"] for unit, there in zip(self.units, mask, strict=True) if there}
        kept = shown | set(self.fixed)
        if self.background:
            return [
                {name: value if name in kept else other.get(name) for name, value in self.row.items()}
                for other in self.background
            ]
        return [{name: value if name in kept else self._absent() for name, value in self.row.items()}]

    def _absent(self) -> Any:
        return _UNKNOWN if self.kind == "pair" else None

    def _text(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        made = dict(self.row)
        for name in dict.fromkeys(unit["field"] for unit in self.units):
            made[name] = "".join(
                unit["text"] for unit, there in zip(self.units, mask, strict=True) if there and unit["field"] == name
            ).strip()
        return made

    def _image(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        assert self.pixels is not None
        picture = self.pixels.copy()
        plain = np.median(self.pixels.reshape(-1, self.pixels.shape[2]), axis=0).astype(np.uint8)
        for unit, there in zip(self.units, mask, strict=True):
            if not there:
                left, top, right, bottom = unit["box"]
                picture[top:bottom, left:right] = plain
        return {**self.row, "image": picture}


def cut(predictor: Any, row: Mapping[str, Any], background: Sequence[Mapping[str, Any]] = ()) -> Cut:
    """Cut a row by what its features say of it, or by what its values look like. Raises BadRequest."""
    if not isinstance(row, Mapping) or not row:
        raise BadRequest("An explanation needs one input: an object with its fields.", param="input")
    features = getattr(predictor, "features", None)
    fields = dict(features.fields()) if features is not None else _guessed(row)
    kept = {name: value for name, value in row.items() if name in fields}
    if not kept:
        raise BadRequest(f"The input has none of the fields {', '.join(fields)}.", param="input")
    kind = getattr(features, "kind", "")
    if "image" in kept and fields.get("image") == "image":
        return _picture(kept)
    texts = [name for name, value in kept.items() if fields[name] == "text" and isinstance(value, str)]
    if texts:
        return _text(kept, texts)
    named = [name for name in kept if kind != "pair" or name in ("user", "item")]
    fixed = tuple(name for name in kept if name not in named)
    if not named or any(
        value in ("list", "integer") for name, value in fields.items() if name in named and kind == "image"
    ):
        raise BadRequest("Inputs of this kind cannot be explained.", hint="Texts, pictures and table rows can.")
    units = [{"field": name, "value": kept[name]} for name in named]
    # the same few background rows for every call, so that explanations can be compared
    return Cut("pair" if kind == "pair" else "tabular", kept, units, list(background)[:BACKGROUND_MAX], fixed=fixed)


def _guessed(row: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in row.items():
        if isinstance(value, (bytes, np.ndarray)) or (isinstance(value, str) and value.startswith("data:image/")):
            found[name] = "image"
        else:
            found[name] = "text" if name == "text" else "category" if isinstance(value, str) else "number"
    return found


def _text(row: dict[str, Any], names: list[str]) -> Cut:
    units = [unit for name in names for unit in _words(str(row[name]), name)]
    if not units:
        raise BadRequest("There is no word in the text to explain.", param=names[0])
    return Cut("text", row, units if len(units) <= UNITS_MAX else _joined(units))


def _words(text: str, name: str) -> list[dict[str, Any]]:
    starts = [found.start() for found in _WORD.finditer(text)]
    if not starts:
        return []
    ends = [*starts[1:], len(text)]
    starts[0] = 0
    return [
        {"field": name, "text": text[low:high], "start": low, "end": high}
        for low, high in zip(starts, ends, strict=True)
    ]


def _joined(units: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours put together until there are at most UNITS_MAX; never across fields."""
    found: list[dict[str, Any]] = []
    size = -(-len(units) // UNITS_MAX)
    while not found or len(found) > UNITS_MAX:
        found = []
        for name in dict.fromkeys(unit["field"] for unit in units):
            mine = [unit for unit in units if unit["field"] == name]
            for at in range(0, len(mine), size):
                part = mine[at : at + size]
                text = "".join(unit["text"] for unit in part)
                found.append({"field": name, "text": text, "start": part[0]["start"], "end": part[-1]["end"]})
        size += 1
    return found


def _picture(row: dict[str, Any]) -> Cut:
    picture = opened(row["image"], 0)
    pixels = np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"), dtype=np.uint8)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    rows = np.unique(np.linspace(0, pixels.shape[0], GRID + 1).astype(int))
    columns = np.unique(np.linspace(0, pixels.shape[1], GRID + 1).astype(int))
    units = [
        {"box": [int(left), int(top), int(right), int(bottom)]}
        for top, bottom in itertools.pairwise(rows)
        for left, right in itertools.pairwise(columns)
    ]
    return Cut("image", row, units, pixels=pixels)


def thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """The picture as the model's cells see it, as PNG; for reports."""
    return png(pixels.transpose(2, 0, 1).astype(np.float32) / 255.0)
