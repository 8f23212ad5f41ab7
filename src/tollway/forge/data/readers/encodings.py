"""Which encoding a text file is in, and where it breaks it: UTF-8 with or without BOM, UTF-16 by BOM, GB18030, Latin-1.

UTF-8 is proven by decoding every byte. What is not UTF-8 is GB18030 if all of it decodes and nearly all of its non-ASCII
pairs lie where Chinese text lies; it is broken UTF-8 if most of its multi-byte sequences are right; else Latin-1, which
fits anything and is therefore said aloud.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tollway.forge.data.problems import Problems

_CHUNK: Final = 1 << 20
_GOOD_UTF8: Final = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_CHINESE: Final = re.compile(rb"[\xa1-\xf7][\xa1-\xfe]")
_HIGH: Final = re.compile(rb"[\x80-\xff]")
_BOMS: Final = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def detect(path: Path) -> str:
    """The name of the codec that reads this file."""
    with path.open("rb") as file:
        head = file.read(4)
    for bom, name in _BOMS:
        if head.startswith(bom):
            return name
    if _decodes(path, "utf-8"):
        return "utf-8"
    good = chinese = high = 0
    for chunk in _chunks(path):
        good += sum(len(one) for one in _GOOD_UTF8.findall(chunk))
        chinese += 2 * len(_CHINESE.findall(chunk))
        high += len(_HIGH.findall(chunk))
    if good > 0.75 * high:
        return "utf-8"
    if chinese >= 0.9 * high and _decodes(path, "gb18030"):
        return "gb18030"
    return "cp1252" if _decodes(path, "cp1252") else "latin-1"


def check(path: Path, encoding: str, problems: Problems, file: str = "") -> str:
    """Settle the encoding and list every line that breaks it, and every line with a NUL byte. Returns the codec."""
    name = encoding or detect(path)
    try:
        codecs.lookup(name)
    except LookupError:
        problems.add("encoding", f"{name!r} is no encoding Python knows", file=file)
        return "latin-1"
    if name.replace("-", "_").lower().startswith("utf_16"):
        if not _decodes(path, name):
            problems.add("encoding", "the file is not the UTF-16 it begins as", file=file)
        return name
    whole = _decodes(path, name)
    if whole and not any(b"\0" in chunk for chunk in _chunks(path)):
        if name in ("cp1252", "latin-1") and not encoding:
            problems.note(f"{file or path.name}: read as {name} (Western European), because it is not UTF-8. "
                          "If letters look wrong, say --encoding.")  # fmt: skip
        elif name == "gb18030" and not encoding:
            problems.note(f"{file or path.name}: read as GB18030 (Chinese).")
        return name
    with path.open("rb") as raw:
        for number, line in enumerate(raw, 1):
            if b"\0" in line:
                problems.add("nul", "a line has NUL bytes", line=number, file=file, shown=_cut(line, line.index(b"\0")))
            try:
                line.decode(name)
            except UnicodeDecodeError as error:
                what = f"bytes that are not {name}"
                problems.add("encoding", what, line=number, file=file, shown=_cut(line, error.start))
    return name


def _cut(line: bytes, at: int) -> str:
    around = line[max(at - 12, 0) : at + 12].rstrip(b"\r\n")
    return f"byte {at + 1}: …{around.decode('ascii', 'backslashreplace')}…".replace("\x00", "\\x00")


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _decodes(path: Path, name: str) -> bool:
    decoder = codecs.getincrementaldecoder(name)()
    try:
        for chunk in _chunks(path):
            decoder.decode(chunk)
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return False
    return True
