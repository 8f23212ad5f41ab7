"""CSV for people's spreadsheets: the one way in which the console and the command line write it.

A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula and runs it on the reader's machine; names of
models, keys and organizations are what buyers and upstreams made of them. Such a cell gets an apostrophe in front: it is
shown as the text it is. Numbers stay numbers.
"""

import csv
from collections.abc import Iterable
from typing import Any, Final, TextIO

_FORMULA: Final = (
    "=",
    "+",
    "-",
    "@",
    "＝",
    "＋",
    "－",
    "＠",
)  # the wide ones too: East Asian spreadsheets read them alike
_CONTROL: Final = ("\t", "\r", "\n", "\0")


def plain(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    if not isinstance(cell, str):
        return cell
    return f"'{cell}" if cell.startswith(_CONTROL) or cell.lstrip().startswith(_FORMULA) else cell


def write(file: TextIO, rows: Iterable[Iterable[Any]]) -> None:
    """Rows of cells as CSV."""
    writer = csv.writer(file)
    for row in rows:
        writer.writerow([plain(cell) for cell in row])
