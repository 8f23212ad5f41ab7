"""The formats that weights come in, for whoever reads, writes, lists or serves them: one table, one line a format.

    FORMATS["onnx-int8"].engine        "onnx": what executes it
    of_file("model.int8.onnx")         its format; None for a file that holds no weights
    for_engine(forms, "torch")         which of these a named engine serves; "" where it reads none

Their order says what to serve unless the maker chooses: the first that is there. Eight bits come first: they passed the
parity check, or would not be in the package.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final, NamedTuple


class Format(NamedTuple):
    """`engine`: what executes it. `file`: what the factory calls it. `served`: whether a replica can load it."""

    engine: str
    file: str
    served: bool = True

    @property
    def ending(self) -> str:
        """What its files end in."""
        return PurePosixPath(self.file).suffix

    @property
    def rounding(self) -> str:
        """How its numbers are rounded, as its file name says (`.int8`); "": not at all."""
        return PurePosixPath(PurePosixPath(self.file).stem).suffix


FORMATS: Final[dict[str, Format]] = {
    "onnx-int8": Format("onnx", "model.int8.onnx"),
    "onnx-int4": Format("onnx", "model.int4.onnx"),
    "onnx": Format("onnx", "model.onnx"),
    "gguf": Format("llama_cpp", "model.gguf"),
    "openvino-int8": Format("openvino", "model.int8.xml"),
    "openvino-bf16": Format("openvino", "model.bf16.xml"),
    "openvino": Format("openvino", "model.xml"),
    "litert-int8": Format("litert", "model.int8.tflite"),
    "litert": Format("litert", "model.tflite"),
    "ctranslate2": Format("speech", "model.bin"),
    "pt2": Format("torch", "model.pt2"),
    # building a net from the first takes the factory's code; reading the second unpickles
    "safetensors": Format("torch", "model.safetensors", served=False),
    "torchscript": Format("torch", "model.torchscript", served=False),
}
ROLES_OF_A_FORMAT: Final = ("weights", "part")
"""Roles of the files that one format alone needs."""
ROWS: Final = ("onnx", "openvino", "litert", "torch")
"""The engines that answer row by row, all in the same kind of replica."""
SERVED: Final = ("llama_cpp", *ROWS, "speech")
"""The engines that replicas have."""
ENDINGS: Final = tuple(dict.fromkeys(one.ending for one in FORMATS.values()))


def of_file(path: PurePosixPath) -> str | None:
    """The format of a file by its ending; `model.int8.onnx` says how its numbers are rounded."""
    if path.suffix not in ENDINGS:
        return None
    rounding = PurePosixPath(path.stem).suffix
    same = {one.rounding: name for name, one in FORMATS.items() if one.ending == path.suffix}
    return same.get(rounding, same.get(""))


def for_engine(forms: Sequence[str], engine: str) -> str:
    """The first of these formats that a row engine serves, float ones before the others; "" where there is none."""
    found = [one for one in forms if engine in ROWS and one in FORMATS and FORMATS[one].served and FORMATS[one].engine == engine]
    return min(found, key=lambda one: bool(FORMATS[one].rounding), default="")
