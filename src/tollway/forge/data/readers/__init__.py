"""Readers: from a file, folder or archive to tables. They run in the limited process only (see `kit/sandbox.py`).

    read_into(source, out, options)     finds the format, reads, writes <out>/<split>.parquet, gives back what it found
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tollway.forge.data.problems import Problems
from tollway.forge.data.readers import archives, arrays, arrow_files, coco, conll, delimited, folders, json_rows
from tollway.forge.data.readers.found import Found, Options, Reading, split_of

FORMATS: Final = ("csv", "tsv", "jsonl", "json", "parquet", "npz", "idx", "folders", "hugging-face", "conll", "coco", "text")
_BY_SUFFIX: Final = {
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet",
    ".pq": "parquet", ".npz": "npz", ".txt": "text", **dict.fromkeys(conll.SUFFIXES, "conll"),
}  # fmt: skip
_REFUSED: Final = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".h5", ".hdf5", ".xlsx", ".xls", ".docx", ".sqlite", ".db"}


def read_into(source: str, out: str, options: Mapping[str, Any], progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Read `source`, write one Parquet file a split below `out`; problems come back as data, never as an exception."""
    import pyarrow.parquet as pq

    path, folder = Path(source), Path(out)
    problems = Problems(path.name)
    scratch = folder / "scratch"
    scratch.mkdir()
    reading = Reading(Options(**options), problems, scratch, progress)
    found = _read(path, reading)
    rows = {}
    for split, table in found.tables.items():
        pq.write_table(table, folder / f"{split}.parquet")
        rows[split] = table.num_rows
    shutil.rmtree(scratch, ignore_errors=True)
    return {"format": found.format, "rows": rows, "kinds": found.kinds, "roles": found.roles, "licence": found.licence,
            "card": found.card, "problems": problems.plain()}  # fmt: skip


def _read(path: Path, reading: Reading, depth: int = 0) -> Found:
    if path.is_dir():
        return _folder(path, reading)
    if path.stat().st_size == 0:
        reading.problems.add("empty", "the file is empty", file=path.name)
        return Found("")
    form = reading.options.format
    if not form and depth == 0 and not arrays.is_idx(path):
        if archives.is_archive(path):
            into = reading.scratch / "unpacked"
            into.mkdir()
            return _read(_top(into), reading, 1) if archives.unpack(path, into, reading) else Found("")
        if archives.is_single(path):
            inner = archives.unpack_single(path, reading.scratch, reading)
            return _read(inner, reading, 1) if inner is not None else Found("")
    if form == "idx" or (not form and arrays.is_idx(path)):
        siblings = [one for one in path.parent.iterdir() if one.is_file() and arrays.is_idx(one)]
        return arrays.read_idx(siblings, reading)
    return _file(path, reading, "")


def _top(folder: Path) -> Path:
    """Below folders that have nothing but one folder in them."""
    while True:
        inside = list(folder.iterdir())
        if len(inside) != 1:
            return folder
        folder = inside[0]
        if folder.is_file() or arrow_files.is_hugging_face(folder):
            return folder


def _file(path: Path, reading: Reading, shown: str) -> Found:
    suffix = path.suffix.lower()
    form = reading.options.format or _BY_SUFFIX.get(suffix, "")
    if not form and suffix in _REFUSED:
        why = "it may run code when opened" if suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib") else "it is not read here"
        reading.problems.add("format", f"a {suffix} file is no data: {why}; export CSV, JSONL or Parquet", file=shown or path.name)
        return Found("")
    if not form and suffix in (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz"):
        reading.problems.add("archive", f"the file is called {suffix}, but is no archive that can be read", file=shown or path.name)
        return Found("")
    if not form and suffix in folders.IMAGES:
        why = "one picture is no dataset; name the folder that has a folder of pictures for each class"
        reading.problems.add("format", why, file=shown or path.name)
        return Found("")
    form = form or _by_content(path)
    if form == "text" and not reading.options.format and conll.looks_like(path):
        form = "conll"
    match form:
        case "csv" | "tsv":
            return delimited.read(path, reading, shown)
        case "jsonl":
            return json_rows.read_lines(path, reading, shown)
        case "json" | "coco":
            annotated = coco.documents([path])
            if annotated:
                return coco.read(annotated, path.parent, reading)
            return json_rows.read_document(path, reading, shown)
        case "parquet":
            return arrow_files.read_parquet(path, reading, shown)
        case "conll":
            return conll.read(path, reading, shown)
        case "npz":
            return arrays.read_npz(path, reading)
        case "text":
            return _lines(path, reading, shown)
    reading.problems.add("format", f"its format is not known; say --format ({', '.join(FORMATS)})", file=shown or path.name)
    return Found("")


def _by_content(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"PAR1"):
        return "parquet"
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if begin.startswith(b"{"):
        return "jsonl"
    if begin.startswith(b"["):
        return "json"
    return "" if b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")) else "csv"


def _lines(path: Path, reading: Reading, shown: str) -> Found:
    """A text file: a row for each paragraph (blank lines part them), for language models."""
    import pyarrow as pa

    from tollway.forge.data.readers import encodings

    encoding = encodings.check(path, reading.options.encoding, reading.problems, shown)
    text = path.read_text(encoding=encoding, errors="replace").replace("\r\n", "\n")
    parts = [part.strip() for part in text.split("\n\n") if part.strip()]
    if len(parts) <= 1:
        parts = [line.strip() for line in text.split("\n") if line.strip()]
    if not parts:
        reading.problems.add("empty", "the file has no text", file=shown or path.name)
        return Found("text")
    return Found("text", {"train": pa.table({"text": parts})}, {"text": "text"}, {"text": "text"})


def _folder(root: Path, reading: Reading) -> Found:
    if arrow_files.is_hugging_face(root):
        return arrow_files.read_hugging_face(root, reading)
    files = sorted(path for path in root.iterdir() if path.is_file() and not path.name.startswith("."))
    links = [path for path in root.iterdir() if path.is_symlink()]
    for path in links:
        reading.problems.add("link", folders.LINK, file=path.name)
    files = [path for path in files if path not in links]
    annotated = coco.documents(coco.files(root))
    if annotated:
        return coco.read(annotated, root, reading)
    if any(arrays.is_idx(path) for path in files):
        return arrays.read_idx([path for path in files if arrays.is_idx(path)], reading)
    tables = [path for path in files if path.suffix.lower() in _BY_SUFFIX and (path.suffix.lower() != ".txt" or conll.looks_like(path))]
    if folders.is_class_folder(root) and not any(split_of(path.name) for path in tables):
        return folders.read(root, reading)
    if tables:
        return _many(tables, root, reading)
    flat = [path for path in files if path.suffix.lower() in folders.TEXTS | folders.IMAGES]
    if flat:
        return folders.read_flat(flat, root, reading)
    inner = [path for path in root.iterdir() if path.is_dir() and path not in links and not path.name.startswith((".", "__MACOSX"))]
    if len(inner) == 1:
        return _folder(inner[0], reading)
    reading.problems.add("empty", "there is no data in the folder that could be read")
    return Found("")


def _many(paths: list[Path], root: Path, reading: Reading) -> Found:
    """Tables side by side: a file says its split by its name; parts of one split are put together."""
    import pyarrow as pa

    named = [path for path in paths if split_of(path.name)]
    chosen = named or paths
    for path in paths:
        if path not in chosen:
            reading.problems.note(f"{path.name} is left out, because it is no split.")
    whole = Found("")
    for path in chosen:
        found = _file(path, reading, str(path.relative_to(root)))
        whole.format = whole.format or found.format
        for inner, table in found.tables.items():
            split = split_of(path.name) or inner
            try:
                whole.tables[split] = (
                    pa.concat_tables([whole.tables[split], table], promote_options="permissive") if split in whole.tables else table
                )
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                reading.problems.add("columns", "files of one split have different columns", file=path.name, shown=str(error)[:160])
        for mine, theirs in ((whole.kinds, found.kinds), (whole.roles, found.roles)):
            for key, value in theirs.items():
                mine.setdefault(key, value)
    return whole
