"""Columns and their kinds: the few types a dataset knows, how each is stored, and which one a column of strings is.

    text, category          string              integer, number    int64, double
    boolean                 bool                time               timestamp (microseconds, UTC)
    image                   binary (PNG)        tokens             list of strings
    json                    string (JSON)       anything nested

`settle(table)` brings any Arrow table into these types; `guess(table)` also turns strings that are all numbers, times or
truth values into such.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa

KINDS: Final = ("text", "category", "number", "integer", "boolean", "time", "image", "tokens", "json")
MISSING: Final = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "?", "-")
"""What people write for "not known" in a column of numbers."""
_FEW: Final = 50
_SHORT: Final = 48
_SENTENCE: Final = 160
_INTEGER: Final = r"^\s*[+-]?(0|[1-9][0-9]{0,17})\s*$"
_NUMBER: Final = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\s*$"
_LEADING_ZERO: Final = r"^\s*[+-]?0[0-9]"
_TIME: Final = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?(Z|[+-]\d\d:?\d\d)?$"


@dataclass(frozen=True, slots=True)
class Column:
    """A column as `dataset.toml` has it."""

    name: str
    kind: str
    nullable: bool = False


def arrow_type(kind: str) -> "pa.DataType":
    """How a kind is stored."""
    import pyarrow as pa

    return {
        "text": pa.string(), "category": pa.string(), "number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_(),
        "time": pa.timestamp("us", tz="UTC"), "image": pa.binary(), "tokens": pa.list_(pa.string()), "json": pa.string(),
    }[kind]  # fmt: skip


def columns_of(table: "pa.Table", kinds: dict[str, str] | None = None) -> tuple[Column, ...]:
    """The columns of a settled table. `kinds` says what the type alone cannot (category or text, json)."""
    known = kinds or {}
    found = []
    for name in table.column_names:
        column = table[name]
        found.append(Column(name, known.get(name) or _kind_of(column), column.null_count > 0))
    return tuple(found)


def settle(table: "pa.Table", kinds: dict[str, str] | None = None) -> "pa.Table":
    """The same rows in the types above; nested values become JSON text (and their kind `json`, noted in `kinds`)."""
    import pyarrow as pa

    kinds = {} if kinds is None else kinds
    arrays = []
    for name in table.column_names:
        column = table[name]
        if kinds.get(name) not in KINDS:
            kinds.pop(name, None)
        arrays.append(_settled(column, kinds, name))
    return pa.table(arrays, names=table.column_names)


def guess(table: "pa.Table", kinds: dict[str, str]) -> "pa.Table":
    """Columns of strings become numbers, times or truth values where every value says so; notes the kinds."""
    import pyarrow as pa

    arrays = []
    for name in table.column_names:
        column = table[name]
        if pa.types.is_string(column.type) and kinds.get(name) in (None, "number", "integer", "boolean", "time"):
            column = _guessed(column, kinds.get(name))
        arrays.append(column)
    return pa.table(arrays, names=table.column_names)


def times(column: "pa.ChunkedArray | pa.Array") -> "pa.ChunkedArray | pa.Array":
    """A column of strings as times, if every value says one (ISO 8601); else as it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    present = column.drop_null() if pa.types.is_string(column.type) else ()
    if len(present) == 0 or not pc.all(pc.match_substring_regex(present, _TIME)).as_py():
        return column
    try:
        return _times(column)
    except pa.ArrowInvalid:
        return column  # a 31st of February: it stays what it was, text


def _kind_of(column: "pa.ChunkedArray") -> str:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind):
        return "number"
    if pa.types.is_timestamp(kind):
        return "time"
    if pa.types.is_binary(kind):
        return "image"
    if pa.types.is_list(kind):
        return "tokens"
    if len(column) == 0:
        return "text"
    longest = pc.max(pc.utf8_length(column)).as_py() or 0
    distinct = pc.count_distinct(column.slice(0, 20_000)).as_py()
    # Short ones are names of something when they come back; long ones only when they come back very often.
    share, most = (2, _SHORT) if longest <= _SHORT else (20, _SENTENCE)
    return "category" if longest <= most and distinct <= max(2 if share == 2 else 0, min(_FEW, len(column) // share)) else "text"


def _settled(column: "pa.ChunkedArray", kinds: dict[str, str], name: str) -> "pa.ChunkedArray":
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_boolean(kind):
        return column
    if pa.types.is_integer(kind):
        return column.cast(pa.float64() if pa.types.is_uint64(kind) else pa.int64())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64())
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        if pa.types.is_timestamp(kind) and kind.tz:
            return column.cast(pa.timestamp("us", tz="UTC"), safe=False)
        return column.cast(pa.timestamp("us"), safe=False).cast(pa.timestamp("us", tz="UTC"))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return column.cast(pa.binary())
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and (
        pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)
    ):
        return column.cast(pa.list_(pa.string()))
    kinds[name] = "json"
    return as_json(column)


def as_json(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Nested values as canonical JSON text."""
    import json

    import pyarrow as pa

    def text(value: Any) -> str | None:
        return None if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)

    return pa.chunked_array([pa.array([text(value.as_py()) for value in column], pa.string())])


def _guessed(column: "pa.ChunkedArray", wanted: str | None) -> "pa.ChunkedArray":
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = pc.is_in(column, value_set=pa.array(MISSING))
    values = pc.if_else(missing, pa.scalar(None, pa.string()), column)
    present = values.drop_null()
    if len(present) == 0:
        return column

    def all_match(pattern: str) -> bool:
        return bool(pc.all(pc.match_substring_regex(present, pattern)).as_py())

    if wanted in (None, "integer", "number") and (
        wanted or not pc.any(pc.match_substring_regex(present, _LEADING_ZERO.replace("0[0-9]", "0[0-9]+$"))).as_py()
    ):
        if wanted != "number" and all_match(_INTEGER):
            return pc.utf8_ltrim(pc.utf8_trim_whitespace(values), "+").cast(pa.int64())
        if all_match(_NUMBER):
            return pc.utf8_ltrim(pc.utf8_trim_whitespace(values), "+").cast(pa.float64())
    if wanted in (None, "time") and all_match(_TIME):
        timed = times(values)
        return timed if pa.types.is_timestamp(timed.type) else column
    if wanted in (None, "boolean") and all_match("^(?i:true|false)$"):
        lowered = pc.utf8_lower(values)
        return pc.equal(lowered, "true")
    return column


def _times(values: "pa.ChunkedArray | pa.Array") -> "pa.ChunkedArray":
    from datetime import UTC, datetime

    import pyarrow as pa

    try:  # the usual form, at once; a zone is UTC when none is said
        return values.cast(pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))
    except pa.ArrowInvalid:
        pass  # zones, or forms Arrow does not know: one by one

    def moment(text: str | None) -> datetime | None:
        if text is None:
            return None
        try:
            found = datetime.fromisoformat(text)
        except ValueError as error:
            raise pa.ArrowInvalid(str(error)) from error
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)

    return pa.chunked_array([pa.array([moment(one) for one in values.to_pylist()], pa.timestamp("us", tz="UTC"))])
