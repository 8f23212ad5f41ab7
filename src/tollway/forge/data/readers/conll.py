"""CoNLL: a token a line with its columns, a blank line after each sentence; the last column is the tag.

    EU NNP B-NP B-ORG           CoNLL-2003, 2002, WNUT, OntoNotes in columns, any BIO file (spaces or tabs)
    1  EU  EU  PROPN …          CoNLL-U: FORM is the token, UPOS the tag

Becomes `tokens` and `tags`. `-DOCSTART-` lines and comments are left out.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tollway.forge.data.readers import encodings
from tollway.forge.data.readers.found import Found, Reading

SUFFIXES: Final = (".conll", ".conllu", ".conll2003", ".iob", ".iob2", ".bio", ".bioes", ".iobes")
_TAG: Final = re.compile(r"O|[BIESLUM]-\S+")
_NUMBER: Final = re.compile(r"\d+([-.]\d+)?")
_UNIVERSAL_COLUMNS: Final = 10
_LOOK_LINES: Final = 200


def looks_like(path: Path) -> bool:
    """Whether a text file is of this kind: many columns, tags at the end, sentences parted by blank lines."""
    with path.open(encoding="utf-8", errors="replace") as text:
        lines = [line.rstrip("\r\n") for line, _ in zip(text, range(_LOOK_LINES), strict=False)]
    filled = [line.split() for line in lines if line.strip() and not line.startswith(("# ", "-DOCSTART-"))]
    tagged = [len(cells) >= 2 and _TAG.fullmatch(cells[-1]) is not None for cells in filled]
    return len(filled) >= 3 and all(tagged) and any(cells[-1] != "O" for cells in filled)


def read(path: Path, reading: Reading, file: str = "") -> Found:
    """A row for each sentence."""
    import pyarrow as pa

    encoding = encodings.check(path, reading.options.encoding, reading.problems, file)
    sentences = list(_sentences(path, encoding, reading, file or path.name))
    if not sentences:
        if not reading.problems.kinds:
            reading.problems.add("empty", "the file has no tokens", file=file)
        return Found("conll")
    words = pa.list_(pa.string())
    columns = {
        "tokens": pa.array([[token for token, _ in one] for one in sentences], words),
        "tags": pa.array([[tag for _, tag in one] for one in sentences], words),
    }
    names = ("tokens", "tags")
    return Found("conll", {"train": pa.table(columns)}, dict.fromkeys(names, "tokens"), {name: name for name in names})


def _sentences(path: Path, encoding: str, reading: Reading, file: str) -> Iterator[list[tuple[str, str]]]:
    sentence: list[tuple[str, str]] = []
    width, whole = 0, True
    size, done = path.stat().st_size, 0
    with path.open(encoding=encoding, errors="replace") as text:
        for number, line in enumerate(itertools.chain(text, [""]), 1):
            done += len(line)
            if number % 20_000 == 0:
                reading.progress(min(done, size), size)
            cells = (
                [cell.strip() for cell in (line.split("\t") if "\t" in line else line.split())] if line.strip() else []
            )
            if not cells:
                if sentence and whole:
                    yield sentence
                sentence, whole = [], True
                continue
            if cells[0] == "-DOCSTART-" or _is_comment(line, cells, width):
                continue
            width = width or len(cells)
            if len(cells) != width or len(cells) < 2:
                why = (
                    "a line has no tag"
                    if len(cells) < 2
                    else f"a line has more or fewer columns than the first one's {width}"
                )
                reading.problems.add("ragged", why, line=number, file=file, shown=line.strip()[:60])
                whole = False
                continue
            pair = _pair(cells)
            if pair is not None:
                sentence.append(pair)


def _is_comment(line: str, cells: list[str], width: int) -> bool:
    """`# text = …`; a token that is `#` has as many columns as the others."""
    return line.startswith("# ") and len(cells) != width


def _pair(cells: list[str]) -> tuple[str, str] | None:
    """Token and tag; None for what CoNLL-U adds beside the words (ranges, empty nodes)."""
    if len(cells) == _UNIVERSAL_COLUMNS and _NUMBER.fullmatch(cells[0]):
        return (cells[1], cells[3]) if cells[0].isdigit() else None
    return cells[0], cells[-1]
