"""Packing: many documents in rows of one length, so that no work goes into padding and none sees another.

A document stays whole where it fits (best fit, longest first); a longer one is cut into full rows and a rest. Every row
says where its documents are (`segments` 1, 2, ...; 0 is padding), from which the attention mask is made.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tollway.forge.train.batches import IGNORED, Encoded

Pair = tuple[np.ndarray, np.ndarray]  # input_ids and the labels that follow
_STEP = 64  # rows are a multiple of this long: products of matrices like that


@dataclass(frozen=True)
class Packed:
    """Rows ready for the loop, and how full they are."""

    rows: list[Encoded]
    labels: list[np.ndarray]
    fill: float

    @property
    def lengths(self) -> list[int]:
        return [int(row["input_ids"].shape[0]) for row in self.rows]


def row_length(documents: Sequence[Pair], most: int) -> int:
    """As long as the longest document, rounded up, but at most `most`: longer rows cost attention and give nothing."""
    longest = max((len(ids) for ids, _ in documents), default=1)
    return min(most, -(-longest // _STEP) * _STEP)


def pack(documents: Sequence[Pair], length: int, pad_id: int) -> Packed:
    """The documents in rows of `length`. The same documents in the same order give the same rows."""
    pieces = [
        (ids[start : start + length], labels[start : start + length])
        for ids, labels in documents
        for start in range(0, len(ids), length)
    ]
    pieces = [piece for piece in pieces if (piece[1] != IGNORED).any()]  # nothing is asked of the others
    order = sorted(range(len(pieces)), key=lambda at: -len(pieces[at][0]))  # stable: equal lengths keep their order
    made = [_row([pieces[at] for at in group], length, pad_id) for group in _groups([len(p[0]) for p in pieces], order, length)]
    used = sum(len(ids) for ids, _ in pieces)
    return Packed([row for row, _ in made], [labels for _, labels in made], used / max(1, len(made) * length))


def _groups(lengths: Sequence[int], order: Sequence[int], room: int) -> list[list[int]]:
    """Best fit: each piece goes where it leaves the least room."""
    groups: list[list[int]] = []
    sizes: list[int] = []  # the rooms there are, rising
    by_room: dict[int, list[int]] = {}
    for at in order:
        place = bisect.bisect_left(sizes, lengths[at])
        if place < len(sizes):
            left = sizes[place]
            group = by_room[left].pop()
            if not by_room[left]:
                sizes.pop(place)
        else:
            left, group = room, len(groups)
            groups.append([])
        groups[group].append(at)
        rest = left - lengths[at]
        if rest:
            if not by_room.get(rest):
                bisect.insort(sizes, rest)
            by_room.setdefault(rest, []).append(group)
    return groups


def _row(pieces: Sequence[Pair], length: int, pad_id: int) -> tuple[Encoded, np.ndarray]:
    ids, segments = np.full(length, pad_id, dtype=np.int32), np.zeros(length, dtype=np.int32)
    labels = np.full(length, IGNORED, dtype=np.int32)
    start = 0
    for number, (inputs, wanted) in enumerate(pieces, 1):
        end = start + len(inputs)
        ids[start:end], labels[start:end], segments[start:end] = inputs, wanted, number
        start = end
    return {"input_ids": ids, "segments": segments}, labels
