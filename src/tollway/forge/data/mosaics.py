"""Pictures to find objects in, put together from small ones: a textured canvas, and some of them on it in random sizes.

For samples: what is found is real (garments, digits), where it is follows from the seed. The same seed makes the same bytes.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Pixels = np.ndarray[Any, Any]

_TRIES: Final = 40
_OVERLAP: Final = 0.08  # two objects may touch, but neither may hide the other
_INK: Final = 24  # of 255: darker pixels of an object are air around it


@dataclass(frozen=True)
class Canvas:
    """What is put together: pixels a side, how many objects, how large."""

    side: int
    objects: tuple[int, int]
    sides: tuple[int, int]


def of(pixels: "Pixels", labels: Sequence[Any], count: int, canvas: Canvas, seed: int) -> "pa.Table":
    """`count` pictures of objects drawn from `pixels` (n, height, width), with their `boxes` as JSON."""
    import numpy as np
    import pyarrow as pa

    from tollway.forge.data.images import png

    images, boxes = [], []
    for number in range(count):
        chance = np.random.default_rng([seed, number])
        picture, found = _one(pixels, labels, canvas, chance)
        images.append(png(picture))
        boxes.append(json.dumps(found, ensure_ascii=False))
    return pa.table({"image": pa.array(images, pa.binary()), "boxes": pa.array(boxes, pa.string())})


def _one(pixels: "Pixels", labels: Sequence[Any], canvas: Canvas, chance: Any) -> tuple["Pixels", list[dict[str, Any]]]:
    import numpy as np

    picture = _texture(canvas.side, chance)
    found: list[dict[str, Any]] = []
    for _ in range(int(chance.integers(canvas.objects[0], canvas.objects[1] + 1))):
        which = int(chance.integers(len(pixels)))
        small = _scaled(pixels[which], int(chance.integers(canvas.sides[0], canvas.sides[1] + 1)))
        rows, columns = np.flatnonzero((small > _INK).any(axis=1)), np.flatnonzero((small > _INK).any(axis=0))
        if not len(rows) or not len(columns):
            continue
        small = small[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        place = _place(small.shape, found, canvas.side, chance)
        if place is None:
            continue
        top, left = place
        bottom, right = top + small.shape[0], left + small.shape[1]
        cover = np.clip(small / (2 * _INK), 0, 1)
        light = small * chance.uniform(0.7, 1.0) + 30
        part = picture[top:bottom, left:right]
        picture[top:bottom, left:right] = part * (1 - cover) + light * cover
        found.append({"label": str(labels[which]), "box": [left, top, right, bottom]})
    return np.clip(picture, 0, 255).astype(np.uint8), found


def _texture(side: int, chance: Any) -> "Pixels":
    """A dim ground that is nowhere even: a slope, stripes, grain."""
    import numpy as np

    down, across = np.mgrid[0:side, 0:side] / side
    slope = chance.uniform(-40, 40) * down + chance.uniform(-40, 40) * across
    turn, waves = chance.uniform(0, np.pi), chance.uniform(2, 9)
    stripes = np.sin(2 * np.pi * waves * (np.cos(turn) * across + np.sin(turn) * down) + chance.uniform(0, 6.3))
    grain = chance.normal(0, chance.uniform(2, 10), (side, side))
    return np.asarray(chance.uniform(30, 80) + slope + chance.uniform(3, 16) * stripes + grain, dtype=np.float64)


def _scaled(picture: "Pixels", side: int) -> "Pixels":
    import numpy as np
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR), dtype=np.float64)


def _place(shape: tuple[int, ...], found: list[dict[str, Any]], side: int, chance: Any) -> tuple[int, int] | None:
    """Somewhere that hides no other object; None when the canvas is full."""
    import numpy as np

    from tollway.inference.boxes import overlaps

    others = np.asarray([one["box"] for one in found], dtype=np.float64).reshape(-1, 4)
    for _ in range(_TRIES):
        top, left = int(chance.integers(0, side - shape[0] + 1)), int(chance.integers(0, side - shape[1] + 1))
        box = np.asarray([[left, top, left + shape[1], top + shape[0]]], dtype=np.float64)
        if overlaps(box, others).max(initial=0.0) <= _OVERLAP:
            return top, left
    return None


# -- the samples: tables by split, and what their columns are


def fashion(read: Callable[[str], tuple["Pixels", Sequence[Any]]]) -> tuple[dict[str, "pa.Table"], dict[str, str]]:
    """Fashion-MNIST's own two parts (`read` by the stem of their files): 6,000 and 800 pictures of 2 to 6 garments."""
    canvas = Canvas(side=96, objects=(2, 6), sides=(18, 40))
    parts = (("train", "train", 6000, 1), ("test", "t10k", 800, 2))
    return {split: of(*read(stem), count, canvas, seed) for split, stem, count, seed in parts}, {"boxes": "json"}


def digits(pixels: "Pixels", labels: Sequence[Any]) -> tuple[dict[str, "pa.Table"], dict[str, str]]:
    """900 and 150 pictures of 1 to 4 digits; those of the test pictures are other digits than those learnt from."""
    canvas, cut = Canvas(side=64, objects=(1, 4), sides=(14, 28)), len(pixels) * 4 // 5
    tables = {
        "train": of(pixels[:cut], labels[:cut], 900, canvas, 1),
        "test": of(pixels[cut:], labels[cut:], 150, canvas, 2),
    }
    return tables, {"boxes": "json"}
