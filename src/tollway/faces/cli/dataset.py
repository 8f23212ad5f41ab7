"""`tollway dataset …`: bring rows in, look at them, mend them; every change is a new version, nothing is overwritten."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollway.faces.cli import tables
from tollway.faces.cli.desk import Desk, Yes, command, group, quoted
from tollway.faces.cli.progress import Progress
from tollway.flows import workshop
from tollway.kit.clock import SystemClock
from tollway.kit.errors import BadRequest

if TYPE_CHECKING:
    from tollway.forge.data import Shelf, Version

app = group("Import, check, split, clean, mask, augment and export datasets.")
Ref = Annotated[str, typer.Argument(help="A dataset (its newest version), or one version: movies@2.", metavar="NAME[@N]")]
LabelColumn = Annotated[str, typer.Option("--label", help="The column of labels.")]
TextColumn = Annotated[str, typer.Option("--text", help="The column of texts.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every random choice.")]
_MARKS = {"bad": "[red]bad[/red]", "warn": "[yellow]warn[/yellow]", "note": "note"}


def shelf_of(desk: Desk) -> "Shelf":
    """The datasets of this home. Reading them needs no shop and no database."""
    return workshop.datasets(desk.home, SystemClock())


@command(app, "import")
def import_(
    desk: Desk,
    source: Annotated[Path, typer.Argument(help="A file, folder or archive.", metavar="FILE_OR_FOLDER")],
    name: Annotated[str, typer.Option("--name", help="What it will be called here.")],
    label: LabelColumn = "",
    text: TextColumn = "",
    format_: Annotated[str, typer.Option("--format", help="csv, tsv, jsonl, json, parquet, npz, idx, text; found out by default.")] = "",
    licence: Annotated[str, typer.Option("--licence", help="Under which these rows may be used.")] = "",
    card: Annotated[Path | None, typer.Option("--card", help="A Markdown file that describes the data.")] = None,
    delimiter: Annotated[str, typer.Option("--delimiter", help="Between cells; found out by default.")] = "",
    encoding: Annotated[str, typer.Option("--encoding", help="Of texts; found out by default.")] = "",
    header: Annotated[bool | None, typer.Option("--header/--no-header", help="Whether the first row has names.")] = None,
    quotes: Annotated[bool | None, typer.Option("--quotes/--no-quotes", help="Whether \" quotes cells.")] = None,
    rename: Annotated[list[str] | None, typer.Option("--rename", help="Correct a label: postive=positive. Repeatable.")] = None,
    kind: Annotated[list[str] | None, typer.Option("--kind", help="COLUMN=text|category|number|integer|boolean|time. Repeatable.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave rows out that cannot be read.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Import although something is doubtful.")] = False,
    field_max: Annotated[int, typer.Option("--field-max", help="Characters a cell may have.")] = 10_000_000,
) -> None:
    """Bring rows in as version 1, 2, 3 … of a dataset. All problems are listed at once; with one, nothing is kept."""
    from tollway.forge import data

    described = ""
    if card is not None:
        if not card.is_file():
            raise BadRequest(f"There is no file {card}.")
        described = card.read_text(encoding="utf-8", errors="replace")
    options = data.Options(
        format=format_, text=text, label=label, delimiter=delimiter, encoding=encoding, header=header, quotes=quotes,
        skip_bad=skip_bad, field_chars_max=field_max, kinds=_pairs(kind or [], "--kind", data.KINDS),
    )  # fmt: skip
    with Progress(f"Importing {source.name}") as progress:
        done = data.import_(
            shelf_of(desk), source, name, options, licence=licence, card=described, anyway=anyway,
            rename=_pairs(rename or [], "--rename"), progress=progress.count,
        )  # fmt: skip
    for note in done.notes:
        desk.say(f"Note: {note}")
    if not done.new:
        desk.say(f"These rows were there already: {done.version.ref}.")
    desk.answer(done.version.plain() | {"new": done.new}, lambda: _card(done.version))
    desk.then(f"tollway dataset check {done.version.ref}")


@command(app, "sample")
def sample(
    desk: Desk,
    name: Annotated[str | None, typer.Argument(help="Which; without it, what there is.", metavar="[NAME]")] = None,
) -> None:
    """Real data that comes inside installed packages: for trying things out. Nothing is fetched."""
    from tollway.forge.data import samples

    if name is None:
        rows = [{"name": one.name, "title": one.title, "task": one.task, "licence": one.licence,
                 "here": one.available(), "bring": "" if one.available() else one.bring} for one in samples.SAMPLES.values()]  # fmt: skip
        columns = {"name": "sample", "title": "what it is", "task": "task", "licence": "licence", "here": "here", "bring": "bring it with"}
        desk.answer(rows, lambda: tables.table(rows, columns))
        desk.then("tollway dataset sample movies")
        return
    with Progress(f"Making {name}"):
        version = samples.load(name, shelf_of(desk))
    desk.answer(version.plain(), lambda: _card(version))
    task = version.about.get("task", "text-classification")
    desk.then(f"tollway recipe new my-{version.name} --task {task} --dataset {version.name}")


@command(app, "list")
def list_(desk: Desk, all_: Annotated[bool, typer.Option("--all", help="Every version, not only the newest.")] = False) -> None:
    """Datasets, newest version of each."""
    versions = shelf_of(desk).list()
    newest = {version.name: version for version in versions}
    shown = versions if all_ else list(newest.values())
    rows = [_row(version) for version in shown]
    columns = {"ref": "dataset", "rows": "rows", "splits": "splits", "made_by": "made by", "licence": "licence", "created": "created"}
    desk.answer(rows, lambda: tables.table(rows, columns, empty="No datasets yet."))
    desk.then(f"tollway dataset show {shown[-1].name}" if rows else "tollway dataset sample", "your own: tollway dataset import")


@command(app, "show")
def show(desk: Desk, ref: Ref, rows: Annotated[int, typer.Option("--rows", help="Print so many rows as well.")] = 3) -> None:
    """One version: columns, splits, where it is from, and its first rows."""
    from tollway.forge.data import statistics

    version = shelf_of(desk).get(ref)
    described = statistics.describe(version)
    first = _first_rows(version, rows)
    data = version.plain() | {"statistics": described, "first_rows": first}

    def view() -> Any:
        from rich.console import Group

        lines = [{"column": name, "kind": one["kind"], "missing": one["missing"], "what": _said(one)}
                 for name, one in described["columns"].items()]  # fmt: skip
        parts = [_card(version), "", tables.table(lines, {"column": "column", "kind": "kind", "missing": "missing", "what": "values"})]
        if described["classes"]:
            per = described["classes"].items()
            classes = [{"split": split} | {name: counts[name] for name in list(counts)[:8]} for split, counts in per]
            names = dict.fromkeys(name for row in classes for name in row if name != "split")
            parts += ["", tables.table(classes, {"split": "split", **{name: name for name in names}})]
        parts += [tables.record(row) for row in first]
        return Group(*parts)

    desk.answer(data, view)
    desk.then(f"tollway dataset check {version.ref}")


@command(app, "check")
def check(
    desk: Desk, ref: Ref, quick: Annotated[bool, typer.Option("--quick", help="Without near duplicates and label noise.")] = False
) -> None:
    """What would spoil a model: leaks, duplicates, labels that look wrong. Exit code 1 when something is bad."""
    from tollway.forge.data import checks

    version = shelf_of(desk).get(ref)
    with Progress(f"Checking {version.ref}") as progress:
        version.verify()
        findings = checks.check(version, deep=not quick, progress=progress.count)
    rows = [one.plain() for one in findings]
    columns = {"level": "level", "text": "what", "mend": "mend it with"}
    nothing = f"{version.ref} is sound: nothing was found."
    desk.answer({"ref": version.ref, "worst": checks.worst(findings), "findings": rows},
                lambda: tables.table([_told(row) for row in rows], columns, nothing, _MARKS))  # fmt: skip
    desk.then(f"tollway dataset report {version.ref}", "with examples and plots")
    if checks.worst(findings) == "bad":
        raise typer.Exit(1)


@command(app, "split")
def split(
    desk: Desk,
    ref: Ref,
    validation: Annotated[float, typer.Option("--validation", help="Share of rows that watch the training.")] = 0.1,
    test: Annotated[float, typer.Option("--test", help="Share of rows that judge the model.")] = 0.1,
    by: Annotated[str, typer.Option("--by", help="stratified, random, group:COLUMN or time:COLUMN.")] = "stratified",
    seed: Seed = 7,
) -> None:
    """A new version with train, validation and test rows (splits it had are put together first)."""
    from tollway.forge.data import changes

    version = shelf_of(desk).get(ref)
    made = changes.split(shelf_of(desk), version, validation=validation, test=test, by=by, seed=seed)
    _made(desk, made, [])


@command(app, "clean")
def clean(
    desk: Desk,
    ref: Ref,
    step: Annotated[list[str] | None, typer.Option("--step", help="trim, deduplicate, rename:a=b … Repeatable.")] = None,
) -> None:
    """A new version after cleaning; says what each step did."""
    from tollway.forge.data import changes

    with Progress(f"Cleaning {ref}"):
        made, done = changes.clean(shelf_of(desk), shelf_of(desk).get(ref), step or ["trim", "fix-unicode", "drop-missing", "deduplicate"])
    _made(desk, made, [str(one) for one in done])


@command(app, "mask")
def mask(
    desk: Desk,
    ref: Ref,
    column: Annotated[list[str] | None, typer.Option("--column", help="Only these; all texts by default. Repeatable.")] = None,
    kind: Annotated[list[str] | None, typer.Option("--kind", help="Only these kinds (phone, email, name …). Repeatable.")] = None,
    style: Annotated[str, typer.Option("--style", help="kind ([PHONE]), partial (138****5678) or number ([PHONE_1]).")] = "kind",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be covered.")] = False,
) -> None:
    """A new version with personal data covered, in English and Chinese; reports kinds and counts."""
    from tollway.forge.data import changes

    with Progress(f"Masking {ref}"):
        made, report = changes.mask(shelf_of(desk), shelf_of(desk).get(ref), column or [], kind or [], style, dry_run=dry_run)
    counts = [{"kind": name, "found": count, "how": "hint" if name in report.hints else "certain",
               "example": (report.examples.get(name) or [""])[0]} for name, count in report.counts.most_common()]  # fmt: skip
    columns = {"kind": "kind", "found": "found", "how": "how sure", "example": "for example"}
    data = {"made": made.plain() if made else None, "report": report.plain()}
    desk.answer(data, lambda: tables.table(counts, columns, empty="No personal data was found."))
    if made is not None:
        desk.say(f"{made.ref}: {report.rows:,} rows were changed.")
        desk.then(f"tollway dataset show {made.ref}")
    else:
        desk.then(f"tollway dataset mask {ref}" if dry_run and counts else f"tollway dataset show {ref}")


@command(app, "augment")
def augment(
    desk: Desk,
    ref: Ref,
    step: Annotated[list[str], typer.Option("--step", help="synonym:0.1, noise:0.05, flip, shift:2 … Repeatable.")],
    seed: Seed = 7,
) -> None:
    """A new version with changed copies of the train rows (a recipe's data.augment does the same for one run)."""
    from tollway.flows import translating
    from tollway.forge.data import changes

    opener = translating.opener(desk.shop) if any(one.startswith("back-translation") for one in step) else None
    with Progress(f"Augmenting {ref}"):
        made, done = changes.augment(shelf_of(desk), shelf_of(desk).get(ref), step, seed, opener)
    _made(desk, made, [str(one) for one in done])


@command(app, "report")
def report(
    desk: Desk,
    ref: Ref,
    lang: Annotated[str, typer.Option("--lang", help="en or zh.")] = "en",
) -> None:
    """Write the data report (HTML, one file, plots inside) and print its path."""
    from tollway.forge.data import checks, report, statistics

    version = shelf_of(desk).get(ref)
    with Progress(f"Reporting on {version.ref}") as progress:
        findings = checks.check(version, progress=progress.count)
        path = report.write(version, statistics.describe(version), findings, lang)
    desk.answer({"ref": version.ref, "path": str(path), "worst": checks.worst(findings)}, lambda: str(path))
    desk.then(f"python3 -m webbrowser {quoted(str(path))}", "opens it")


@command(app, "export")
def export(
    desk: Desk,
    ref: Ref,
    to: Annotated[Path, typer.Argument(help="A folder; made when it is not there.", metavar="FOLDER")],
    format_: Annotated[str, typer.Option("--format", help="csv, jsonl or parquet; images always become files in folders.")] = "jsonl",
) -> None:
    """Write the rows out, one file a split, with the card."""
    from tollway.forge.data import changes

    version = shelf_of(desk).get(ref)
    with Progress(f"Exporting {version.ref}"):
        files = changes.export(version, to, format_)
    desk.answer({"ref": version.ref, "files": [str(path) for path in files]}, lambda: "\n".join(map(str, files)))
    desk.then(f"tollway dataset import {quoted(str(to))} --name {version.name}", "reads it back")


@command(app, "remove")
def remove(desk: Desk, ref: Ref, yes: Yes = False) -> None:
    """Remove one version, or with a bare name all of them. Runs and packages keep what they were made from."""
    shelf = shelf_of(desk)
    version = shelf.get(ref)
    count = 1 if "@" in ref else len([one for one in shelf.list() if one.name == version.name])
    what = version.ref if "@" in ref else f"all {count} versions of {version.name}" if count > 1 else version.ref
    desk.confirm(f"{what} will be removed for good; runs cannot be repeated on it.", yes)
    removed = shelf.remove(ref)
    desk.answer({"removed": ref, "versions": removed}, lambda: f"Removed {what}.")
    desk.then("tollway dataset list")


# -- what people see -----------------------------------------------------------------------------------------------


def _made(desk: Desk, version: "Version", done: list[str]) -> None:
    for line in done:
        desk.say(line)
    desk.answer(version.plain() | {"done": done}, lambda: _card(version))
    desk.then(f"tollway dataset check {version.ref}")


def _row(version: "Version") -> dict[str, Any]:
    rows = ", ".join(f"{split} {version.rows(split):,}" for split in version.splits)
    made = version.operation + (f" of {version.parent}" if version.parent else "")
    return {"ref": version.ref, "name": version.name, "version": version.version, "rows": version.rows(), "splits": rows,
            "made_by": made, "licence": version.licence, "created": version.about["created"], "digest": version.digest}  # fmt: skip


def _card(version: "Version") -> Any:
    columns = ", ".join(f"{one.name} ({one.kind})" for one in version.columns[:12])
    more = len(version.columns) - 12
    return tables.record({
        "dataset": version.ref, "rows": _row(version)["splits"], "columns": columns + (f" and {more} more" if more > 0 else ""),
        "licence": version.licence, "source": version.source, "made by": _row(version)["made_by"],
        "size": f"{version.bytes / 1e6:,.1f} MB" if version.bytes >= 100_000 else f"{version.bytes / 1e3:,.0f} kB",
        "digest": version.digest, "kept in": str(version.folder),
    })  # fmt: skip


def _first_rows(version: "Version", count: int) -> list[dict[str, Any]]:
    table = version.read(version.splits[0]).slice(0, max(count, 0))
    return [{name: _cell(value) for name, value in row.items()} for row in table.to_pylist()]


def _cell(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"(PNG image, {len(value):,} bytes)"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and len(value) > 300:
        return value[:300] + " …"
    return value if isinstance(value, (int, bool, list)) or value is None else str(value)


def _said(one: dict[str, Any]) -> str:
    """A column's values in one line."""
    if "sizes" in one:
        return ", ".join(list(one["sizes"])[:4]) + "; " + ", ".join(one["colours"])
    if one.get("chars"):
        languages = ", ".join(f"{name} {share:.0%}" for name, share in one["languages"].items() if share >= 0.01)
        return f"{one['chars']['median']:.0f} characters (median), at most {one['chars']['max']:.0f}; {languages}"
    if "top" in one:
        return f"{one['distinct']} values: " + ", ".join(list(one["top"])[:6])
    if "median" in one:
        return f"{one['min']:g} … {one['median']:g} … {one['max']:g}"
    if one.get("tokens"):
        return f"{one['tokens']['median']:.0f} tokens (median)"
    return f"{one['min']} … {one['max']}" if "min" in one else f"{one.get('distinct', 0):,} values"


def _told(row: dict[str, Any]) -> dict[str, Any]:
    example = row["examples"][0].get("text", "")[:60] if row["examples"] else ""
    return row | {"text": row["text"] + (f' For example: "{example}"' if example else "")}


def _pairs(given: list[str], option: str, allowed: tuple[str, ...] = ()) -> dict[str, str]:
    found = {}
    for text in given:
        left, equals, right = text.partition("=")
        if not equals or not left or not right or (allowed and right not in allowed):
            wanted = f"COLUMN=KIND, with one of {', '.join(allowed)}" if allowed else "OLD=NEW"
            raise BadRequest(f"{option} {text!r} is not {wanted}.")
        found[left] = right
    return found
