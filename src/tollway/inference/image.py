"""Pictures to pixels: classification, and generation (where a row is a seed, not a picture).

A picture is PNG, JPEG, WebP, BMP or GIF bytes, a data URL or an array of 0..255. It is kept as bytes until a batch is made,
so that sixty thousand small ones fit in memory.
"""

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np

from tollway.inference.encoding import Arrays, Encoded, Features, Row, Table, Target, column, wrong
from tollway.kit.errors import BadRequest

FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
MOST_PIXELS: Final = 40_000_000  # a small file may unfold into gigabytes; its header tells
_STATISTICS_ROWS: Final = 2_000
IMAGENET: Final = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class ImageFeatures(Features):
    """`image` to `pixel_values` [rows, channels, size, size]; for generation a `seed` to `noise`, and where classes are
    drawn a `label` to `classes` (a class by the seed when none is asked for)."""

    kind: ClassVar[str] = "image"
    defaults: ClassVar[dict[str, Any]] = {"size": 0, "channels": 0, "normalise": "data", "fit": "stretch", "noise": 0,
                                          "conditional": False}  # fmt: skip

    def __init__(
        self, task: str, options: Mapping[str, Any], target: Target, mean: list[float], std: list[float]
    ) -> None:
        self.task, self.target = task, target
        self.options = {**self.defaults, **options}
        self.size, self.channels = int(self.options["size"]), int(self.options["channels"])
        self.mean, self.std = mean, std
        shape = (1, self.channels, 1, 1)
        self._scale = (1.0 / (255.0 * np.asarray(std, dtype=np.float32))).reshape(shape)
        self._shift = (np.asarray(mean, dtype=np.float32) / np.asarray(std, dtype=np.float32)).reshape(shape)

    @classmethod
    def fit(cls, task: str, table: Table, options: Mapping[str, Any] | None = None) -> Self:
        chosen = {**cls.defaults, **{name: one for name, one in (options or {}).items() if name in cls.defaults}}
        images = column(table, "image")
        if not images:
            raise BadRequest("There are no pictures to learn from.", param="image")
        first = opened(images[0], 0)
        chosen["size"] = int(chosen["size"]) or min(224, max(first.size))
        chosen["channels"] = int(chosen["channels"]) or (1 if first.mode in ("L", "1", "I", "I;16") else 3)
        if chosen["channels"] not in (1, 3):
            raise BadRequest("channels must be 1 (grey) or 3 (colour).", param="channels")
        generating = task == "image-generation"
        if generating and not chosen["noise"]:
            chosen["noise"] = 64
        target = cls._target(task, chosen, table)
        made = cls(task, chosen, target, [0.0] * chosen["channels"], [1.0] * chosen["channels"])
        mean, std = made._statistics(images, "unit" if generating else str(chosen["normalise"]))
        return cls(task, chosen, made.target, mean, std)

    @staticmethod
    def _target(task: str, options: Mapping[str, Any], table: Table) -> Target:
        drawn = task == "image-generation" and options.get("conditional")
        return Target.fit("image-classification" if drawn else task, table)

    def retarget(self, task: str, table: Table) -> Self:
        """Where classes are drawn, they are those of the new rows."""
        if not self.options["conditional"]:
            return super().retarget(task, table)
        self.target, self.task = self._target(task, self.options, table), task
        return self

    def _statistics(self, images: list[Any], way: str) -> tuple[list[float], list[float]]:
        if way == "imagenet":
            return (IMAGENET[0], IMAGENET[1]) if self.channels == 3 else ([0.449], [0.226])
        if way == "unit":  # 0..1 stays 0..1
            return [0.0] * self.channels, [1.0] * self.channels
        step = max(1, len(images) // _STATISTICS_ROWS)
        found = [self._pixels({"image": one}, number) for number, one in enumerate(images[::step])]
        pixels = np.stack(found).astype(np.float32) / 255.0
        spread = np.maximum(pixels.std(axis=(0, 2, 3)), 1e-3)
        return pixels.mean(axis=(0, 2, 3)).tolist(), spread.tolist()

    def fields(self) -> dict[str, str]:
        if self.task == "image-generation":
            return {"seed": "integer", "label": "category"} if self.options["conditional"] else {"seed": "integer"}
        return {"image": "image"}

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        return [self._one(row, number) for number, row in enumerate(rows)]

    def _one(self, row: Row, number: int) -> Encoded:
        if self.task != "image-generation":
            return {"pixel_values": self._pixels(row, number)}
        drawn = row.get("image") is None
        made = {"noise": self._noise(row, number)} if drawn else {"pixel_values": self._pixels(row, number)}
        return made | {"classes": self._class(row, number)} if self.options["conditional"] else made

    def _class(self, row: Row, number: int) -> np.ndarray:
        asked = row.get("label")
        if asked is None and row.get("image") is None:
            return np.asarray(np.random.default_rng([self._seed(row, number), 1]).integers(len(self.labels)))
        if str(asked) not in self.labels:
            raise wrong(number, "label", f"{asked!r} is not one of {', '.join(self.labels[:20])}.")
        return np.asarray(self.labels.index(str(asked)))

    def _pixels(self, row: Row, number: int) -> np.ndarray:
        picture = opened(row.get("image"), number)
        mode = "L" if self.channels == 1 else "RGB"
        try:
            picture = _fitted(picture.convert(mode), self.size, str(self.options["fit"]))
        except (OSError, ValueError, SyntaxError) as error:  # a picture that breaks off in the middle
            raise wrong(number, "image", f"the picture is damaged ({error}).") from error
        pixels = np.asarray(picture, dtype=np.uint8)
        return pixels[None] if self.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def _seed(self, row: Row, number: int) -> int:
        seed = row.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise wrong(number, "seed", "a whole number from 0 is expected.")
        return seed

    def _noise(self, row: Row, number: int) -> np.ndarray:
        seed = self._seed(row, number)
        return np.random.default_rng(seed).standard_normal(int(self.options["noise"])).astype(np.float32)

    def collate(self, encoded: Sequence[Encoded]) -> Arrays:
        classes = {"classes": np.stack([one["classes"] for one in encoded])} if self.options["conditional"] else {}
        if encoded and "noise" in encoded[0]:
            return {"noise": np.stack([one["noise"] for one in encoded]), **classes}
        pixels = np.stack([one["pixel_values"] for one in encoded]).astype(np.float32)
        return {"pixel_values": pixels * self._scale - self._shift, **classes}

    def targets(self, rows: Sequence[Row]) -> Arrays:
        return {} if self.task == "image-generation" else super().targets(rows)

    def decode(
        self, outputs: Arrays, rows: Sequence[Row] = (), encoded: Sequence[Encoded] = ()
    ) -> list[dict[str, Any]]:
        if "image" in outputs:
            drawn = [{"label": self.labels[int(one["classes"])]} if "classes" in one else {} for one in encoded]
            pictures = [{"image": png(one)} for one in outputs["image"]]
            return [one | said for one, said in zip(pictures, drawn or [{}] * len(pictures), strict=True)]
        return self.target.answers(outputs)

    def example(self, rows: int = 2) -> list[dict[str, Any]]:
        if self.task == "image-generation":
            return [{"seed": number} for number in range(rows)]
        grey = np.random.default_rng(0).integers(0, 256, (rows, self.size, self.size, 3), dtype=np.uint8)
        return [{"image": one} for one in grey]

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std}

    @classmethod
    def restore(cls, state: dict[str, Any], folder: Path) -> Self:
        inner = state["state"]
        return cls(state["task"], state["options"], Target(**state["target"]), inner["mean"], inner["std"])


def opened(value: Any, number: int) -> Any:
    """A picture, its header read and believed only so far: kind and size are checked before a pixel is decoded."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or value.ndim not in (2, 3) or (value.ndim == 3 and value.shape[2] not in (1, 3, 4)):
            raise wrong(number, "image", "an array must be height x width (x 3) of 0..255.")
        return Image.fromarray(value[:, :, 0] if value.ndim == 3 and value.shape[2] == 1 else value)
    if isinstance(value, str):
        value = _from_data_url(value, number)
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):  # as Hugging Face datasets store them
        value = value["bytes"]
    if not isinstance(value, (bytes, bytearray, memoryview)) or not value:
        raise wrong(number, "image", "a picture is expected: PNG, JPEG, WebP, BMP or GIF.")
    try:
        picture = Image.open(io.BytesIO(value), formats=FORMATS)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise wrong(number, "image", "this is no picture that can be read: PNG, JPEG, WebP, BMP or GIF.") from error
    if picture.width * picture.height > MOST_PIXELS:
        raise wrong(number, "image", f"{picture.width} x {picture.height} pixels are too many.", "Scale it down.")
    return picture


def _from_data_url(text: str, number: int) -> bytes:
    head, comma, body = text.partition(",")
    if not (comma and head.startswith("data:image/") and head.endswith(";base64")):
        raise wrong(number, "image", "text must be a data URL: data:image/png;base64,...")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise wrong(number, "image", "the data URL is not valid base64.") from error


def _fitted(picture: Any, size: int, way: str) -> Any:
    from PIL import Image, ImageOps

    if picture.size == (size, size):
        return picture
    if way == "crop":
        return ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    return picture.resize((size, size), Image.Resampling.BILINEAR)


def png(pixels: np.ndarray) -> bytes:
    """[channels, height, width] of 0..1 as a PNG file."""
    from PIL import Image

    whole = (np.clip(np.nan_to_num(pixels), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    picture = Image.fromarray(whole[0]) if whole.shape[0] == 1 else Image.fromarray(whole.transpose(1, 2, 0))
    out = io.BytesIO()
    picture.save(out, format="PNG")
    return out.getvalue()
