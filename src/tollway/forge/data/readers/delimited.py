"""CSV and TSV, as people really write them: any delimiter, encoding and quoting; every bad line is listed with its number.

Rows go through Python's csv module (exact line numbers), then all types are found on whole columns in Arrow.
"""

import csv
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tollway.forge.data.readers import encodings
from tollway.forge.data.readers.found import Found, Reading
from tollway.forge.data.schema import guess

if TYPE_CHECKING:
    import pyarrow as pa

_DELIMITERS: Final = (",", "\t", ";", "|")
_SAMPLE: Final = 64
_BATCH: Final = 20_000
_LONG_ROW: Final = 200
"""A row over more lines than this has most likely an opened quote that is never closed."""


def read(path: Path, reading: Reading, file: str = "") -> Found:
    """The rows of one file, in the split `train`."""
    options, problems = reading.options, reading.problems
    encoding = encodings.check(path, options.encoding, problems, file)
    delimiter = {"\\t": "\t", "tab": "\t"}.get(options.delimiter, options.delimiter) or _sniff(path, encoding)
    quoting = csv.QUOTE_NONE if _unquoted(path, encoding, delimiter, options.quotes) else csv.QUOTE_MINIMAL
    csv.field_size_limit(min(options.field_chars_max, 2**31 - 1))
    rows = _rows(path, encoding, delimiter, quoting, reading, file)
    first = next(rows, None)
    if first is None:
        problems.add("empty", "the file has no rows", file=file or path.name)
        return Found("csv")
    names, head = _header(first[1], reading, file)
    tables = _tables(itertools.chain([first] if head else [], rows), names, first[0], reading, file)
    if not tables:
        problems.add("empty", "the file has a header and no rows", file=file or path.name)
        return Found("csv")
    import pyarrow as pa

    kinds = dict(options.kinds)
    if options.label in names:
        kinds.setdefault(options.label, "category")
    if options.text in names:
        kinds.setdefault(options.text, "text")
    for name in dict.fromkeys([*kinds, options.text, options.label]):
        if name and name not in names:
            problems.add("column", f"there is no column {name!r}; there are: {', '.join(names[:50])}", file=file)
    return Found("tsv" if delimiter == "\t" else "csv", {"train": guess(pa.concat_tables(tables), kinds)}, kinds)


def _rows(
    path: Path, encoding: str, delimiter: str, quoting: int, reading: Reading, file: str
) -> Iterator[tuple[int, list[str]]]:
    """(line where it starts, cells) of every row that is not blank; what cannot be read is listed."""
    size, problems = path.stat().st_size, reading.problems
    with path.open("rb") as raw, io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline="") as text:
        # Quoting is read strictly, so that a stray quote is a problem and not half a file in one cell.
        reader = csv.reader(text, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                what, shown = _told(str(error), reading.options.field_chars_max)
                problems.add("quote" if "quote" in what else "field", what, line=start, file=file, shown=shown)
                continue
            if cells and (len(cells) > 1 or cells[0].strip()):
                yield start, cells
            if reader.line_num % 5000 == 0:
                reading.progress(min(raw.tell(), size), size)


def _told(error: str, limit: int) -> tuple[str, str]:
    if "field limit" in error or "field larger" in error:
        return f"a field has more than {limit:,} characters", "(--field-max allows more)"
    if "unexpected end of data" in error:
        return "a quote is opened and never closed", ""
    if "expected after" in error:
        return "a quote stands inside a quoted field without being doubled", ""
    return f"the row cannot be read ({error})", ""


def _header(first: list[str], reading: Reading, file: str) -> tuple[list[str], bool]:
    """The names of the columns, and whether the first row is data as well."""
    asked = reading.options.header
    cells = [cell.strip().lstrip("\ufeff") for cell in first]
    numbers = any(_number(cell) for cell in cells)
    if asked is False or (asked is None and numbers):
        if asked is None:
            reading.problems.note(f"{file or 'The file'} has no header (its first row has numbers): columns are c1, c2 …")
        return [f"c{place}" for place in range(1, len(cells) + 1)], True
    names = [cell or f"c{place}" for place, cell in enumerate(cells, 1)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        reading.problems.add("header", f"the column name {name!r} is there more than once", line=1, file=file)
    return names, False


def _tables(
    rows: Iterator[tuple[int, list[str]]], names: list[str], begin: int, reading: Reading, file: str
) -> "list[pa.Table]":
    import pyarrow as pa

    width, skipped, broken = len(names), 0, "\ufffd"
    tables = []
    unique = [name if names.index(name) == place else f"{name}_{place}" for place, name in enumerate(names)]
    while batch := list(itertools.islice(rows, _BATCH)):
        good = []
        for line, cells in batch:
            if len(cells) != width:
                what = f"a row has more or fewer cells than the header's {width}"
                reading.problems.add("ragged", what, line=line, file=file, shown=f"{len(cells)} cells")
                skipped += 1
            elif reading.options.skip_bad and any("\0" in cell or broken in cell for cell in cells):
                skipped += 1
            else:
                good.append(cells)
        if good:
            columns = [[cell or None for cell in column] for column in zip(*good, strict=True)]
            tables.append(pa.table([pa.array(one, pa.string()) for one in columns], names=unique))
    return tables


def _sniff(path: Path, encoding: str) -> str:
    """The delimiter that cuts the first lines into the most even rows of more than one cell."""
    with path.open(encoding=encoding, errors="replace", newline="") as text:
        lines = list(itertools.islice(text, _SAMPLE))
    best, best_score = "\t" if path.suffix.lower() in (".tsv", ".tab") else ",", 0.0
    for delimiter in _DELIMITERS:
        try:
            widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            continue
        if not widths or widths[0] < 2:
            continue
        score = sum(width == widths[0] for width in widths) / len(widths) + 0.001 * min(widths[0], 50)
        if score > best_score + 1e-9:
            best, best_score = delimiter, score
    return best


def _unquoted(path: Path, encoding: str, delimiter: str, asked: bool | None) -> bool:
    """Whether quotes mean nothing here: a file of tabs in which reading them as quotes breaks rows that are even without."""
    if asked is not None:
        return not asked
    if delimiter != "\t":
        return False
    with path.open(encoding=encoding, errors="replace", newline="") as text:
        lines = [line for line in itertools.islice(text, 20_000) if line.strip()]
    if not any('"' in line for line in lines):
        return False
    plain = {len(row) for row in csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)}
    try:
        quoted = [len(row) for row in csv.reader(lines, delimiter=delimiter, strict=True)]
    except csv.Error:
        return True
    return len(plain) == 1 and len(quoted) != len(lines)


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
