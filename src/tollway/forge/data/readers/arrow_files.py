"""Parquet and Arrow files, and Hugging Face datasets as `save_to_disk` leaves them (without the datasets library)."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tollway.forge.data.images import normal
from tollway.forge.data.readers.found import Found, Reading, split_of

if TYPE_CHECKING:
    import pyarrow as pa

_STATE: Final = ("state.json", "dataset_info.json")


def is_hugging_face(folder: Path) -> bool:
    """A dataset or a dictionary of datasets, as `save_to_disk` writes them."""
    return (folder / "dataset_dict.json").is_file() or all((folder / name).is_file() for name in _STATE)


def read_parquet(path: Path, reading: Reading, file: str = "") -> Found:
    """One Parquet file; features that the datasets library noted in it are understood."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
        table.validate(full=True)  # texts that are not UTF-8 and offsets that point elsewhere, before anything uses them
    except MemoryError:
        raise  # Arrow's own is also an ArrowException; it is told as what it is
    except (pa.ArrowException, OSError, ValueError) as error:
        reading.problems.add("parquet", "the Parquet file cannot be read", file=file or path.name, shown=str(error)[:200])
        return Found("parquet")
    features: dict[str, Any] = {}
    noted = (table.schema.metadata or {}).get(b"huggingface")
    if noted:
        try:
            features = json.loads(noted).get("info", {}).get("features", {})
        except ValueError:
            reading.problems.note(f"{file or path.name}: what the datasets library noted in it cannot be read.")
    return _found("parquet", {"train": table}, features, reading, file or path.name)


def read_hugging_face(folder: Path, reading: Reading) -> Found:
    """All splits of a dataset on disk."""
    parts = [folder]
    if (folder / "dataset_dict.json").is_file():
        try:
            names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            reading.problems.add("hf", "dataset_dict.json cannot be read", shown=str(error)[:120])
            return Found("hugging-face")
        parts = [folder / name for name in names if isinstance(name, str) and Path(name).name == name]
    tables: dict[str, pa.Table] = {}
    features: dict[str, Any] = {}
    licence = card = ""
    for part in parts:
        split = split_of(part.name) or "train"
        if split in tables:
            reading.problems.note(f"The split {part.name!r} is left out: {split} is there already.")
            continue
        table, info = _arrow_folder(part, reading)
        if table is not None:
            tables[split] = table
        features = features or info.get("features", {})
        licence, card = licence or str(info.get("license") or ""), card or str(info.get("description") or "")
    found = _found("hugging-face", tables, features, reading, folder.name)
    found.licence, found.card = licence, card
    return found


def _arrow_folder(folder: Path, reading: Reading) -> "tuple[pa.Table | None, dict[str, Any]]":
    import pyarrow as pa

    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        files = [one["filename"] for one in state["_data_files"]]
        if any(Path(name).name != name for name in files):
            raise ValueError("a data file lies outside the folder")
        tables = []
        for name in files:
            with pa.memory_map(str(folder / name)) as source:
                tables.append(pa.ipc.open_stream(source).read_all())
        if not tables:
            raise ValueError("there are no data files")
        if state.get("_indices_files"):
            reading.problems.note(f"{folder.name}: a selection of rows (indices) is not applied; all rows are read.")
        for table in tables:
            table.validate(full=True)
        return pa.concat_tables(tables), info
    except MemoryError:
        raise  # Arrow's own is also an ArrowException; it is told as what it is
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        reading.problems.add("hf", "a dataset folder cannot be read", file=folder.name, shown=str(error)[:160])
        return None, {}


def _found(form: str, tables: "dict[str, pa.Table]", features: dict[str, Any], reading: Reading, file: str) -> Found:
    found = Found(form, kinds=dict(reading.options.kinds))
    for split, table in tables.items():
        found.tables[split] = _understood(table, features, found.kinds, reading, file)
    names = {name for table in found.tables.values() for name in table.column_names}
    for kind, name in (("category", reading.options.label), ("text", reading.options.text)):
        if name in names:
            found.kinds.setdefault(name, kind)
        elif name and names:
            reading.problems.add("column", f"there is no column {name!r}; there are: {', '.join(sorted(names)[:50])}", file=file)
    return found


def _understood(
    table: "pa.Table", features: dict[str, Any], kinds: dict[str, str], reading: Reading, file: str
) -> "pa.Table":
    """Class numbers become names, image structs PNG, translations a column each, nested structs with lists JSON."""
    import pyarrow as pa

    arrays: list[Any] = []
    names: list[str] = []
    for name in table.column_names:
        column, feature = table[name], features.get(name)
        inner = feature.get("feature") if isinstance(feature, dict) else None
        if isinstance(feature, list) and feature:
            inner = feature[0]
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            column = _named(column, feature.get("names") or [])
            kinds.setdefault(name, "category")
        elif isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
            labels = inner.get("names") or []
            values = [None if one is None else [_name(tag, labels) for tag in one] for one in column.to_pylist()]
            column = pa.chunked_array([pa.array(values, pa.list_(pa.string()))])
        elif isinstance(feature, dict) and feature.get("_type") == "Translation" and pa.types.is_struct(column.type):
            combined = column.combine_chunks()
            for place in range(column.type.num_fields):
                arrays.append(combined.field(place))
                names.append(column.type.field(place).name)
            continue
        elif _is_picture(column.type, feature):
            column = _pictures(column, reading, file)
            kinds[name] = "image"
        arrays.append(column)
        names.append(name)
    return pa.table(arrays, names=names)


def _is_picture(kind: "pa.DataType", feature: Any) -> bool:
    import pyarrow as pa

    if isinstance(feature, dict) and feature.get("_type") == "Image":
        return True
    if pa.types.is_struct(kind):
        return {kind.field(place).name for place in range(kind.num_fields)} == {"bytes", "path"}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _pictures(column: "pa.ChunkedArray", reading: Reading, file: str) -> "pa.ChunkedArray":
    import pyarrow as pa

    encoded: list[bytes | None] = []
    for row, value in enumerate(column.to_pylist(), 1):
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None and isinstance(value, dict):
            reading.problems.add("image", "an image is only a path to a file elsewhere", file=file, shown=f"row {row}")
        try:
            encoded.append(None if data is None else normal(data))
        except ValueError as error:
            reading.problems.add("image", "an image cannot be read", file=file, shown=f"row {row}: {error}")
            encoded.append(None)
        if row % 500 == 0:
            reading.progress(row, len(column))
    return pa.chunked_array([pa.array(encoded, pa.binary())])


def _name(value: Any, names: list[str]) -> str | None:
    if value is None:
        return None
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else str(value)


def _named(column: "pa.ChunkedArray", names: list[str]) -> "pa.ChunkedArray":
    import pyarrow as pa

    # -1 is what the datasets library writes for "no label" (the hidden labels of a test split)
    values = [None if one == -1 else _name(one, names) for one in column.to_pylist()]
    return pa.chunked_array([pa.array(values, pa.string())])
