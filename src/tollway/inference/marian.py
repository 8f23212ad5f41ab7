"""Marian's tokenizers (the OPUS-MT translation models): two SentencePiece files and one vocabulary, no tokenizer.json.

    source, target = marian.read(folder)      # reads source.spm, target.spm, vocab.json

Each becomes a fast tokenizer whose pieces have the numbers of vocab.json. The few fields that matter are read from the
SentencePiece file (a protobuf message) here: no library of its own is needed.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tollway.kit.errors import BadRequest

FILES: Final = ("source.spm", "target.spm", "vocab.json")
_ORDINARY: Final = (0, 1, 4)  # kinds of pieces that stand for text: unset, normal, user-defined
_NEVER: Final = -1e4  # the score of a piece that only the other language's file has
_LARGEST: Final = 64 << 20


def is_marian(folder: Path) -> bool:
    """Whether a folder has Marian's files and no fast tokenizer."""
    return all((folder / name).is_file() for name in FILES) and not (folder / "tokenizer.json").is_file()


def read(folder: Path) -> tuple[Any, Any]:
    """The tokenizers of both languages. Raises BadRequest for files that are something else."""
    try:
        numbers = json.loads((folder / FILES[2]).read_text(encoding="utf-8"))
        if not isinstance(numbers, dict) or sorted(numbers.values()) != list(range(len(numbers))):
            raise ValueError("vocab.json does not number its pieces from 0")
        return _tokenizer(folder / FILES[0], numbers), _tokenizer(folder / FILES[1], numbers)
    except (ValueError, IndexError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise BadRequest(
            f"The tokenizer of {folder.name} cannot be read: {error}", code="invalid_model_file"
        ) from error


def _tokenizer(path: Path, numbers: dict[str, int]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path.name} is too large")
    scores, charsmap = _pieces(path.read_bytes())
    end, unknown = "</s>", "<unk>"
    listed = sorted(numbers, key=numbers.__getitem__)
    made = Tokenizer(models.Unigram([(piece, scores.get(piece, _NEVER)) for piece in listed], unk_id=numbers[unknown]))
    cleaning = [normalizers.Precompiled(charsmap)] if charsmap else []
    made.normalizer = normalizers.Sequence([*cleaning, normalizers.Replace(" ", "▁")]) if cleaning else None
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=False)
    made.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    marks = [one for one in (end, unknown, "<pad>") if one in numbers]
    made.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in marks])
    made.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, numbers[end])])
    return made


def _pieces(data: bytes) -> tuple[dict[str, float], bytes]:
    """The scores of the pieces, and the table of characters that are written another way."""
    scores: dict[str, float] = {}
    charsmap = b""
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):  # SentencePiece
            piece: dict[int, Any] = dict(_fields(value))
            if piece.get(3, 0) in _ORDINARY:
                scores[piece[1].decode()] = struct.unpack("<f", piece.get(2, b"\0\0\0\0"))[0]
        elif number == 3 and isinstance(value, bytes):  # NormalizerSpec
            charsmap = bytes(dict(_fields(value)).get(2, b""))
    if not scores:
        raise ValueError("there are no pieces in the SentencePiece file")
    return scores, charsmap


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: number, and an integer or the bytes."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, place = _varint(data, place)
        if size is None or place + size > len(data):
            raise ValueError("this is no SentencePiece file")
        yield tag >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("this is no SentencePiece file")
