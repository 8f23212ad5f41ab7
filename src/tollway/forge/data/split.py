"""Splits: which rows train, which watch, which judge. The same rows and seed give the same split on every machine.

A row's place follows from a hash of its content, not from its position: rows that are equal always fall on the same
side, and most rows keep their side when the dataset grows by new ones.

    stratified   every class in its share            group:COLUMN   a group stays on one side
    random       shuffled                            time:COLUMN    the newest rows judge, the next newest watch
"""

from typing import TYPE_CHECKING, Any

from tollway.forge.data import digest
from tollway.forge.data.schema import times
from tollway.kit.errors import BadRequest

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Keys = np.ndarray[Any, Any]


def split(
    table: "pa.Table",
    *,
    validation: float = 0.1,
    test: float = 0.1,
    by: str = "stratified",
    label: str | None = None,
    content: list[str] | None = None,
    seed: int = 7,
) -> dict[str, "pa.Table"]:
    """The rows divided into train, validation and test; a share of 0 leaves that split out. Row order is kept.

    `label` is the column of classes for `stratified`, `content` the columns that make two rows equal (all by default).
    """
    import numpy as np

    if not 0 <= validation < 1 or not 0 <= test < 1 or validation + test >= 1:
        raise BadRequest(
            f"Validation {validation:g} and test {test:g} leave nothing to train on.", hint="Their sum has to be below 1."
        )
    how, _, column = by.partition(":")
    shares = {"test": test, "validation": validation}
    keys = digest.keys(table, content, salt=f"split {seed}")
    if how == "time":
        sides = _by_time(table, column, shares, keys)
    elif how == "group":
        sides = _by_group(table, column, shares, seed)
    elif how == "stratified" and label is not None:
        sides = _stratified(table[label].to_pylist(), keys, shares)
    elif how in ("random", "stratified"):
        sides = _dealt(np.arange(table.num_rows), keys, shares, table.num_rows)
    else:
        raise BadRequest(
            f"{by!r} is no way to split.", hint="Use stratified, random, group:COLUMN or time:COLUMN (a date or number)."
        )
    found = {}
    for name in ("train", "validation", "test"):
        rows = np.flatnonzero(sides == name)
        if len(rows):
            found[name] = table.take(rows)
    if "train" not in found:
        raise BadRequest(
            f"Nothing is left to train on: the split {by} put all {table.num_rows} rows elsewhere.",
            hint="Use smaller shares, or another way to split.",
        )
    return found


def _sides(count: int) -> "Keys":
    import numpy as np

    return np.full(count, "train", dtype="<U10")


def _dealt(rows: "Keys", keys: "Keys", shares: dict[str, float], count: int) -> "Keys":
    """Rows in the order of their keys: the first go to test, the next to validation; equal keys are never parted."""
    import numpy as np

    sides = _sides(count)
    order = rows[np.argsort(keys[rows], kind="stable")]
    start = 0
    wanted = 0.0
    for name, share in shares.items():
        wanted += share * len(rows)
        end = round(wanted)
        if share and end <= start and len(order) >= 3 and len(order) - start >= 2:
            end = start + 1  # a small class is seen by everyone, as long as there is enough of it
        while 0 < end < len(order) and keys[order[end]] == keys[order[end - 1]]:
            end += 1
        if end >= len(order):
            end = start
        sides[order[start:end]] = name
        start = max(start, end)
    return sides


def _stratified(labels: list[Any], keys: "Keys", shares: dict[str, float]) -> "Keys":
    import numpy as np

    sides = _sides(len(labels))
    if labels and isinstance(next((one for one in labels if one is not None), None), float):
        labels = _bins(labels)
    places: dict[Any, list[int]] = {}
    for row, label in enumerate(labels):
        places.setdefault(label, []).append(row)
    for rows in places.values():
        index = np.asarray(rows)
        sides[index] = _dealt(index, keys, shares, len(labels))[index]
    # The same content under two labels lies in two strata: it follows the first one, so that nothing is on two sides.
    first: dict[int, str] = {}
    for row, key in enumerate(keys.tolist()):
        sides[row] = first.setdefault(key, str(sides[row]))
    return sides


def _bins(values: list[Any]) -> list[Any]:
    """Numbers by decile: a stratified split of a regression keeps the distribution of the target."""
    import numpy as np

    numbers = np.asarray([np.nan if one is None else one for one in values], dtype=float)
    edges: Any = np.unique(np.nanquantile(numbers, np.linspace(0.1, 0.9, 9))) if np.isfinite(numbers).any() else []
    return [None if np.isnan(one) else int(np.searchsorted(edges, one)) for one in numbers]


def _by_group(table: "pa.Table", column: str, shares: dict[str, float], seed: int) -> "Keys":
    import numpy as np

    _require(table, column)
    groups = digest.keys(table, [column], salt=f"group {seed}")
    names, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 1 + sum(share > 0 for share in shares.values()):
        raise BadRequest(
            f"There are only {len(names)} groups in {column!r}: too few for this split.",
            hint="Split by another column, or use --by stratified.",
        )
    sides = _sides(len(names))
    start = 0
    for place, (name, share) in enumerate(shares.items()):
        taken, left_over = 0, sum(one > 0 for one in list(shares.values())[place + 1 :]) + 1
        while share and start < len(names) - left_over and (taken == 0 or taken + counts[start] / 2 < share * table.num_rows):
            sides[start] = name
            taken += int(counts[start])
            start += 1
    return sides[index]


def _by_time(table: "pa.Table", column: str, shares: dict[str, float], keys: "Keys") -> "Keys":
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    _require(table, column)
    values = times(table[column])
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise BadRequest(f"{column!r} is neither a time nor a number: it gives no order.", hint="Name another column.")
    if values.null_count:
        raise BadRequest(f"{values.null_count} rows have no {column!r}.", hint="Clean them away: drop-missing.")
    moments = np.asarray(values.cast(pa.float64(), safe=False) if values.type != pa.int64() else pc.cast(values, pa.int64()))
    order = np.lexsort((keys, -moments.astype("float64")))  # the newest first
    sides = _sides(table.num_rows)
    start = 0
    for name, share in shares.items():
        end = min(start + round(share * table.num_rows), table.num_rows - 1)
        while share and start < end < table.num_rows and moments[order[end]] == moments[order[end - 1]]:
            end += 1  # one moment is on one side
        if end >= table.num_rows:
            raise BadRequest(f"{column!r} has too few different values for a split by time.", hint="Use smaller shares.")
        sides[order[start:end]] = name
        start = end
    return sides


def _require(table: "pa.Table", column: str) -> None:
    if column not in table.column_names:
        raise BadRequest(
            f"There is no column {column!r} to split by.", code="column_not_found", hint=f"Columns: {', '.join(table.column_names)}."
        )
