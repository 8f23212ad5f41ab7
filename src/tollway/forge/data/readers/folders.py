"""Folders of files: one sub-folder a class with texts or images in it, with or without a level of splits above.

    root/<class>/*.txt     root/<class>/*.png     root/{train,test}/<class>/…     aclImdb's {train,test}/{pos,neg}/7_10.txt
"""

import re
from pathlib import Path
from typing import Any, Final

from tollway.forge.data.images import normal
from tollway.forge.data.readers import encodings
from tollway.forge.data.readers.found import Found, Reading, split_of

TEXTS: Final = frozenset({".txt", ".text", ".md"})
IMAGES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_RATED: Final = re.compile(r"\d+_(\d{1,2})\.txt")
_UNLABELLED: Final = ("unsup", "unlabelled", "unlabeled")
_FILE_MAX: Final = 64 << 20
LINK: Final = "a link is not followed: copy the file instead"


def is_class_folder(root: Path) -> bool:
    """Whether texts or images lie one level down (or two, below a level of splits)."""
    return any(_kind_of(path) for pattern in ("*/*", "*/*/*") for path in _some(root, pattern))


def _some(root: Path, pattern: str, most: int = 2000) -> list[Path]:
    found = []
    for path in root.glob(pattern):
        found.append(path)
        if len(found) >= most:
            break
    return found


def _kind_of(path: Path) -> str:
    suffix = path.suffix.lower()
    return "text" if suffix in TEXTS else "image" if suffix in IMAGES else ""


def read(root: Path, reading: Reading) -> Found:
    """Every file of every class, as a row."""
    import pyarrow as pa

    splits = {path.name: path for path in _folders(root) if split_of(path.name) and _folders(path)}
    parts = [(split_of(name), path) for name, path in sorted(splits.items())] or [("train", root)]
    left_out = [path.name for path in _folders(root) if splits and path.name not in splits]
    if left_out:
        reading.problems.note(f"Left out, because it is no split: {', '.join(left_out[:10])}.")
    found = Found("folders", kinds={"label": "category", "file": "text"})
    rows: dict[str, list[dict[str, Any]]] = {}
    for split, folder in parts:
        rows.setdefault(split, []).extend(_classes(folder, root, reading))
    kind = {row["kind"] for part in rows.values() for row in part}
    if len(kind) > 1:
        reading.problems.add("folders", "there are texts and images; a dataset has one of them")
        return found
    if not kind:
        if not reading.problems.kinds:
            reading.problems.add("empty", "there is neither a text nor an image in it")
        return found
    what = kind.pop()
    for split, part in rows.items():
        if not part:
            reading.problems.add("empty", f"the split {split} has no files")
            continue
        columns: dict[str, Any] = {what: pa.array([row["value"] for row in part], pa.binary() if what == "image" else pa.string())}
        columns["label"] = pa.array([row["label"] for row in part], pa.string())
        if all(row["score"] is not None for row in part):
            columns["score"] = pa.array([row["score"] for row in part], pa.int64())
        columns["file"] = [row["file"] for row in part]
        found.tables[split] = pa.table(columns)
    found.kinds[what] = what
    found.roles = {what: what, "label": "label"}
    return found


def _folders(root: Path) -> list[Path]:
    """Folders in a folder; a link to one is none: what is outside is not part of what was given."""
    inner = (path for path in root.iterdir() if path.is_dir() and not path.is_symlink())
    return sorted(path for path in inner if not path.name.startswith((".", "__MACOSX")))


def _classes(folder: Path, root: Path, reading: Reading) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    classes = [path for path in _folders(folder) if path.name not in _UNLABELLED]
    if len(classes) < len(_folders(folder)):
        reading.problems.note("Texts without a label (unsup) are left out.")
    if folder != root:  # the links of the root are told where it is looked at
        for link in (path for path in folder.iterdir() if path.is_symlink()):
            reading.problems.add("link", LINK, file=str(link.relative_to(root)))
    files = [(one, path) for one in classes for path in sorted(one.rglob("*")) if not path.name.startswith(".")]
    filled = set()
    for done, (one, path) in enumerate(files):
        if done % 500 == 0:
            reading.progress(done, len(files))
        shown = str(path.relative_to(root))
        if path.is_symlink():
            reading.problems.add("link", LINK, file=shown)
        elif path.is_file():
            row = _row(path, shown, reading)
            if row is not None:
                filled.add(one.name)
                rows.append({**row, "label": one.name, "file": shown})
    for one in classes:
        if one.name not in filled:
            reading.problems.add("empty_class", "a class has no file", shown=str(one.relative_to(root)), doubt=True)
    return rows


def _row(path: Path, shown: str, reading: Reading) -> dict[str, Any] | None:
    kind, problems = _kind_of(path), reading.problems
    if not kind:
        problems.note(f"Files that are neither text nor image are left out, such as {shown}.") if not any(
            note.startswith("Files that are neither") for note in problems.notes
        ) else None
        return None
    if path.stat().st_size > _FILE_MAX:
        problems.add("field", f"a file has more than {_FILE_MAX:,} bytes", file=shown)
        return None
    if kind == "image":
        try:
            return {"kind": kind, "value": normal(path.read_bytes()), "score": None}
        except ValueError as error:
            problems.add("image", "an image cannot be read", file=shown, shown=str(error))
            return None
    encoding = encodings.check(path, reading.options.encoding, problems, shown)
    text = path.read_text(encoding=encoding, errors="replace").strip()
    if not text:
        problems.add("empty_text", "a text is empty", file=shown, doubt=True)
        return None
    rated = _RATED.fullmatch(path.name)
    return {"kind": kind, "value": text, "score": int(rated.group(1)) if rated else None}


def read_flat(paths: list[Path], root: Path, reading: Reading) -> Found:
    """Texts or images without classes: a row for each."""
    import pyarrow as pa

    rows = [(path, _row(path, str(path.relative_to(root)), reading)) for path in paths]
    good = [(path, row) for path, row in rows if row is not None]
    kinds = {row["kind"] for _, row in good}
    if len(kinds) != 1:
        if kinds:
            reading.problems.add("folders", "there are texts and images; a dataset has one of them")
        return Found("folders")
    what = kinds.pop()
    kind = pa.binary() if what == "image" else pa.string()
    columns = {what: pa.array([row["value"] for _, row in good], kind), "file": [path.name for path, _ in good]}
    return Found("folders", {"train": pa.table(columns)}, {what: what, "file": "text"}, {what: what})
