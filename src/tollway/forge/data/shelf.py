"""The shelf of datasets: `<home>/datasets/<name>/<n>/`, each version written once and known by the digest of its rows.

    shelf = data.Shelf(home / "datasets", clock)
    version = shelf.add("movies", {"train": table}, licence="MIT", source="reviews.csv")
    shelf.get("movies@1").read("train", columns=["text", "label"])

A version appears whole or not at all (written aside, synced, renamed). The same rows again are the same version; numbers
count 1, 2, 3 … and are never used twice.
"""

import contextlib
import difflib
import fcntl
import json
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tollway.forge.data import digest as digests
from tollway.forge.data.schema import Column, columns_of, settle
from tollway.kit import durable
from tollway.kit.clock import Clock, from_ms
from tollway.kit.errors import BadRequest, NotFound
from tollway.kit.said import say

if TYPE_CHECKING:
    import pyarrow as pa

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
SPLITS: Final = ("train", "validation", "test")
FILE: Final = "dataset.toml"
CARD: Final = "card.md"
Card: TypeAlias = Callable[[Mapping[str, Any]], str]  # from what is known of a version to its card
_ROW_GROUP: Final = 16_384


@dataclass(frozen=True)
class Version:
    """One immutable version of a dataset."""

    folder: Path
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.about["name"])

    @property
    def version(self) -> int:
        return int(self.about["version"])

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def digest(self) -> str:
        return str(self.about["digest"])

    @property
    def licence(self) -> str:
        return str(self.about.get("licence", ""))

    @property
    def source(self) -> str:
        return str(self.about.get("source", ""))

    @property
    def parent(self) -> str:
        return str(self.about.get("parent", ""))

    @property
    def operation(self) -> str:
        return str(self.about.get("operation", ""))

    @property
    def bytes(self) -> int:
        return int(self.about.get("bytes", 0))

    @property
    def splits(self) -> tuple[str, ...]:
        """train first, then validation and test where there are such."""
        return tuple(name for name in SPLITS if name in self.about["rows"])

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        return tuple(Column(**one) for one in self.about["columns"])

    def rows(self, split: str | None = None) -> int:
        """Rows of a split, or of all of them."""
        rows: Mapping[str, int] = self.about["rows"]
        return sum(rows.values()) if split is None else int(rows.get(split, 0))

    def column(self, name: str) -> Column:
        """A column by name. Raises BadRequest naming the nearest one."""
        for one in self.columns:
            if one.name == name:
                return one
        names = [one.name for one in self.columns]
        close = difflib.get_close_matches(name, names, n=1)
        raise BadRequest(
            f"{self.ref} has no column {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""),
            code="column_not_found",
            hint=f"Its columns: {', '.join(names)}.",
        )

    def read(self, split: str, columns: Sequence[str] | None = None) -> "pa.Table":
        """The rows of a split."""
        import pyarrow.parquet as pq

        if split not in self.splits:
            raise NotFound(f"{self.ref} has no {split} split.", hint=f"It has: {', '.join(self.splits)}.")
        for name in columns or ():
            self.column(name)
        return pq.read_table(self.folder / f"{split}.parquet", columns=None if columns is None else list(columns))

    def tables(self, columns: Sequence[str] | None = None) -> dict[str, "pa.Table"]:
        """All splits."""
        return {split: self.read(split, columns) for split in self.splits}

    def plain(self) -> dict[str, Any]:
        """What `dataset.toml` says, and where it is."""
        return {**self.about, "ref": self.ref, "folder": str(self.folder)}

    def verify(self) -> None:
        """Read all rows and compare their digest with the one on record. Raises BadRequest when they differ."""
        if digests.digest(self.tables(), self.columns) != self.digest:
            raise BadRequest(
                f"The rows of {self.ref} are not the ones that were imported: their digest differs.",
                code="dataset_damaged",
                hint=f"Remove it (tollway dataset remove {self.ref}) and import the data again.",
            )


class Shelf:
    """The datasets of one home."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self.root = root
        self.clock = clock

    def get(self, ref: str) -> Version:
        """`movies@2`, or `movies` for its newest version. Raises NotFound."""
        name, _, number = ref.partition("@")
        numbers = self._numbers(name) if NAME.fullmatch(name) else []
        if not numbers:
            close = difflib.get_close_matches(name, self.names(), n=1)
            raise NotFound(
                say("dataset.close", "There is no dataset {name!r}. Did you mean {close!r}?", name=name, close=close[0])
                if close
                else say("dataset.unknown", "There is no dataset {name!r}.", name=name),
                code="dataset_not_found",
                hint=say(
                    "dataset.list",
                    "`tollway dataset list` shows them; `tollway dataset import FILE --name {name}` adds one.",
                    name=name,
                ),
            )
        if number and (not number.isdigit() or int(number) not in numbers):
            raise NotFound(
                say(
                    "dataset.no_version",
                    "There is no version {version} of the dataset {name!r}.",
                    version=number,
                    name=name,
                ),
                code="dataset_not_found",
                hint=say("there_are", "There are: {these}.", these=", ".join(f"{name}@{one}" for one in numbers)),
            )
        return self._open(self.root / name / str(int(number) if number else numbers[-1]))

    def names(self) -> list[str]:
        """Names of all datasets."""
        if not self.root.is_dir():
            return []
        return sorted(
            path.name for path in self.root.iterdir() if NAME.fullmatch(path.name) and self._numbers(path.name)
        )

    def list(self) -> list[Version]:
        """Every version, by name and number."""
        return [self._open(self.root / name / str(number)) for name in self.names() for number in self._numbers(name)]

    def add(
        self,
        name: str,
        tables: Mapping[str, "pa.Table"],
        *,
        kinds: Mapping[str, str] | None = None,
        licence: str = "",
        source: str = "",
        parent: str = "",
        operation: str = "import",
        card: "str | Card" = "",
        notes: Sequence[str] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> Version:
        """Put rows on the shelf. Returns the version that already has them, when there is one under this name."""
        check_name(name)
        settled, columns = _settled(name, tables, dict(kinds or {}))
        digest = digests.digest(settled, columns)
        with self._alone(name) as folder:
            for number in self._numbers(name):
                there = self._open(folder / str(number))
                if there.digest == digest:
                    return there
            number = self._next(folder)
            about = {
                "name": name, "version": number, "digest": digest,
                "created": from_ms(self.clock.now_ms()).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "licence": licence, "source": source, "parent": parent, "operation": operation, "notes": list(notes),
                **(extra or {}),
                "rows": {split: settled[split].num_rows for split in SPLITS if split in settled},
                "columns": [{"name": one.name, "kind": one.kind, "nullable": one.nullable} for one in columns],
            }  # fmt: skip
            return self._write(folder, about, settled, card)

    def remove(self, ref: str) -> int:
        """Remove a version, or all versions of a name. Returns how many."""
        name, _, number = ref.partition("@")
        versions = [self.get(ref)] if number else [self._open(self.root / name / str(n)) for n in self._numbers(name)]
        if not versions:
            self.get(ref)  # raises, with a suggestion
        with self._alone(name) as folder:
            self._next(folder, keep=True)
            for version in versions:
                gone = folder / f".gone-{version.version}-{os.getpid()}"
                version.folder.rename(gone)
                shutil.rmtree(gone)
        return len(versions)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _numbers(self, name: str) -> Sequence[int]:
        folder = self.root / name
        if not folder.is_dir():
            return []
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit() and (path / FILE).is_file())

    def _open(self, folder: Path) -> Version:
        try:
            about = tomllib.loads((folder / FILE).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise BadRequest(
                f"{folder / FILE} cannot be read: {error}.", code="dataset_damaged", hint="Import the data again."
            ) from error
        return Version(folder, about)

    def _next(self, folder: Path, keep: bool = False) -> int:
        """The next number; `.last` remembers the highest one ever given, also when its version was removed."""
        last = folder / ".last"
        highest: int = max([int(last.read_text()) if last.exists() else 0, *self._numbers(folder.name)])
        durable.write(last, str(highest if keep else highest + 1))  # a half-written number would end the dataset
        return highest + 1

    def _write(self, folder: Path, about: dict[str, Any], tables: Mapping[str, "pa.Table"], card: "str | Card") -> Version:
        import pyarrow.parquet as pq

        aside = folder / f".incoming-{about['version']}-{os.getpid()}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        try:
            for split, table in tables.items():
                pq.write_table(table, aside / f"{split}.parquet", compression="zstd", row_group_size=_ROW_GROUP)
            about["bytes"] = sum(path.stat().st_size for path in aside.iterdir())
            (aside / FILE).write_text(to_toml(about), encoding="utf-8")
            written = card(about) if callable(card) else card
            (aside / CARD).write_text(written or default_card(about), encoding="utf-8")
            for path in aside.iterdir():
                durable.sync(path)
            final = folder / str(about["version"])
            aside.rename(final)
            durable.sync(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return self._open(final)

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[Path]:
        folder = self.root / name
        for place in (self.root.parent, self.root, folder):  # mkdir gives its mode to the last folder only
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (folder / ".lock").open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            for left in (*folder.glob(".incoming-*"), *folder.glob(".gone-*")):  # by one that was killed in the middle
                shutil.rmtree(left, ignore_errors=True)
            yield folder


def check_name(name: str) -> None:
    """Raise BadRequest unless this can be a dataset's name."""
    if not NAME.fullmatch(name):
        raise BadRequest(
            f"{name!r} cannot be a dataset's name.",
            hint="Use small letters, digits, dot, dash and underscore; at most 100.",
        )


def _settled(
    name: str, tables: Mapping[str, "pa.Table"], kinds: dict[str, str]
) -> tuple[dict[str, "pa.Table"], tuple[Column, ...]]:
    """All splits in our types, with the same columns; refuses nothing to keep, and splits that do not fit together."""
    import pyarrow as pa

    unknown = set(tables) - set(SPLITS)
    if unknown:
        raise BadRequest(f"A split is one of {', '.join(SPLITS)}, not {', '.join(sorted(unknown))}.")
    kept = {split: settle(tables[split], kinds) for split in SPLITS if split in tables and tables[split].num_rows}
    if not kept:
        raise BadRequest(f"There are no rows to keep for {name}.", code="dataset_empty")
    if any(not part.num_columns for part in kept.values()):
        raise BadRequest(f"There are no columns to keep for {name}.", code="dataset_empty")
    try:
        whole = pa.concat_tables(kept.values(), promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise BadRequest(f"The splits of {name} do not have the same columns: {error}.") from error
    order = whole.column_names
    full = {}
    for split, table in kept.items():
        arrays = [table[one] if one in table.column_names else pa.nulls(table.num_rows) for one in order]
        full[split] = pa.table(arrays, names=order).cast(whole.schema)
    return full, columns_of(whole, kinds)


def default_card(about: Mapping[str, Any]) -> str:
    """A card to begin with: what is known, and what only people know."""
    return _known(about) + "\n\n## How it was collected\n\nNot said yet.\n\n## Known limits\n\nNot said yet.\n"


def card_of_next(card: str, before: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The card of a version made from another: what people wrote stays, what is known is the new version's."""
    return card.replace(_known(before), _known(about), 1)


def _known(about: Mapping[str, Any]) -> str:
    rows = ", ".join(f"{count:,} {split}" for split, count in about["rows"].items())
    columns = "\n".join(f"- `{one['name']}` ({one['kind']})" for one in about["columns"])
    return (
        f"# {about['name']}, version {about['version']}\n\n- rows: {rows}\n- source: {about['source'] or 'not said'}\n"
        f"- licence: {about['licence'] or 'not said'}\n- made by: {about['operation']}"
        + (f" of {about['parent']}" if about["parent"] else "")
        + f"\n- digest: `{about['digest']}`\n\n## Columns\n\n{columns}"
    )


def to_toml(fields: Mapping[str, Any]) -> str:
    """Plain fields and lists first, then tables. JSON's strings are TOML's, but for DEL."""

    def literal(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{json.dumps(key)} = {literal(one)}" for key, one in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(map(literal, value)) + "]"
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

    def rows_of(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and isinstance(value[0], dict)

    lines, tables = [], []
    for key, value in fields.items():
        if isinstance(value, dict):
            tables += ["", f"[{key}]", *[f"{json.dumps(name)} = {literal(one)}" for name, one in value.items()]]
        elif rows_of(value):  # inline tables, so that they may stand before the first header
            lines += [f"{key} = [", *[f"  {literal(one)}," for one in value], "]"]
        elif value is not None:
            lines.append(f"{key} = {literal(value)}")
    return "\n".join([*lines, *tables, ""])
