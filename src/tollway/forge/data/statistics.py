"""What the columns of a dataset are like: missing, distinct, range, lengths, classes, languages, image sizes."""

import struct
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tollway.forge.data.shelf import Version

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, Any]

_TOP: Final = 30
_BINS: Final = 24


def describe(version: Version) -> dict[str, Any]:
    """`{"rows": {split: n}, "columns": {name: {...}}, "classes": {split: {label: n}}}`: all of it JSON."""
    import pyarrow as pa

    tables = version.tables()
    whole = pa.concat_tables(tables.values())
    columns = {one.name: {"kind": one.kind, **_column(whole[one.name], one.kind)} for one in version.columns}
    label = version.about.get("roles", {}).get("label", "label")
    classes = {}
    if label in whole.column_names and columns[label]["kind"] in ("category", "text", "integer", "boolean"):
        counts = {split: Counter(_plain(one) for one in table[label].to_pylist()) for split, table in tables.items()}
        if len(set().union(*counts.values())) <= 1000:
            classes = {split: dict(count.most_common()) for split, count in counts.items()}
    return {"rows": {split: table.num_rows for split, table in tables.items()}, "columns": columns, "classes": classes}


def _plain(value: Any) -> str:
    return "(none)" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _column(column: "pa.ChunkedArray", kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {"missing": column.null_count}
    if kind in ("number", "integer"):
        return found | _numbers(column)
    if kind == "time":
        return found | _times(column)
    if kind == "image":
        return found | _images(column.to_pylist())
    if kind == "tokens":
        values = [len(one) for one in column.to_pylist() if one is not None]
        return found | {"tokens": _spread(values), "histogram": _histogram(values)}
    values = column.to_pylist()
    present = [_plain(one) for one in values if one is not None]
    counts = Counter(present)
    found |= {"distinct": len(counts)}
    if kind in ("category", "boolean") or len(counts) <= _TOP:
        found["top"] = dict(counts.most_common(_TOP))
    if kind == "text":
        lengths = [len(one) for one in present]
        found |= {"chars": _spread(lengths), "histogram": _histogram(lengths), "languages": languages(present)}
        found["empty"] = sum(not one.strip() for one in present)
    return found


def _numbers(column: "pa.ChunkedArray") -> dict[str, Any]:
    import numpy as np
    import pyarrow as pa

    values = np.asarray(column.drop_null().cast(pa.float64(), safe=False))
    finite = values[np.isfinite(values)]
    found = {"not_finite": int(len(values) - len(finite)), "distinct": len(np.unique(finite)), **_spread(finite)}
    return {**found, "zero": int((finite == 0).sum()), "histogram": _histogram(finite)}


def _times(column: "pa.ChunkedArray") -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count == len(column):
        return {}
    ends = pc.min_max(column).as_py()
    values = column.drop_null().cast(pa.int64()).to_pylist()
    return {"min": ends["min"].isoformat(), "max": ends["max"].isoformat(), "distinct": len(set(values)),
            "histogram": _histogram(values)}  # fmt: skip


def _images(values: list[bytes | None]) -> dict[str, Any]:
    """Sizes from the PNG headers; brightness from a few."""
    sizes: Counter[str] = Counter()
    colours: Counter[str] = Counter()
    for data in values:
        if data:
            width, height, _, colour = struct.unpack(">IIBB", data[16:26])
            sizes[f"{width} x {height}"] += 1
            colours["grey" if colour in (0, 4) else "colour"] += 1
    lengths = [len(one) for one in values if one]
    return {"sizes": dict(sizes.most_common(_TOP)), "colours": dict(colours), "bytes": _spread(lengths)}


def _spread(values: "list[int] | Array") -> dict[str, Any]:
    import numpy as np

    if not len(values):
        return {}
    numbers = np.asarray(values, float)
    low, quarter, middle, three, high = (float(one) for one in np.quantile(numbers, (0, 0.25, 0.5, 0.75, 1)))
    return {"min": low, "p25": quarter, "median": middle, "p75": three, "max": high,
            "mean": float(numbers.mean()), "std": float(numbers.std())}  # fmt: skip


def _histogram(values: "list[int] | Array") -> dict[str, Any]:
    """Counts in even bins up to the 99th percentile; what is beyond falls into the last one."""
    import numpy as np

    if not len(values):
        return {}
    numbers = np.asarray(values, float)
    low, high = float(numbers.min()), float(np.quantile(numbers, 0.99))
    if high <= low:
        high = float(numbers.max())
    if high <= low:
        return {"edges": [low, low + 1], "counts": [len(numbers)]}
    counts, edges = np.histogram(np.minimum(numbers, high), bins=_BINS, range=(low, high))
    return {"edges": [float(one) for one in edges], "counts": [int(one) for one in counts]}


def languages(texts: list[str], most: int = 5000) -> Mapping[str, float]:
    """The share of texts mainly in each script: a hint at the language, by counting letters."""
    step = max(1, len(texts) // most)
    counts: Counter[str] = Counter()
    for text in texts[::step]:
        scripts: Counter[str] = Counter()
        for one in text[:500]:
            code = ord(one)
            if 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF:
                scripts["Chinese"] += 2  # a character says what two letters or more say
            elif 0x3040 <= code <= 0x30FF:
                scripts["Japanese"] += 3
            elif 0xAC00 <= code <= 0xD7AF:
                scripts["Korean"] += 2
            elif 0x400 <= code <= 0x4FF:
                scripts["Cyrillic"] += 1
            elif 0x600 <= code <= 0x6FF:
                scripts["Arabic"] += 1
            elif one.isalpha() and code < 0x250:
                scripts["Latin"] += 1
        counts[scripts.most_common(1)[0][0] if scripts else "none"] += 1
    total = sum(counts.values()) or 1
    return {name: count / total for name, count in counts.most_common()}
