"""Slices: the figures of parts of the rows, and how far groups are apart (fairness).

Demographic parity difference: largest minus smallest share of a given answer over groups. Equal opportunity difference: the
same for the true positive rate (Hardt, Price and Srebro 2016). Quality gap: the same for the main metric. Groups with fewer
rows than `smallest` are listed but never decide a gap: a share of four rows is noise. Over more than two labels the widest
label counts.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tollway.forge.evaluate.intervals import Draws, bounds, within
from tollway.forge.evaluate.measures import Floats, divide
from tollway.forge.evaluate.scores import Figure, Gap, Slice
from tollway.forge.evaluate.tasks import Case

SMALLEST = 30
SMALLEST_POSITIVES = 10
VALUES_MAX = 20

Row = Mapping[str, Any]


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Columns one can slice by: those carried along as `x_*`."""
    return sorted(name.removeprefix("x_") for name in (rows[0] if rows else {}) if name.startswith("x_"))


def parts(values: Sequence[Any]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """A column cut into parts: each value, or quarters of a numeric column with many values."""
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(set(numbers)) > VALUES_MAX and len(numbers) >= 0.9 * sum(value is not None for value in values):
        yield from quarters(np.array([np.nan if value is None else float(value) for value in values]))
        return
    names = np.array(["(missing)" if value is None else str(value) for value in values], dtype=object)
    for name, _ in Counter(names.tolist()).most_common(VALUES_MAX):
        yield name, names == name


def quarters(values: Floats) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Four parts of about equal size by value; fewer when values repeat."""
    edges = np.unique(np.nanquantile(values, [0, 0.25, 0.5, 0.75, 1.0]))
    for at in range(len(edges) - 1):
        last = at == len(edges) - 2
        inside = (values >= edges[at]) & ((values <= edges[at + 1]) if last else (values < edges[at + 1]))
        if inside.any():
            yield f"{edges[at]:.4g} … {edges[at + 1]:.4g}", inside
    if np.isnan(values).any():
        yield "(missing)", np.isnan(values)


def slices(
    case: Case, rows: Sequence[Row], columns: Sequence[str], draws: Draws, lengths: Floats | None = None
) -> list[Slice]:
    """The main metric for every part of every column, and by length where rows have one."""
    found: list[Slice] = []
    cuts = [(name, list(parts([_cell(rows[place], name) for place in case.unit_rows]))) for name in columns]
    if lengths is not None and len(set(lengths.tolist())) > 4:
        cuts.append(("length", list(quarters(lengths))))
    whole = case.primary.value(case.units)
    for column, pieces in cuts:
        for value, mask in pieces:
            figure = within(case.primary, mask, draws)
            apart = None if figure.value is None or not np.isfinite(whole) else figure.value - whole
            found.append(Slice(column, value, int(mask.sum()), figure, apart, int(mask.sum()) < SMALLEST))
    return found


def _cell(row: Row, column: str) -> Any:
    return row.get(f"x_{column}", row.get(column))


def gaps(case: Case, rows: Sequence[Row], columns: Sequence[str], draws: Draws, smallest: int = SMALLEST) -> list[Gap]:
    """The fairness gaps of each column."""
    return [
        _gap(case, [_cell(rows[place], name) for place in case.unit_rows], name, draws, smallest) for name in columns
    ]


def _gap(case: Case, values: Sequence[Any], column: str, draws: Draws, smallest: int) -> Gap:
    pieces = [(name, mask) for name, mask in parts(values)]
    kept = [(name, mask) for name, mask in pieces if mask.sum() >= smallest]
    left_out = [name for name, mask in pieces if mask.sum() < smallest]
    if len(kept) < 2:
        return Gap(column, None, None, None, [name for name, _ in kept], left_out)
    masks = np.stack([mask for _, mask in kept]).astype(np.float64)
    quality = _spread(
        lambda weights: np.stack([case.primary.at(weights * mask) for mask in masks], axis=1), case.units, draws
    )
    parity = opportunity = None
    if case.judged is not None:
        parity, opportunity = _fairness(case, masks, draws)
    return Gap(column, parity, opportunity, quality, [name for name, _ in kept], left_out)


def _fairness(case: Case, masks: Floats, draws: Draws) -> tuple[Figure | None, Figure | None]:
    judged = case.judged
    assert judged is not None
    labels = [1] if len(judged.labels) == 2 else range(len(judged.labels))
    parity = [_rate(judged.given == label, np.ones(case.units, bool), masks) for label in labels]
    chances: list[Any] = []
    # with two labels both are tried: which of them is "the good one" is not ours to guess
    for label in range(len(judged.labels)):
        among = judged.truth == label
        enough = [mask for mask in masks if (mask * among).sum() >= SMALLEST_POSITIVES]
        if len(enough) >= 2:
            chances.append(_rate(judged.given == label, among, np.stack(enough)))
    return _widest(parity, case.units, draws), _widest(chances, case.units, draws)


def _rate(given: NDArray[np.bool_], among: NDArray[np.bool_], masks: Floats) -> Any:
    """weights -> the share of `given` among some rows, per group."""
    above = np.stack([mask * among * given for mask in masks], axis=1)
    below = np.stack([mask * among for mask in masks], axis=1)
    return lambda weights: divide(weights @ above, weights @ below)


def _widest(rates: Sequence[Any], units: int, draws: Draws) -> Figure | None:
    figures = [_spread(rate, units, draws) for rate in rates]
    return max((one for one in figures if one.value is not None), key=lambda one: one.value or 0.0, default=None)


def _spread(rate: Any, units: int, draws: Draws) -> Figure:
    """Largest minus smallest over groups, with its interval."""

    def apart(weights: Floats) -> Floats:
        values = rate(weights)
        return np.asarray(np.max(values, axis=1) - np.min(values, axis=1))

    value = float(apart(np.ones((1, units)))[0])
    replicates = [apart(weights) for weights in draws]
    low, high, _ = bounds(np.concatenate(replicates) if replicates else np.empty(0))
    return Figure(value if np.isfinite(value) else None, low, high, higher=False)
