"""Batches: which rows are trained together, in what order, and as which tensors.

For the loop. Rows of similar length share a batch and a batch is filled to a budget of tokens (padding included), so that
little work goes into padding; still every epoch is a fresh shuffle, a pure function of (seed, epoch).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tollway.kit.errors import BadRequest

if TYPE_CHECKING:
    import torch

Encoded = Mapping[str, np.ndarray]
Collate = Callable[[Sequence[Encoded]], dict[str, np.ndarray]]

IGNORED = -100  # the label of a padded position: every loss skips it
_WINDOW = 64  # how many batches' worth of shuffled rows are sorted by length together


class Batches:
    """Encoded rows with their targets, cut into batches. `batch(indices)` is the only place where tensors are made."""

    def __init__(
        self,
        encoded: Sequence[Encoded],
        targets: Mapping[str, Any] | None = None,
        *,
        budget_tokens: int | None = None,
        rows: int | None = None,
        seed: int = 0,
        collate: Collate | None = None,
        lengths: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        """`budget_tokens` is the budget of a batch, padding included; `rows` a fixed number of rows; one of the two."""
        if (budget_tokens is None) == (rows is None):
            raise BadRequest("A batch is sized either by tokens or by rows.", hint="Set batch_tokens or batch_rows.")
        self.encoded, self.targets = encoded, dict(targets or {})
        self.budget_tokens, self.rows, self.seed = budget_tokens, rows, seed
        self.collate = collate or pad
        self.lengths = np.asarray(lengths if lengths is not None else [length(row) for row in encoded], dtype=np.int64)
        if not len(encoded):
            raise BadRequest("There are no rows to train on.", hint="Look at the dataset and at what [data] leaves of it.")
        for name, values in self.targets.items():
            if len(values) != len(encoded):
                raise BadRequest(f"{len(encoded)} rows but {len(values)} values of {name!r}.")

    def __len__(self) -> int:
        return len(self.encoded)

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of an epoch; the same for the same (seed, number), whatever happened before."""
        chance = np.random.default_rng([self.seed, number])
        return self._cut(chance.permutation(len(self)), chance)

    def in_order(self) -> list[list[int]]:
        """Every row once, longest last, for measuring: no shuffle."""
        return self._cut(np.argsort(self.lengths, kind="stable"), None)

    def _cut(self, order: np.ndarray, chance: np.random.Generator | None) -> list[list[int]]:
        size = self.rows or max(1, int(self.budget_tokens or 0) // max(1, int(self.lengths.mean())))
        found: list[list[int]] = []
        window = len(order) if chance is None else size * _WINDOW
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            found += self._fill(part)
        if chance is not None:
            found = [found[at] for at in chance.permutation(len(found))]
        return found

    def _fill(self, part: np.ndarray) -> list[list[int]]:
        """Rows of rising length into batches that stay within the budget (a row longer than it goes alone)."""
        if self.rows:
            return [part[at : at + self.rows].tolist() for at in range(0, len(part), self.rows)]
        found: list[list[int]] = []
        current: list[int] = []
        for row in part.tolist():
            if current and (len(current) + 1) * int(self.lengths[row]) > int(self.budget_tokens or 0):
                found.append(current)
                current = []
            current.append(row)
        return [*found, current] if current else found

    def size(self, indices: Sequence[int]) -> int:
        """Tokens in these rows, padding not counted."""
        return int(self.lengths[list(indices)].sum())

    def batch(self, indices: Sequence[int]) -> dict[str, "torch.Tensor"]:
        """The rows as padded tensors with their targets."""
        import torch

        arrays = self.collate([self.encoded[at] for at in indices])
        width = _width(arrays)
        for name, values in self.targets.items():
            arrays[name] = _target(values, indices, width)
        # copied: torch's own memory is aligned, and some kernels' last bits depend on the alignment
        return {name: torch.tensor(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def first(self, rows: int) -> dict[str, "torch.Tensor"]:
        """A batch of the rows around the middle of the lengths: typical work, for measuring."""
        order = np.argsort(self.lengths, kind="stable")
        start = max(0, len(order) // 2 - rows // 2)
        return self.batch(order[start : start + rows].tolist())


def length(row: Encoded) -> int:
    """Tokens of an encoded row: the length of its ids; 1 for what is no sequence."""
    ids = row.get("input_ids")
    return int(ids.shape[0]) if ids is not None and ids.ndim else 1


def pad(rows: Sequence[Encoded]) -> dict[str, np.ndarray]:
    """Stacks encoded rows, zero-padded at the end to the longest in every axis."""
    return {name: pad_arrays([np.asarray(row[name]) for row in rows], 0) for name in rows[0]}


def pad_arrays(values: Sequence[np.ndarray], fill: float) -> np.ndarray:
    """One array out of many of the same rank."""
    shape = tuple(max(value.shape[axis] for value in values) for axis in range(values[0].ndim))
    if all(value.shape == shape for value in values):
        return np.stack(values)
    result = np.full((len(values), *shape), fill, dtype=values[0].dtype)
    for at, value in enumerate(values):
        place: tuple[Any, ...] = (at, *(slice(0, extent) for extent in value.shape))
        result[place] = value
    return result


def _width(arrays: Mapping[str, np.ndarray]) -> int | None:
    ids = arrays.get("input_ids")
    return int(ids.shape[1]) if ids is not None and ids.ndim == 2 else None


def _target(values: Any, indices: Sequence[int], width: int | None) -> np.ndarray:
    """The targets of some rows: per row, or per token (ragged, or one wide array) cut and padded to the batch."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        picked = values[list(indices)]
        return picked[:, :width] if picked.ndim == 2 and width and picked.shape[1] > width else picked
    parts = [np.asarray(values[at]) for at in indices]
    if parts[0].ndim == 0:
        return np.stack(parts)
    fill = IGNORED if parts[0].dtype.kind in "iu" else 0
    if width and all(part.shape[0] <= width for part in parts):
        parts = [*parts, np.full((width, *parts[0].shape[1:]), fill, dtype=parts[0].dtype)]
        return pad_arrays(parts, fill)[:-1]
    return pad_arrays(parts, fill)

