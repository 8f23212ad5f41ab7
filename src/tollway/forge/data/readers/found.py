"""What a reader gets and gives: its options, the list of problems, and the tables it found, split by split."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tollway.forge.data.problems import Problems

if TYPE_CHECKING:
    import pyarrow as pa

SPLIT_NAMES: Final = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test", "t10k": "test", "eval": "test",
}  # fmt: skip
UNPACKED_MAX: Final = 16 << 30


@dataclass(frozen=True)
class Options:
    """How to read; empty means: find out."""

    format: str = ""
    text: str = ""
    label: str = ""
    delimiter: str = ""
    encoding: str = ""
    header: bool | None = None
    quotes: bool | None = None
    skip_bad: bool = False
    field_chars_max: int = 10_000_000
    unpacked_bytes_max: int = UNPACKED_MAX
    kinds: dict[str, str] = field(default_factory=dict)


@dataclass
class Found:
    """The tables of a source and what it says about itself."""

    format: str
    tables: dict[str, "pa.Table"] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    licence: str = ""
    card: str = ""


@dataclass
class Reading:
    """One reading: what is read, how, where scratch files go, and everything that was found wrong."""

    options: Options
    problems: Problems
    scratch: Path
    progress: Callable[[int, int], None] = lambda done, total: None

    def shown(self, path: Path, root: Path) -> str:
        """A file as it is named in problems."""
        return str(path.relative_to(root)) if path != root and path.is_relative_to(root) else path.name


def split_of(name: str) -> str:
    """train, validation or test when a file's or folder's name says so: `train-00000-of-00002`, `x_test`, `val`."""
    stem = name.lower().split(".")[0].replace("-", "_")
    parts = stem.split("_")
    for part in (stem, parts[0], parts[-1]):
        if part in SPLIT_NAMES:
            return SPLIT_NAMES[part]
    return ""
