"""The first step of every run: a dataset version becomes train, validation and test rows in the task's canonical columns.

    prepared = data.prepare(recipe.data, task, shelf, desk)     # select -> clean -> mask -> split -> limit -> augment
    prepared.read("train")                                      # pyarrow.Table

What was done, and to how many rows, is in `meta.json` beside the rows. Columns that the task does not need are kept with
the prefix `x_`, so that figures can be given by slices; tabular tasks keep their features under their own names.
"""

import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from tollway.forge.data import boxes, tasks
from tollway.forge.data import clean as cleaning
from tollway.forge.data import digest as digests
from tollway.forge.data import split as splitting
from tollway.forge.data.schema import columns_of
from tollway.forge.data.shelf import SPLITS, Shelf, Version
from tollway.forge.recipe import Data
from tollway.kit.errors import BadRequest
from tollway.kit.said import say

if TYPE_CHECKING:
    import pyarrow as pa

META: Final = "meta.json"


class Place(Protocol):
    """What the step needs of its desk."""

    @property
    def out(self) -> Path: ...
    @property
    def seed(self) -> int: ...
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


@dataclass(frozen=True)
class Prepared:
    """A folder of canonical rows."""

    folder: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / META).read_text(encoding="utf-8"))
        return found

    @property
    def task(self) -> str:
        return str(self.meta["task"])

    @property
    def digest(self) -> str:
        return str(self.meta["digest"])

    @property
    def labels(self) -> list[str]:
        """The classes, sorted; empty when the task has none."""
        return list(self.meta["labels"])

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name in SPLITS if name in self.meta["rows"])

    def rows(self, split: str) -> int:
        return int(self.meta["rows"].get(split, 0))

    def read(self, split: str, columns: Sequence[str] | None = None) -> "pa.Table":
        """The rows of a split. A split that is not there raises BadRequest."""
        import pyarrow.parquet as pq

        if split not in self.splits:
            raise BadRequest(
                f"The prepared data has no {split} rows.", hint=f"Give [data] split a {split} share above 0."
            )
        return pq.read_table(self.folder / f"{split}.parquet", columns=None if columns is None else list(columns))


@dataclass
class _Work:
    """The rows on their way, and what is written about them."""

    task: str
    version: Version
    found: dict[str, str]
    tables: dict[str, "pa.Table"]
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str | None:
        """The column of the classes or the target."""
        names = next(iter(self.tables.values())).column_names
        return next((name for name in ("label", "target", "rating") if name in self.found and name in names), None)


def check(wish: Data, task: str, version: Version, slices: Sequence[str] = ()) -> None:
    """What the recipe asks of this dataset's columns, without reading a row. Raises BadRequest naming everything that is
    not there. Steps that rename columns are taken at their word."""
    problems = []
    try:
        tasks.match(task, version.columns, wish.columns, version.about.get("roles", {}), version.ref)
    except BadRequest as error:
        problems.append(str(error))
    have = {one.name for one in version.columns} | set(wish.columns)
    known = known_columns(wish, task, version)
    if known is not None:
        by = wish.split.by.partition(":")[2]
        asked = {"split": [by] if by else [], "columns": _listed(wish.columns)}
        problems += [_no_column(f"[data] {name}", one, have, version) for name in asked for one in asked[name] if one not in have]
        problems += [_no_column("[evaluate] slices", one, known, version) for one in slices if one not in known]
    if problems:
        raise BadRequest("\n".join(problems), code="columns_do_not_fit")


def known_columns(wish: Data, task: str, version: Version) -> set[str] | None:
    """What rows can be told apart by; None where steps rename columns: they are taken at their word."""
    if any(step.startswith("rename") for step in wish.clean):
        return None
    roles = {role.name for role in tasks.ROLES[task]}
    return {one.name for one in version.columns} | set(wish.columns) | roles | {"length"}


def _listed(columns: Mapping[str, str]) -> list[str]:
    return [one.strip() for name in ("features", "drop") for one in columns.get(name, "").split(",") if one.strip()]


def _no_column(where: str, name: str, have: set[str], version: Version) -> str:
    close = difflib.get_close_matches(name, have, n=1)
    return f"{where}: {version.ref} has no column {name!r}" + (f"; did you mean {close[0]!r}?" if close else ".")


def prepare(wish: Data, task: str, shelf: Shelf, desk: Place) -> Prepared:
    """Make the canonical rows in `desk.out`."""
    import pyarrow.parquet as pq

    version = shelf.get(wish.dataset)
    cleaning.check(wish.clean)
    if wish.augment:
        from tollway.forge.data import augment

        augment.check(wish.augment, task)
    found = tasks.match(task, version.columns, wish.columns, version.about.get("roles", {}), version.ref)
    work = _Work(task, version, found, {})
    work.tables = {split: _canonical(version, split, found, task, wish.columns) for split in version.splits}
    _clean(work, wish.clean, desk)
    if wish.mask:
        _mask(work, desk)
    _split(work, wish.split, desk)
    _limit(work, wish.rows_max, desk)
    _examine(work, desk)
    if wish.augment:
        from tollway.forge.data import augment

        work.tables["train"], done = augment.augment(
            work.tables["train"], wish.augment, task, desk.seed, getattr(desk, "translators", None)
        )
        work.meta["augment"] = [str(one) for one in done]
        for one in done:
            desk.note(say("data.augmented", "augmented: {what}", what=str(one)))
    for split, table in work.tables.items():
        pq.write_table(table, desk.out / f"{split}.parquet", compression="zstd")
    whole = {
        "task": task, "dataset": version.ref, "dataset_digest": version.digest, "licence": version.licence,
        "source": version.source, "columns": found,
        "digest": digests.digest(work.tables, columns_of(work.tables["train"])),
        "rows": {split: table.num_rows for split, table in work.tables.items()}, **work.meta,
    }  # fmt: skip
    (desk.out / META).write_text(json.dumps(whole, ensure_ascii=False, indent=1), encoding="utf-8")
    return Prepared(desk.out)


def _canonical(
    version: Version, split: str, found: Mapping[str, str], task: str, asked: Mapping[str, str]
) -> "pa.Table":
    import pyarrow as pa

    table = version.read(split)
    kinds = {one.name: one.kind for one in version.columns}
    arrays, names = [], []
    for name, source in found.items():
        arrays.append(_converted(table[source], name, kinds[source]))
        names.append(name)
    features = _features(version, found, asked) if task in tasks.TABULAR else []
    for source in features:
        column = table[source]
        if kinds[source] == "time":  # days since 1970: a number, as a table's network wants it
            column = _days(column)
        arrays.append(column)
        names.append(source if source not in names else f"{source}_")
    for source in table.column_names if task not in tasks.TABULAR else ():
        if source not in found.values() and kinds[source] not in ("image", "json"):
            arrays.append(table[source])
            names.append(f"x_{source}")
    return pa.table(arrays, names=names)


def _features(version: Version, found: Mapping[str, str], asked: Mapping[str, str]) -> list[str]:
    """The columns a table's model learns from: the ones asked for, or all that can be features."""
    fit = [one.name for one in version.columns
           if one.kind in ("number", "integer", "boolean", "category", "text", "time") and one.name not in found.values()]  # fmt: skip
    named = [one.strip() for one in asked.get("features", "").split(",") if one.strip()]
    dropped = [one.strip() for one in asked.get("drop", "").split(",") if one.strip()]
    for name in (*named, *dropped):
        version.column(name)
    chosen = [name for name in (named or fit) if name not in dropped]
    if not chosen:
        raise BadRequest(
            f"{version.ref} has no column left to learn from.", hint="Name some: columns = {features = …}."
        )
    return chosen


def _converted(column: "pa.ChunkedArray", name: str, kind: str) -> "pa.ChunkedArray":
    """A column in the type its canonical name stands for."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if name in ("label", "user", "item") and not pa.types.is_string(column.type):
        if pa.types.is_boolean(column.type):
            return pc.if_else(column, "true", "false")
        if pa.types.is_floating(column.type) and pc.all(pc.equal(pc.floor(column), column)).as_py():
            column = column.cast(pa.int64())
        return column.cast(pa.string())
    if name in ("target", "rating") and not pa.types.is_string(column.type):
        return column.cast(pa.float64())
    if name in ("tokens", "tags") and kind == "json":
        return _parsed(column, pa.list_(pa.string()), lambda value: [str(one) for one in value])
    if name == "boxes":
        return _parsed(column, boxes.arrow(), boxes.read)
    if name == "messages":
        kind_of = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
        return _parsed(column, kind_of, _turns)
    return column


def _turns(value: Any) -> list[dict[str, str]]:
    turns = value.get("messages", value) if isinstance(value, dict) else value
    said = {"human": "user", "gpt": "assistant", "bot": "assistant"}  # as ShareGPT's exports name them
    found = []
    for turn in turns:
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if role is None or content is None:
            raise TypeError("a turn needs role and content")
        found.append({"role": said.get(role, role), "content": content})
    return found


def _parsed(column: "pa.ChunkedArray", kind: "pa.DataType", read: Any) -> "pa.ChunkedArray":
    import pyarrow as pa

    values, wrong = [], []
    for row, text in enumerate(column.to_pylist(), 1):
        try:
            values.append(None if text is None else read(json.loads(text)))
        except (TypeError, AttributeError, ValueError) as error:
            wrong.append(f"row {row}: {error}")
    if wrong:
        shown = "; ".join(wrong[:20])
        raise BadRequest(f"{len(wrong)} rows cannot be read as {kind}: {shown}.", code="columns_do_not_fit")
    try:
        return pa.chunked_array([pa.array(values, kind)])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise BadRequest(f"The rows cannot be read as {kind}: {error}.", code="columns_do_not_fit") from error


def _days(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.divide(column.cast(pa.int64()).cast(pa.float64(), safe=False), 86_400_000_000.0)


def _roles(work: _Work) -> cleaning.Roles:
    table = next(iter(work.tables.values()))
    kinds = {one.name: one.kind for one in work.version.columns}
    label = work.label
    content = [name for name in table.column_names if name != label and not name.startswith("x_")]
    texts = [name for name in work.found if kinds[work.found[name]] in ("text", "category")
             and name not in ("label", "target", "rating", "user", "item")]  # fmt: skip
    return cleaning.Roles(tuple(texts), tuple(content), label)


def _clean(work: _Work, steps: list[str], desk: Place) -> None:
    """Rows without what the task needs go first; then the steps, over all splits at once so that leaks are seen."""
    import pyarrow as pa
    import pyarrow.compute as pc

    order = [split for split in ("test", "validation", "train") if split in work.tables]  # the first of equals stays
    parts = [
        work.tables[split].append_column("__split", pa.array([split] * work.tables[split].num_rows)) for split in order
    ]
    whole = pa.concat_tables(parts)
    needed = [
        name for name in work.found if name != "time" and not (work.task == "sentence-embedding" and name != "text")
    ]
    roles = _roles(work)
    required = cleaning.Roles(
        roles.texts, tuple(name for name in needed if name not in ("answer", "answer_start")), None
    )
    whole, gone = cleaning.clean(whole, ["drop-missing"], required)
    if gone[0].dropped:
        desk.warn(say("data.missing", "{count} rows have no {columns}: they are left out.", count=gone[0].dropped,
                      columns=" or no ".join(required.content)))  # fmt: skip
    if not whole.num_rows:
        raise BadRequest(f"{work.version.ref} has no row with {' and '.join(required.content)}.", code="dataset_empty")
    whole, done = cleaning.clean(whole, steps, roles)
    for one in done:
        desk.note(say("data.cleaned", "cleaned: {what}", what=str(one)))
    work.meta["clean"] = [
        str(one) for one in [*gone, *done] if one.dropped or one.changed or one.step != "drop-missing"
    ]
    for split in order:
        work.tables[split] = whole.filter(pc.equal(whole["__split"], split)).drop_columns(["__split"])
    work.tables = {split: table for split, table in work.tables.items() if table.num_rows}


def _mask(work: _Work, desk: Place) -> None:
    from tollway.forge.data import mask

    total: Counter[str] = Counter()
    for split, table in work.tables.items():
        work.tables[split], counts = mask.mask_table(table, mask.columns_to_mask(table, work.label))
        total += counts
    work.meta["masked"] = dict(total)
    found = ", ".join(f"{count:,} {kind}" for kind, count in total.most_common())
    desk.note(
        say("data.masked", "masked: {what}", what=found) if found else say("data.masked_none", "masked: nothing found")
    )


def _split(work: _Work, wish: Any, desk: Place) -> None:
    """Splits the dataset has are kept; those it lacks are cut from train."""
    if "train" not in work.tables:
        raise BadRequest(
            f"{work.version.ref} has no train rows.", hint="Import it again, or split it: tollway dataset split."
        )
    shares = {name: 0.0 if name in work.tables else getattr(wish, name) for name in ("validation", "test")}
    made = [name for name, share in shares.items() if share]
    if made:
        roles = _roles(work)
        how, _, column = wish.by.partition(":")
        if column:
            column = _named(work, column)
        parts = splitting.split(
            work.tables["train"], **shares, by=f"{how}:{column}" if column else how,
            label=None if work.task == "translation" else work.label,  # a translation is no class
            content=list(roles.content), seed=desk.seed,
        )  # fmt: skip
        work.tables = {**work.tables, **parts}
    work.tables = {name: work.tables[name] for name in SPLITS if name in work.tables}
    kept = [name for name in work.tables if name not in made and name != "train"]
    work.meta["split"] = {"by": wish.by if made else "the dataset's own", "made": made, "kept": kept, "seed": desk.seed}


def _named(work: _Work, column: str) -> str:
    """A column of the dataset under the name it has now."""
    now = {source: name for name, source in work.found.items()}
    if column in now:
        return now[column]
    work.version.column(column)
    return f"x_{column}" if f"x_{column}" in work.tables["train"].column_names else column


def _limit(work: _Work, rows_max: int | None, desk: Place) -> None:
    import numpy as np

    for split, table in work.tables.items() if rows_max else ():
        if table.num_rows > (rows_max or 0):
            order = np.argsort(digests.keys(table, salt=f"limit {desk.seed}"), kind="stable")[:rows_max]
            work.tables[split] = table.take(np.sort(order))
            desk.note(say("data.limited", "{split}: {used} of {count} rows are used (rows_max).", split=split, used=rows_max,
                          count=table.num_rows))  # fmt: skip


def _examine(work: _Work, desk: Place) -> None:
    """Labels: which there are, and what would make training pointless."""
    work.meta["labels"] = []
    if work.task == "object-detection":
        work.meta |= boxes.examined(work.tables, desk)
    if work.label != "label" or work.task == "sentence-embedding":
        return
    from tollway.forge.data import labels

    counts = {split: Counter(table["label"].to_pylist()) for split, table in work.tables.items()}
    train = counts["train"]
    if len(train) < 2 and work.task != "image-generation":
        raise BadRequest(
            f"All {work.tables['train'].num_rows:,} training rows have the same label ({next(iter(train))!r}).",
            code="one_class",
            hint="A classifier needs at least two classes: check the label column and the split.",
        )
    everything = sum(counts.values(), Counter())
    for wrong, right in labels.typos(everything).items():
        desk.warn(say("data.typo", "The label {wrong!r} ({count} rows) looks like {right!r}. "
                      'If so: clean = ["rename:{wrong}={right}"].', wrong=wrong, right=right, count=everything[wrong]))  # fmt: skip
    unseen = sorted(set(everything) - set(train))
    if unseen:
        desk.warn(say("data.unseen", "No training row has the label {labels}: it cannot be learned.",
                      labels=", ".join(map(repr, unseen[:10]))))  # fmt: skip
    work.meta["labels"] = sorted(everything)
    work.meta["classes"] = {split: dict(sorted(count.items())) for split, count in counts.items()}
