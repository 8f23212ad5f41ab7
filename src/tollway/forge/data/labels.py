"""Labels that are probably wrong: typing errors among the names, and rows whose content speaks for another class.

The second kind is found out of fold: a simple linear model, trained on the other rows, is sure of another label. That is
a hint for a person to look at, not a verdict (confident learning in its simplest form: Northcutt, Jiang, Chuang 2021).
"""

from collections.abc import Mapping
from typing import Final

_RARE: Final = 0.2


def typos(counts: Mapping[str, int]) -> dict[str, str]:
    """wrong -> right: rare labels that are a letter or two away from a frequent one, or differ in case or spaces only."""
    found: dict[str, str] = {}
    names = sorted((name for name in counts if name is not None), key=lambda name: (-counts[name], name))
    for place, name in enumerate(names):
        for other in names[:place]:
            if other in found:
                continue
            same = name.strip().casefold() == other.strip().casefold()
            allowed = 0 if min(len(name), len(other)) < 4 else 1 if min(len(name), len(other)) < 7 else 2
            close = allowed and _letters(name, other) and distance(name.casefold(), other.casefold(), allowed) <= allowed
            if same or (close and counts[name] <= _RARE * counts[other]):
                found[name] = other
                break
    return found


def _letters(left: str, right: str) -> bool:
    """Numbers in names tell classes apart (`level 1`, `level 2`): only letters can be mistyped."""
    return [one for one in left if one.isdigit()] == [one for one in right if one.isdigit()]


def distance(left: str, right: str, limit: int = 3) -> int:
    """Letters to insert, delete, change or swap (Damerau-Levenshtein, adjacent swaps); more than `limit` is limit + 1."""
    if abs(len(left) - len(right)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, one in enumerate(left, 1):
        now = [i]
        for j, other in enumerate(right, 1):
            cost = min(row[j] + 1, now[j - 1] + 1, row[j - 1] + (one != other))
            if i > 1 and j > 1 and one == right[j - 2] and left[i - 2] == other:
                cost = min(cost, before[j - 2] + 1)
            now.append(cost)
        if min(now) > limit:
            return limit + 1
        before, row = row, now
    return row[-1]
