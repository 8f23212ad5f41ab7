"""Import: from a file, folder or archive to a version on the shelf, or to one message with everything that is wrong.

    version, notes = data.import_(shelf, Path("reviews.csv"), "reviews", text="review", label="stars")

The source is parsed in the limited process; what comes out is looked at here (labels, empty classes), and only when
nothing is wrong, or what is doubtful was waved through, does a version appear.
"""

import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tollway.forge.data import clean, labels
from tollway.forge.data.problems import Problems
from tollway.forge.data.readers.found import Options
from tollway.forge.data.schema import guess
from tollway.forge.data.shelf import Shelf, Version, check_name
from tollway.kit import sandbox
from tollway.kit.errors import BadRequest, NotFound

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Imported", "Options", "import_"]


@dataclass(frozen=True)
class Imported:
    """What an import gave: the version, whether it is new, how it was read, and what is worth knowing."""

    version: Version
    new: bool
    format: str
    notes: tuple[str, ...]


def import_(
    shelf: Shelf,
    source: Path,
    name: str,
    options: Options | None = None,
    *,
    licence: str = "",
    card: str = "",
    rename: Mapping[str, str] | None = None,
    anyway: bool = False,
    limits: sandbox.ResourceLimits | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Read a source and put it on the shelf. Raises BadRequest listing all problems; then nothing was kept.

    `rename` corrects labels (wrong -> right); `anyway` accepts what is only doubtful.
    """
    import pyarrow.parquet as pq

    options = options or Options()
    check_name(name)
    source = source.expanduser().absolute()
    if not source.exists():
        raise NotFound(f"There is no {source}.", hint="Check the path.")
    if not source.is_file() and not source.is_dir():
        raise BadRequest(f"{source.name} is a pipe or a device, not a file.", hint="Write what comes out of it to a file.")
    with tempfile.TemporaryDirectory(prefix="tollway-import-") as folder:
        out = Path(folder)
        arguments = {"source": str(source), "out": folder, "options": asdict(options)}
        told = sandbox.call(
            "tollway.forge.data.readers:read_into", arguments, writable=out, limits=limits, progress=progress
        )
        problems = Problems.of(told["problems"])
        tables = {split: pq.read_table(out / f"{split}.parquet") for split in told["rows"]}
    roles = dict(told["roles"]) | {role: name for role, name in (("text", options.text), ("label", options.label)) if name}
    kinds: dict[str, str] = dict(told["kinds"])
    label = roles.get("label", "")
    if tables:
        tables = _renamed(tables, label, rename or {})
        if kinds.get(label) == "category" and label not in options.kinds:
            tables = _of_numbers(tables, label, kinds, problems)
        _doubts(tables, roles, problems)
    if options.skip_bad:
        skipped = problems.forget(_SKIPPABLE)
        if skipped:
            problems.note(f"{skipped:,} unreadable rows were left out (--skip-bad).")
    problems.require(doubts_too=not anyway, hint="" if problems.has(_SKIPPABLE) or not problems.errors else _WHOLE)
    if not tables:
        raise BadRequest(f"{source.name} has no rows.", code="dataset_empty")
    before = {version.ref for version in shelf.list() if version.name == name}
    version = shelf.add(
        name, tables, kinds=kinds, licence=licence or told["licence"], source=source.name, card=card or told["card"],
        notes=problems.notes, extra={"roles": roles, "format": told["format"]},
    )  # fmt: skip
    return Imported(version, version.ref not in before, told["format"], tuple(problems.notes))


_CLASSES_SURELY = 20
"""So many different numbers, a scale of ratings say, are classes when they are named as the label."""
_WHOLE = "Correct it: to leave rows out (--skip-bad) would not mend this."
_SKIPPABLE = ("ragged", "quote", "field", "nul", "encoding", "json", "image", "answer", "squad", "picture", "box", "category")


def _renamed(tables: "dict[str, pa.Table]", label: str, rename: Mapping[str, str]) -> "dict[str, pa.Table]":
    if not rename:
        return tables
    if not label:
        raise BadRequest("--rename needs to know the column of labels.", hint="Name it with --label.")
    steps = [f"rename:{old}={new}" for old, new in rename.items()]
    return {split: clean.clean(table, steps, clean.Roles(label=label))[0] for split, table in tables.items()}


def _of_numbers(
    tables: "dict[str, pa.Table]", label: str, kinds: dict[str, str], problems: Problems
) -> "dict[str, pa.Table]":
    """A label that was named is taken for classes; one whose values are all numbers, and nearly all different or with
    fractions, is something to predict by number. What is done, or could be meant, is said."""
    import pyarrow as pa

    as_numbers = {
        split: guess(table, {label: "number"}) if str(table[label].type).endswith("string") else table
        for split, table in tables.items() if label in table.column_names
    }  # fmt: skip
    columns = [table[label] for table in as_numbers.values()]
    if not columns or not all(pa.types.is_integer(one.type) or pa.types.is_floating(one.type) for one in columns):
        return tables
    values = [float(one) for column in columns for one in column.drop_null().to_pylist()]
    different = set(values)
    if len(different) <= _CLASSES_SURELY:
        return tables
    if any(one != one // 1 for one in different) or 2 * len(different) > len(values):
        kinds[label] = "number"
        problems.note(
            f"Every value of {label!r} is a number, {len(different):,} different ones in {len(values):,} rows: it is taken as a "
            f"number to predict. If they are classes: --kind {shlex.quote(f'{label}=category')}."
        )
        as_float = {
            split: table.set_column(table.column_names.index(label), label, table[label].cast(pa.float64()))
            for split, table in as_numbers.items()
        }
        return tables | as_float
    problems.note(
        f"The {len(different):,} classes of {label!r} are all numbers. If it is a quantity to predict: "
        f"--kind {shlex.quote(f'{label}=number')}."
    )
    return tables


def _doubts(tables: "dict[str, pa.Table]", roles: Mapping[str, str], problems: Problems) -> None:
    """What can be read, but is probably not meant."""
    label, text = roles.get("label", "label"), roles.get("text", "text")  # nobody said: what is called so, as in `check`
    counts: Counter[Any] = Counter()
    for split, table in tables.items():
        for role, name in (("text", text), ("label", label)):
            if name not in table.column_names:
                continue
            missing = [row for row, one in enumerate(table[name].to_pylist(), 1) if one is None or one == ""]
            for row in missing:
                where = f"{split}, row {row:,}"
                problems.add(f"no_{role}", f"a row has no {role} ({name!r} is empty)", shown=where, doubt=True)
        if label in table.column_names and str(table[label].type) in ("string", "large_string", "dictionary"):
            counts += Counter(one for one in table[label].to_pylist() if one)
    if not counts:
        return
    typed = labels.typos(counts)
    for wrong, right in typed.items():
        way_out = f"--rename {shlex.quote(f'{wrong}={right}')}"
        shown = f"{wrong!r} ({counts[wrong]:,} rows) looks like {right!r} ({counts[right]:,}): {way_out}"
        problems.add("label_typo", "a label looks like a typing error", shown=shown, doubt=True)
    if len(counts) == 1:
        problems.add("one_class", f"all rows have the same label, {next(iter(counts))!r}", doubt=True)
    single = [name for name, count in counts.items() if count == 1 and name not in typed]
    if single and len(counts) <= 1000 and len(single) < len(counts):
        for name in single:
            problems.add("rare_class", "a class has one row only: it cannot be learned and judged", shown=repr(name), doubt=True)
