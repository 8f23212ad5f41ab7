"""Tables: numbers normalised, categories numbered, missing values kept as a fact of their own.

A missing number becomes the mean and sets its flag; a missing category is number 0, one never seen in training is 1.
"""

import datetime as dt
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np

from tollway.inference.encoding import Arrays, Encoded, Features, Row, Table, Target, column, wrong
from tollway.kit.errors import BadRequest

_NOT_FEATURES: Final = ("label", "target")
_MISSING_WORDS: Final = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
_MISSING, _UNKNOWN, _FIRST = 0, 1, 2
_QUANTILES: Final = 65
_CLIP: Final = 10.0


class TabularFeatures(Features):
    """Columns to `numbers` [rows, n] (values, then flags of missing ones) and `categories` [rows, c]."""

    kind: ClassVar[str] = "tabular"
    defaults: ClassVar[dict[str, Any]] = {"normalise": "standard", "max_categories": 200}

    def __init__(self, task: str, options: Mapping[str, Any], target: Target, columns: list[dict[str, Any]]) -> None:
        self.task, self.target, self.columns = task, target, columns
        self.options = {**self.defaults, **options}
        self.numeric = [one for one in columns if one["kind"] in ("number", "time")]
        self.categorical = [one for one in columns if one["kind"] == "category"]
        self._known = {
            one["name"]: {word: number + _FIRST for number, word in enumerate(one["values"])}
            for one in self.categorical
        }
        self._flagged = [place for place, one in enumerate(self.numeric) if one["missing"]]
        self._grids = [np.asarray(one["grid"]) if one.get("grid") else None for one in self.numeric]

    @classmethod
    def fit(cls, task: str, table: Table, options: Mapping[str, Any] | None = None) -> Self:
        chosen = {**cls.defaults, **{name: one for name, one in (options or {}).items() if name in cls.defaults}}
        names = [name for name in table.column_names if name not in _NOT_FEATURES and not name.startswith("x_")]
        if not names:
            raise BadRequest("There is no column to learn from besides the one to predict.", param="columns")
        most = int(chosen["max_categories"])
        columns = [_described(name, column(table, name), str(chosen["normalise"]), most) for name in names]
        return cls(task, chosen, Target.fit(task, table), [one for one in columns if one["kind"] != "empty"])

    @property
    def numbers_width(self) -> int:
        return len(self.numeric) + len(self._flagged)

    @property
    def cardinalities(self) -> list[int]:
        """How many numbers each category column uses, missing and unknown included."""
        return [len(one["values"]) + _FIRST for one in self.categorical]

    def fields(self) -> dict[str, str]:
        return {one["name"]: one["kind"] for one in self.columns}

    def check(self, rows: Sequence[Row]) -> None:
        super().check(rows)
        for number, row in enumerate(rows):
            if not any(one["name"] in row for one in self.columns):
                raise wrong(number, "input", f"give at least one of {', '.join(self.fields())}.")

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        values = np.zeros((len(rows), len(self.numeric)), dtype=np.float64)
        for place, one in enumerate(self.numeric):
            name, read = one["name"], _number if one["kind"] == "number" else _moment
            for number, row in enumerate(rows):
                try:
                    values[number, place] = read(row.get(name))
                except ValueError as error:
                    raise wrong(number, name, str(error)) from error
        numbers = self._normalised(values)
        codes = np.zeros((len(rows), len(self.categorical)), dtype=np.int64)
        for place, one in enumerate(self.categorical):
            name, known = one["name"], self._known[one["name"]]
            for number, row in enumerate(rows):
                word = _word(row.get(name), name, number)
                codes[number, place] = _MISSING if word is None else known.get(word, _UNKNOWN)
        return [{"numbers": numbers[number], "categories": codes[number]} for number in range(len(rows))]

    def _normalised(self, values: np.ndarray) -> np.ndarray:
        """Mean 0, spread 1 (or by rank); what is missing is 0 and flagged."""
        out = np.zeros((len(values), self.numbers_width), dtype=np.float32)
        gone = np.isnan(values)
        for place, one in enumerate(self.numeric):
            grid = self._grids[place]
            if grid is None:
                scaled = (values[:, place] - one["mean"]) / one["std"]
            else:
                scaled = np.interp(values[:, place], grid, np.linspace(-1.7, 1.7, len(grid)))
            out[:, place] = np.where(gone[:, place], 0.0, np.clip(scaled, -_CLIP, _CLIP))
        for flag, place in enumerate(self._flagged):
            out[:, len(self.numeric) + flag] = gone[:, place]
        return out

    def collate(self, encoded: Sequence[Encoded]) -> Arrays:
        names = [name for name, there in (("numbers", self.numeric), ("categories", self.categorical)) if there]
        return {name: np.stack([one[name] for one in encoded]) for name in names}

    def example(self, rows: int = 2) -> list[dict[str, Any]]:
        made: dict[str, Any] = {one["name"]: one["mean"] for one in self.numeric if one["kind"] == "number"}
        made |= {one["name"]: one["values"][0] for one in self.categorical if one["values"]}
        return [dict(made) for _ in range(rows)]

    def state(self) -> dict[str, Any]:
        return {"columns": self.columns}

    @classmethod
    def restore(cls, state: dict[str, Any], folder: Path) -> Self:
        return cls(state["task"], state["options"], Target(**state["target"]), state["state"]["columns"])


def _described(name: str, values: list[Any], normalise: str, most: int) -> dict[str, Any]:
    there = [one for one in values if one is not None and not (isinstance(one, float) and math.isnan(one))]
    if not there:
        return {"name": name, "kind": "empty"}
    missing = len(there) < len(values)
    if all(isinstance(one, (int, float)) for one in there):
        read = [_checked(name, number, one, _number) for number, one in enumerate(values)]
        return _numeric(name, "number", read, missing, normalise)
    if all(isinstance(one, (dt.datetime, dt.date)) for one in there):
        return _numeric(name, "time", [_moment(one) for one in values], missing, normalise)
    words = Counter(word for number, one in enumerate(values) if (word := _word(one, name, number)) is not None)
    ranked = sorted(words, key=lambda word: (-words[word], word))[:most]
    return {"name": name, "kind": "category", "values": ranked, "missing": missing}


def _numeric(name: str, kind: str, values: list[float], missing: bool, normalise: str) -> dict[str, Any]:
    array = np.asarray([one for one in values if not math.isnan(one)], dtype=np.float64)
    made = {
        "name": name, "kind": kind, "missing": missing, "mean": float(array.mean()), "std": float(array.std()) or 1.0,
        "least": float(array.min()), "most": float(array.max()),
    }  # fmt: skip
    if normalise == "quantile":
        grid = np.unique(np.quantile(array, np.linspace(0, 1, _QUANTILES)))
        made["grid"] = grid.tolist() if len(grid) > 1 else None
    elif normalise != "standard":
        raise BadRequest(f"normalise = {normalise!r} is unknown.", hint="Choose standard or quantile.")
    return made


def _checked(name: str, number: int, value: Any, read: Any) -> float:
    try:
        return float(read(value))
    except ValueError as error:
        raise wrong(number, name, str(error)) from error


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, str):
        if value.strip().lower() in _MISSING_WORDS:
            return math.nan
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"a number is expected, not {value[:40]!r}.") from None
    if not isinstance(value, (int, float, np.integer, np.floating)):
        raise ValueError(f"a number is expected, not a {type(value).__name__}.")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("the number is too large.") from None
    if math.isinf(number):
        raise ValueError("the number is not finite.")
    return number


def _moment(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, str):
        if value.strip().lower() in _MISSING_WORDS:
            return math.nan
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"a date like 2026-01-31 is expected, not {value[:40]!r}.") from None
    if isinstance(value, dt.datetime):
        return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).timestamp()
    if isinstance(value, dt.date):
        return dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC).timestamp()
    raise ValueError(f"a date is expected, not a {type(value).__name__}.")


def _word(value: Any, name: str, number: int) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, (str, int, float, bool)):
        raise wrong(number, name, f"a word or number is expected, not a {type(value).__name__}.")
    word = str(value).strip()
    return None if word.lower() in _MISSING_WORDS else word
