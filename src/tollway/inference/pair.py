"""Who and what: users and items for recommenders.

A row with `user` and `item` gets a score; a row with a `user` alone gets the best `top` items, without those in `exclude`.
An unknown user or item is number 0, for which the model learnt the average one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from tollway.inference.encoding import Arrays, Encoded, Features, Row, Table, Target, column, wrong
from tollway.kit.errors import BadRequest


class PairFeatures(Features):
    """`user` and `item` to their numbers."""

    kind: ClassVar[str] = "pair"
    defaults: ClassVar[dict[str, Any]] = {"min_count": 1, "top": 10}

    def __init__(
        self, task: str, options: Mapping[str, Any], target: Target, users: list[str], items: list[str]
    ) -> None:
        self.task, self.target, self.users, self.items = task, target, users, items
        self.options = {**self.defaults, **options}
        self._users = {name: number for number, name in enumerate(users, 1)}
        self._items = {name: number for number, name in enumerate(items, 1)}
        self._all = np.arange(1, len(items) + 1, dtype=np.int64)

    @classmethod
    def fit(cls, task: str, table: Table, options: Mapping[str, Any] | None = None) -> Self:
        chosen = {**cls.defaults, **{name: one for name, one in (options or {}).items() if name in cls.defaults}}
        users, items = (_often(column(table, name), int(chosen["min_count"])) for name in ("user", "item"))
        if not users or not items:
            raise BadRequest("There is no user or no item to learn from.", param="user")
        return cls(task, chosen, _ratings(table), users, items)

    @classmethod
    def fit_target(cls, task: str, table: Table) -> Target:
        return _ratings(table)

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers used for users and items, the unknown one included."""
        return len(self.users) + 1, len(self.items) + 1

    def fields(self) -> dict[str, str]:
        return {"user": "category", "item": "category", "top": "integer", "exclude": "list"}

    def check(self, rows: Sequence[Row]) -> None:
        super().check(rows)
        for number, row in enumerate(rows):
            _name(row, "user", number)
            top = row.get("top", 1)
            if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= 1000:
                raise wrong(number, "top", "a whole number from 1 to 1000 is expected.")
            exclude = row.get("exclude", ())
            if not isinstance(exclude, (list, tuple)):
                raise wrong(number, "exclude", "a list of items is expected.")

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        made: list[Encoded] = []
        for number, row in enumerate(rows):
            user = self._users.get(_name(row, "user", number), 0)
            if row.get("item") is None:
                items = self._all
            else:
                items = np.asarray([self._items.get(_name(row, "item", number), 0)], dtype=np.int64)
            made.append({"user": np.full(len(items), user, dtype=np.int64), "item": items})
        return made

    def length(self, encoded: Encoded) -> int:
        return len(encoded["item"])

    def collate(self, encoded: Sequence[Encoded]) -> Arrays:
        """Pairs one after another; a row that asks for the best items brings all of them."""
        return {name: np.concatenate([one[name] for one in encoded]) for name in ("user", "item")}

    def targets(self, rows: Sequence[Row]) -> Arrays:
        ratings = [1.0 if row.get("rating") is None else float(row["rating"]) for row in rows]
        return {"target": np.asarray(ratings, dtype=np.float32)}

    def parts(self, outputs: Arrays, encoded: Sequence[Encoded]) -> list[Arrays]:
        ends = np.cumsum([len(one["item"]) for one in encoded])[:-1]
        pieces = {name: np.split(one.reshape(-1), ends) for name, one in outputs.items()}
        return [{name: one[number] for name, one in pieces.items()} for number in range(len(encoded))]

    def decode(
        self, outputs: Arrays, rows: Sequence[Row] = (), encoded: Sequence[Encoded] = ()
    ) -> list[dict[str, Any]]:
        scores = outputs["score"].reshape(-1)
        if not encoded:
            return [{"score": float(one)} for one in scores]
        answers: list[dict[str, Any]] = []
        start = 0
        for row, one in zip(rows, encoded, strict=True):
            mine = scores[start : start + len(one["item"])]
            start += len(one["item"])
            answers.append({"score": float(mine[0])} if row.get("item") is not None else self._best(mine, row))
        return answers

    def _best(self, scores: np.ndarray, row: Row) -> dict[str, Any]:
        top = int(row.get("top") or self.options["top"])
        without = {str(one) for one in row.get("exclude") or ()}
        order = np.argsort(-scores, kind="stable")[: top + len(without)]
        named = [{"item": self.items[place], "score": float(scores[place])} for place in order.tolist()]
        return {"items": [one for one in named if one["item"] not in without][:top]}

    def example(self, rows: int = 2) -> list[dict[str, Any]]:
        return [
            {"user": self.users[number % len(self.users)], "item": self.items[number % len(self.items)]}
            for number in range(rows)
        ]

    def state(self) -> dict[str, Any]:
        return {"users": self.users, "items": self.items}

    @classmethod
    def restore(cls, state: dict[str, Any], folder: Path) -> Self:
        inner = state["state"]
        return cls(state["task"], state["options"], Target(**state["target"]), inner["users"], inner["items"])


def _often(values: list[Any], least: int) -> list[str]:
    counts: dict[str, int] = {}
    for one in values:
        if one is not None:
            counts[str(one)] = counts.get(str(one), 0) + 1
    return sorted(name for name, count in counts.items() if count >= least)


def _ratings(table: Table) -> Target:
    if "rating" not in table.column_names:
        return Target("value", [], 1.0, 1.0)
    values = np.asarray([one for one in column(table, "rating") if one is not None] or [1.0], dtype=np.float64)
    if not np.isfinite(values).all():
        raise BadRequest("A rating is not a finite number.", param="rating")
    return Target("value", [], float(values.mean()), float(values.std()) or 1.0)


def _name(row: Row, field: str, number: int) -> str:
    value = row.get(field)
    if value is None or isinstance(value, (bool, float, list, tuple, Mapping)) or value == "":
        raise wrong(number, field, "a name (or whole number) is expected.")
    return str(value)
