"""CSV that people open: no cell is a formula, whoever named the thing, and what is no formula stays as it was."""

import csv
import io

import pytest

from tollway.guard import spreadsheet

FORMULAS = [
    '=HYPERLINK("http://elsewhere","click")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "  =1",
    "\u00a0=1",
    "＝1+1",
    "＠SUM(1)",
]


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_formula_is_shown_as_text(cell: str) -> None:
    file = io.StringIO(newline="")
    spreadsheet.write(file, [["name", "requests"], [cell, 3]])
    rows = list(csv.reader(io.StringIO(file.getvalue(), newline="")))
    assert rows == [["name", "requests"], ["'" + cell, "3"]]


@pytest.mark.parametrize("cell", ["smollm2", "a=b", "a\nb", "患者刘洋", "", "2026-01-01", -5, -0.5, None, True])
def test_what_is_no_formula_stays(cell: object) -> None:
    assert spreadsheet.plain(cell) == cell
