"""Changes of a dataset: each takes a version and puts a new one on the shelf, with its parent and what was done to it.

`split`, `clean`, `mask`, `augment` for `tollway dataset …`; a recipe does the same for one run without keeping a version.
`export` writes the rows out again.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tollway.forge.data import augment as augmenting
from tollway.forge.data import clean as cleaning
from tollway.forge.data import mask as masks
from tollway.forge.data import split as splitting
from tollway.forge.data.shelf import CARD, Shelf, Version, card_of_next
from tollway.guard import masking
from tollway.kit.errors import BadRequest

if TYPE_CHECKING:
    import pyarrow as pa

EXPORTS: Final = ("csv", "jsonl", "parquet")
_ORDER: Final = ("test", "validation", "train")


def split(shelf: Shelf, version: Version, *, validation: float, test: float, by: str, seed: int) -> Version:
    """A version with new splits."""
    import pyarrow as pa

    roles = _roles(version)
    whole = pa.concat_tables(version.tables().values())
    parts = splitting.split(
        whole, validation=validation, test=test, by=by, label=roles.label, content=list(roles.content) or None, seed=seed
    )
    how = f"split by {by}, validation {validation:g}, test {test:g}, seed {seed}"
    return _keep(shelf, version, parts, how)


def clean(shelf: Shelf, version: Version, steps: Sequence[str]) -> tuple[Version, list[cleaning.Done]]:
    """A version after the steps; over all splits at once, so that what leaks into train goes from train."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cleaning.check(steps)
    found = version.tables()
    order = [name for name in _ORDER if name in found]
    whole = pa.concat_tables([found[name].append_column("__split", pa.array([name] * found[name].num_rows)) for name in order])
    whole, done = cleaning.clean(whole, steps, _roles(version))
    parts: dict[str, pa.Table] = {name: whole.filter(pc.equal(whole["__split"], name)).drop_columns(["__split"]) for name in order}
    return _keep(shelf, version, parts, "clean " + ", ".join(steps)), done


def mask(
    shelf: Shelf, version: Version, columns: Sequence[str], kinds: Sequence[str], style: str, *, dry_run: bool = False
) -> tuple[Version | None, masks.Report]:
    """A version with personal data covered; None when nothing was found, or only asked for."""
    wrong = [kind for kind in kinds if kind not in masking.KINDS]
    if wrong or style not in ("kind", "partial", "number"):
        what = f"{', '.join(map(repr, wrong))} is no kind of personal data" if wrong else f"{style!r} is no style"
        raise BadRequest(f"{what}.", hint=f"Kinds: {', '.join(masking.KINDS)}. Styles: kind, partial, number.")
    masker = masking.Masker(kinds or masking.KINDS, style)
    report = masks.Report()
    parts = {}
    for name in columns:
        if version.column(name).kind not in ("text", "category"):
            raise BadRequest(f"{name!r} is of kind {version.column(name).kind}: only texts are masked.")
    for name, table in version.tables().items():
        chosen = list(columns) or masks.columns_to_mask(table, _roles(version).label)
        parts[name], _ = masks.mask_table(table, chosen, masker, report)
    if dry_run or not report.counts:
        return None, report
    counts = ", ".join(f"{count} {kind}" for kind, count in report.counts.most_common())
    return _keep(shelf, version, parts, f"mask ({style}): {counts}"), report


def augment(
    shelf: Shelf, version: Version, steps: Sequence[str], seed: int, opener: augmenting.Opener | None = None
) -> tuple[Version, list[augmenting.Added]]:
    """A version with copies among its train rows."""
    roles = version.about.get("roles", {})
    kinds = {one.kind for one in version.columns}
    task = str(version.about.get("task") or ("image-classification" if "image" in kinds else "text-classification"
               if roles.get("text") or any(one.name == "text" for one in version.columns) else "tabular-classification"))  # fmt: skip
    names = {roles.get(role, role): role for role in ("text", "image", "label") if version_has(version, roles.get(role, role))}
    parts = version.tables()
    train = parts["train"].rename_columns([names.get(name, name) for name in parts["train"].column_names])
    made, done = augmenting.augment(train, steps, task, seed, opener)
    parts["train"] = made.rename_columns(parts["train"].column_names)
    return _keep(shelf, version, parts, f"augment {', '.join(steps)}, seed {seed}"), done


def version_has(version: Version, column: str) -> bool:
    """Whether a version has a column of this name."""
    return any(one.name == column for one in version.columns)


def _roles(version: Version) -> cleaning.Roles:
    noted: Mapping[str, str] = version.about.get("roles", {})
    kinds = {one.name: one.kind for one in version.columns}
    label = noted.get("label", "label")
    label = label if label in kinds else ""
    texts = [name for name, kind in kinds.items() if kind == "text" and name not in (label, "file")]
    main = [noted[one] for one in ("text", "image", "context", "question", "source", "prompt") if noted.get(one) in kinds]
    content = main or [name for name, kind in kinds.items() if kind in ("text", "image") and name not in (label, "file")]
    content = content or [name for name in kinds if name != label]
    return cleaning.Roles(tuple(texts), tuple(content), label or None)


def _keep(shelf: Shelf, version: Version, parts: "Mapping[str, pa.Table]", operation: str) -> Version:
    about = version.about
    extra = {key: about[key] for key in ("roles", "task", "format") if key in about}
    card = (version.folder / CARD).read_text(encoding="utf-8") if (version.folder / CARD).is_file() else ""
    return shelf.add(
        version.name, parts, kinds={one.name: one.kind for one in version.columns}, licence=version.licence,
        source=version.source, parent=version.ref, operation=operation, extra=extra,
        card=lambda made: card_of_next(card, about, made),
    )  # fmt: skip


def export(version: Version, to: Path, form: str) -> list[Path]:
    """One file a split in `to`, and the card; images become files in `<split>/<label>/`."""
    if form not in EXPORTS:
        raise BadRequest(f"{form!r} is no format to export to.", hint=f"Formats: {', '.join(EXPORTS)}.")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise BadRequest(f"{to} is there already and not an empty folder.", hint="Name another folder.")
    to.mkdir(parents=True, exist_ok=True)
    files = []
    image = next((one.name for one in version.columns if one.kind == "image"), "")
    for name, table in version.tables().items():
        if image:
            files += _images(table, image, version.about.get("roles", {}).get("label", "label"), to / name)
        else:
            files.append(_table(table, to / f"{name}.{form}", form))
    if (version.folder / CARD).is_file():
        (to / "README.md").write_bytes((version.folder / CARD).read_bytes())
    return files


def _table(table: "pa.Table", path: Path, form: str) -> Path:
    import csv

    import pyarrow.parquet as pq

    if form == "parquet":
        pq.write_table(table, path)
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if form == "csv":
            writer.writerow(table.column_names)
        for batch in table.to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                if form == "csv":
                    writer.writerow([json.dumps(one, ensure_ascii=False) if isinstance(one, list) else one for one in row.values()])
                else:
                    file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    return path


def _images(table: "pa.Table", image: str, label: str, folder: Path) -> list[Path]:
    labels: list[Any] = table[label].to_pylist() if label in table.column_names else ["images"] * table.num_rows
    for row, (data, name) in enumerate(zip(table[image].to_pylist(), labels, strict=True), 1):
        if data is not None:
            place = folder / (re.sub(r"[^\w .+-]", "_", str(name)).strip(". ") or "none")
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{row:06d}.png").write_bytes(data)
    return [folder]
