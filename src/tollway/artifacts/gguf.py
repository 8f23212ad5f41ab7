"""Read the header of a GGUF file while believing nothing it says: every count, length and offset is held to the file.

`inspect(path)` is for files of unknown origin: it parses in a limited process (`kit/sandbox.py`), and either returns a
`Header` or raises `BadRequest` naming the lie. `read_header(path)` is the same parser in this process,
for files already verified. Only what a manifest needs is kept; arrays (vocabularies) are measured and stepped over.
"""

import math
import os
import re
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from tollway.kit import sandbox
from tollway.kit.errors import BadRequest, TollwayError

KEYS_MAX: Final = 4096
TENSORS_MAX: Final = 65_536
KEY_BYTES_MAX: Final = 1024
STRING_BYTES_MAX: Final = 1 << 20
STRINGS_MAX: Final = 1 << 21  # in arrays: vocabulary and merges of the largest models have 0.8 million
HEADER_BYTES_MAX: Final = 1 << 28
LIMITS: Final = sandbox.ResourceLimits(memory_bytes=512 << 20, cpu_s=5, wall_s=60, file_bytes=0)
_REFUSED: Final = "invalid_model_file"

# ggml type number -> (name, elements a block, bytes a block)
TENSOR_TYPES: Final[dict[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}  # fmt: skip

# general.file_type -> the name people know the quantisation by
FILE_TYPES: Final[dict[int, str]] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip

_STRING, _ARRAY = 8, 9
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_TOKENIZER: Final = {
    "tokens": ((_STRING,), "text"), "merges": ((_STRING,), "text"), "scores": ((6,), "float32"), "token_type": ((5, 4), "int32"),
}  # fmt: skip
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_KEY = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]*")

Scalar: TypeAlias = str | int | float


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says about itself, after the parts that can be checked were checked."""

    architecture: str
    parameters: int
    quantisation: str
    context_tokens: int
    embedding_length: int
    block_count: int
    vocabulary: int
    name: str
    licence: str
    tokenizer: str
    tokenizer_pre: str
    chat_template: str
    pooling: int | None
    tensors: int
    size_bytes: int


class Lie(ValueError):
    """The file contradicts itself or its own length."""


class _Reader:
    """Little-endian reads that can neither pass the end of the file nor the header budget."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._end = min(size_bytes, HEADER_BYTES_MAX)
        self._strings = STRINGS_MAX
        self.at = 0

    def take(self, count: int, what: str) -> bytes:
        self._room(count, what)
        data = self._file.read(count)
        if len(data) != count:
            raise Lie(f"the file ends inside {what}")
        self.at += count
        return data

    def skip(self, count: int, what: str) -> None:
        self._room(count, what)
        self._file.seek(count, os.SEEK_CUR)
        self.at += count

    def _room(self, count: int, what: str) -> None:
        if count > self._end - self.at:
            raise Lie(f"{what} reaches past the end of the file or of the largest header accepted")

    def number(self, code: str, what: str) -> int | float:
        value: int | float = struct.unpack("<" + code, self.take(struct.calcsize(code), what))[0]
        return value

    def count(self, most: int, what: str) -> int:
        value = int(self.number("Q", what))
        if value > most:
            raise Lie(f"{what} is {value}, more than the {most} accepted")
        return value

    def raw_string(self, most: int, what: str) -> bytes:
        return self.take(self.count(most, f"the length of {what}"), what)

    def string(self, most: int, what: str) -> str:
        try:
            return self.raw_string(most, what).decode()
        except UnicodeDecodeError:
            raise Lie(f"{what} is not UTF-8") from None

    def skip_array(self, what: str) -> tuple[int, int]:
        """Step over an array; the type and the number of its elements. Nested arrays do not occur in models and are refused."""
        kind = int(self.number("I", what))
        length = self.count(1 << 40, f"the length of {what}")
        if kind in _SCALARS:
            self.skip(length * struct.calcsize(_SCALARS[kind]), what)
        elif kind == _STRING:
            self._skip_strings(length, what)
        else:
            raise Lie(f"{what} has elements of unknown type {kind}")
        return kind, length

    def _skip_strings(self, length: int, what: str) -> None:
        self._strings -= length
        if self._strings < 0:
            raise Lie(f"{what} brings it to more than {STRINGS_MAX} strings")
        self._room(8 * length, what)
        for _ in range(length):
            self.skip(self.count(STRING_BYTES_MAX, f"a string in {what}"), what)


@dataclass(frozen=True, slots=True)
class _Tensor:
    kind: int
    elements: int
    size_bytes: int
    offset: int


def read_header(path: Path, name: str = "") -> Header:
    """Parse and check the header of `path` in this process. Raises BadRequest when it lies or is not GGUF; `name` is what
    the file is called where it comes from."""
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            return _parse(_Reader(file, size_bytes), size_bytes)
    except Lie as lie:
        raise _refusal(name or path.name, str(lie)) from None
    except OSError as error:
        raise _refusal(name or path.name, error.strerror or "it cannot be read") from None


def inspect(path: Path, name: str = "") -> Header:
    """Like `read_header`, for a file of unknown origin: parsed in a limited process."""
    try:
        return Header(**sandbox.call(f"{__name__}:facts", {"path": str(path.absolute()), "name": name}, limits=LIMITS))
    except TollwayError as error:
        if error.code in ("limit_memory", "limit_time"):
            raise _refusal(name or path.name, "reading its header needs more memory or time than allowed") from None
        raise


def facts(path: str, name: str = "") -> dict[str, Any]:
    """The header as plain facts."""
    return asdict(read_header(Path(path), name))


def _refusal(name: str, why: str) -> BadRequest:
    return BadRequest(
        f"{name} cannot be used as a model: {why}.",
        code=_REFUSED,
        hint="Give a complete GGUF file (version 2 or 3) as written by llama.cpp's converter.",
    )


def _parse(reader: _Reader, size_bytes: int) -> Header:
    if reader.take(4, "the magic number") != b"GGUF":
        raise Lie("it does not start with GGUF")
    version = reader.number("I", "the version")
    if version not in (2, 3):
        raise Lie(f"it is GGUF version {version}; 2 and 3 (little-endian) are read")
    tensor_count = reader.count(TENSORS_MAX, "the number of tensors")
    key_count = reader.count(KEYS_MAX, "the number of keys")
    facts, arrays = _read_keys(reader, key_count)
    vocabulary = _check_tokenizer(arrays)
    tensors = [_read_tensor(reader, index) for index in range(_some(tensor_count))]
    _check_layout([tensor for _, tensor in tensors], reader.at, size_bytes, facts)
    names = [name for name, _ in tensors]
    if len(set(names)) != len(names):
        raise Lie("two tensors have the same name")
    return _header(facts, vocabulary, [tensor for _, tensor in tensors], size_bytes)


def _some(tensor_count: int) -> int:
    if tensor_count == 0:
        raise Lie("it holds no tensors")
    return tensor_count


def _read_keys(reader: _Reader, count: int) -> tuple[dict[str, Scalar], dict[str, tuple[int, int]]]:
    """The scalar facts, and of the arrays the types and lengths."""
    facts: dict[str, Scalar] = {}
    arrays: dict[str, tuple[int, int]] = {}
    for index in range(count):
        raw = reader.raw_string(KEY_BYTES_MAX, f"the name of key {index}")
        if not _KEY.fullmatch(raw):
            raise Lie(f"the name of key {index} is not a plain word")
        key = raw.decode("ascii")
        if key in facts or key in arrays:
            raise Lie(f"the key {key} occurs twice")
        kind = int(reader.number("I", f"the type of {key}"))
        if kind == _STRING:
            facts[key] = reader.string(STRING_BYTES_MAX, key)
        elif kind == _ARRAY:
            arrays[key] = reader.skip_array(key)
        elif kind in _SCALARS:
            facts[key] = reader.number(_SCALARS[kind], key)
        else:
            raise Lie(f"{key} has the unknown type {kind}")
    return facts, arrays


def _check_tokenizer(arrays: dict[str, tuple[int, int]]) -> int:
    """How many tokens there are. Engines read these arrays as what they should be, as far as there are tokens: what is of
    another type or shorter is not theirs to find."""
    _, tokens = arrays.get("tokenizer.ggml.tokens", (_STRING, 0))
    for name, (kinds, said) in _TOKENIZER.items():
        key = f"tokenizer.ggml.{name}"
        kind, length = arrays.get(key, (kinds[0], tokens))
        if kind not in kinds:
            raise Lie(f"{key} has elements of type {kind}, not {said}")
        if length < tokens and name != "merges":
            raise Lie(f"{key} has {length} elements for {tokens} tokens")
    return tokens


def _read_tensor(reader: _Reader, index: int) -> tuple[bytes, _Tensor]:
    what = f"tensor {index}"
    name = reader.raw_string(255, f"the name of {what}")
    dimensions = int(reader.number("I", f"the rank of {what}"))
    if not 1 <= dimensions <= 4:
        raise Lie(f"{what} has {dimensions} dimensions")
    shape = [int(reader.number("Q", f"the shape of {what}")) for _ in range(dimensions)]
    kind = int(reader.number("I", f"the type of {what}"))
    offset = int(reader.number("Q", f"the offset of {what}"))
    if kind not in TENSOR_TYPES:
        raise Lie(f"{what} has the unknown type {kind}")
    elements = math.prod(shape)
    if not 0 < elements < 1 << 48 or max(shape) >= 1 << 48:
        raise Lie(f"{what} has {elements} elements")
    _, block, block_bytes = TENSOR_TYPES[kind]
    if shape[0] % block:
        raise Lie(f"the rows of {what} are not whole blocks of {block}")
    return name, _Tensor(kind, elements, elements // block * block_bytes, offset)


def _check_layout(tensors: list[_Tensor], header_end: int, size_bytes: int, facts: dict[str, Scalar]) -> None:
    """The engine expects tensors back to back, padded to the alignment; anything else is a lie or a hiding place."""
    alignment = facts.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 8 <= alignment <= 65_536 or alignment & (alignment - 1):
        raise Lie(f"the alignment {alignment!r} is not a power of two between 8 and 65536")
    expected = 0
    for index, tensor in enumerate(tensors):
        if tensor.offset != expected:
            raise Lie(f"tensor {index} starts at {tensor.offset}, where {expected} belongs")
        expected += -(-tensor.size_bytes // alignment) * alignment
    start = -(-header_end // alignment) * alignment
    last = tensors[-1]
    needed = start + last.offset + last.size_bytes
    if needed > size_bytes:
        raise Lie(f"it is cut short: {size_bytes} bytes of the {needed} its tensors need")
    if size_bytes > start + expected:
        raise Lie(f"{size_bytes - start - expected} unexplained bytes follow its tensors")


def _header(facts: dict[str, Scalar], vocabulary: int, tensors: list[_Tensor], size_bytes: int) -> Header:
    architecture = _text(facts, "general.architecture")
    if not _NAME.fullmatch(architecture):
        raise Lie("it names no architecture")
    number = _numbers(facts, architecture)
    pooling = f"{architecture}.pooling_type"
    return Header(
        architecture=architecture,
        parameters=sum(tensor.elements for tensor in tensors),
        quantisation=_quantisation(facts, tensors),
        context_tokens=number("context_length", 1 << 24),
        embedding_length=number("embedding_length", 1 << 20),
        block_count=number("block_count", 4096),
        vocabulary=vocabulary,
        name=_text(facts, "general.name"),
        licence=_text(facts, "general.license"),
        tokenizer=_text(facts, "tokenizer.ggml.model"),
        tokenizer_pre=_text(facts, "tokenizer.ggml.pre"),
        chat_template=_text(facts, "tokenizer.chat_template"),
        pooling=number("pooling_type", 16) if pooling in facts else None,
        tensors=len(tensors),
        size_bytes=size_bytes,
    )


def _text(facts: dict[str, Scalar], key: str) -> str:
    value = facts.get(key, "")
    if not isinstance(value, str):
        raise Lie(f"{key} is not text")
    return value


def _numbers(facts: dict[str, Scalar], architecture: str) -> Callable[[str, int], int]:
    def number(field: str, most: int) -> int:
        value = facts.get(f"{architecture}.{field}", 0)
        if not isinstance(value, int) or not 0 <= value <= most:
            raise Lie(f"{architecture}.{field} is {value!r}")
        return value

    return number


def _quantisation(facts: dict[str, Scalar], tensors: list[_Tensor]) -> str:
    """The declared file type, else the type that holds most of the elements."""
    declared = facts.get("general.file_type")
    if isinstance(declared, int) and declared in FILE_TYPES:
        return FILE_TYPES[declared]
    weight: dict[int, int] = {}
    for tensor in tensors:
        weight[tensor.kind] = weight.get(tensor.kind, 0) + tensor.elements
    return TENSOR_TYPES[max(weight, key=lambda kind: weight[kind])][0]
