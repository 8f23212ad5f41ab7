"""A shelf in an empty folder, a desk, and small tables in English and Chinese."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tollway.forge import data
from tollway.forge.recipe import Data


class Desk:
    """What a step's function gets: a folder, a seed, and ears."""

    def __init__(self, out: Path, seed: int = 7) -> None:
        self.out, self.seed = out, seed
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def shelf(tmp_path, clock) -> data.Shelf:
    return data.Shelf(tmp_path / "datasets", clock)


@pytest.fixture
def desk(tmp_path) -> Callable[..., Desk]:
    """`desk()`: a fresh one each time."""
    made = []

    def make(seed: int = 7) -> Desk:
        folder = tmp_path / f"out{len(made)}"
        folder.mkdir()
        made.append(folder)
        return Desk(folder, seed)

    return make


@pytest.fixture
def reviews() -> pa.Table:
    """Forty reviews, half of them Chinese, of two classes."""
    rows = [(f"a good thing, number {n}", "positive", n) for n in range(10)]
    rows += [(f"a bad thing, number {n}", "negative", n) for n in range(10)]
    rows += [(f"第{n}件商品很好用", "positive", n + 20) for n in range(10)] + [(f"第{n}件商品太差了", "negative", n + 20) for n in range(10)]
    return pa.table({"text": [row[0] for row in rows], "label": [row[1] for row in rows], "shop": [row[2] // 5 for row in rows]})


@pytest.fixture
def wish() -> Callable[..., Data]:
    """`[data]` of a recipe."""
    return lambda dataset, **more: Data.model_validate({"dataset": dataset, **more})


@pytest.fixture
def bring(shelf, tmp_path) -> Callable[..., Any]:
    """`bring("a.csv", "text,label\\n…", label="label")`: write a file and import it as `x`."""

    def do(name: str, content: bytes | str, *, options: dict[str, Any] | None = None, **more: Any) -> data.Imported:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return data.import_(shelf, path, "x", data.Options(**(options or {})), **more)

    return do
