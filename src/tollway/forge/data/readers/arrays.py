"""Arrays on disk: IDX (MNIST's format, also gzipped) and `.npz` without pickle (MedMNIST's and Keras' layouts)."""

import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tollway.forge.data.images import png
from tollway.forge.data.readers.found import Found, Reading, split_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, Any]

_IDX_TYPES: Final = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_BYTES_MAX: Final = 4 << 30


def is_idx(path: Path) -> bool:
    """By its name, as everyone names them."""
    name = path.name.lower().removesuffix(".gz")
    return "ubyte" in name or name.endswith(".idx") or ".idx" in name or "-idx" in name


def read_idx(paths: list[Path], reading: Reading) -> Found:
    """Images and labels that belong together by name: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-…"""
    found = Found("idx", roles={"image": "image", "label": "label"})
    arrays = {path: _idx(path, reading) for path in sorted(paths)}
    pictures = {path: array for path, array in arrays.items() if array is not None and array.ndim >= 3}
    labels = {path: array for path, array in arrays.items() if array is not None and array.ndim == 1}
    for path, array in pictures.items():
        split = split_of(path.name) or "train"
        fits = [one for one in labels if (split_of(one.name) or "train") == split]
        if len(fits) != 1:
            reading.problems.add("idx", "images without exactly one file of labels beside them", file=path.name)
            continue
        classes = labels[fits[0]]
        if len(classes) != len(array):
            shown = f"{len(array):,} images, {len(classes):,} labels in {fits[0].name}"
            reading.problems.add("idx", "images and labels are not as many", file=path.name, shown=shown)
            continue
        found.tables[split] = _pictures(array, [str(one) for one in classes.tolist()], reading)
    if not pictures:
        reading.problems.add("idx", "there is no file of images (three dimensions) among the IDX files")
    found.kinds["label"] = "category"
    return found


def _idx(path: Path, reading: Reading) -> "Array | None":
    import numpy as np

    try:
        raw = _read(path, reading.options.unpacked_bytes_max)
        zero, kind, dimensions = struct.unpack(">HBB", raw[:4])
        if zero or kind not in _IDX_TYPES or not 1 <= dimensions <= 4:
            raise ValueError("it does not begin like an IDX file")
        shape = struct.unpack(f">{dimensions}I", raw[4 : 4 + 4 * dimensions])
        wanted = math.prod(shape) * np.dtype(_IDX_TYPES[kind]).itemsize
        if len(raw) - 4 - 4 * dimensions != wanted:
            raise ValueError(f"its header promises {wanted:,} bytes, it has {len(raw) - 4 - 4 * dimensions:,}")
    except (ValueError, struct.error, OSError, EOFError, zlib.error) as error:
        reading.problems.add("idx", "an IDX file cannot be read", file=path.name, shown=str(error))
        return None
    return np.frombuffer(raw, _IDX_TYPES[kind], offset=4 + 4 * dimensions).reshape(shape)


def _read(path: Path, most: int) -> bytes:
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    most = min(most, _BYTES_MAX)
    with gzip.open(path) as file:
        raw = file.read(most + 1)
    if len(raw) > most:
        raise ValueError(f"it unpacks to more than {most:,} bytes")
    return raw


def read_npz(path: Path, reading: Reading) -> Found:
    """Arrays by name: train_images/train_labels (MedMNIST), x_train/y_train (Keras), X/y; never a pickled object."""
    found = Found("npz")
    arrays = _arrays(path, reading)
    groups: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        split = split_of(name) or "train"
        what = "label" if any(one in name.lower() for one in ("label", "target")) or name.lower().split("_")[0] == "y" else "data"
        if what in groups.setdefault(split, {}):
            reading.problems.add("npz", f"two arrays are {split} {what}", file=path.name, shown=name)
        groups[split][what] = array
    for split, group in groups.items():
        data = group.get("data")
        if data is None:
            reading.problems.add("npz", f"there are labels for {split}, but no data", file=path.name)
            continue
        labels = group.get("label")
        if labels is not None and len(labels) != len(data):
            shown = f"{len(data):,} rows, {len(labels):,} labels"
            reading.problems.add("npz", "data and labels are not as many", file=path.name, shown=f"{split}: {shown}")
            continue
        flat = None if labels is None else labels.reshape(len(labels), -1)
        if flat is not None and flat.shape[1] > 1:
            reading.problems.add("npz", "labels have more than one value a row", file=path.name, shown=split)
            continue
        names = None if flat is None else [str(one) for one in flat[:, 0].tolist()]
        table = _table(data, names, reading, path.name)
        if table is not None:
            found.tables[split] = table
    if any("image" in table.column_names for table in found.tables.values()):
        found.roles = {"image": "image", "label": "label"}
    found.kinds["label"] = "category"
    return found


def _arrays(path: Path, reading: Reading) -> "dict[str, Array]":
    import numpy as np

    found: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
            if total > min(reading.options.unpacked_bytes_max, _BYTES_MAX):
                reading.problems.add("bomb", f"the arrays unpack to {total:,} bytes, more than allowed", file=path.name)
                return {}
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                try:
                    array = arrays[name]
                except ValueError as error:
                    shown = "it holds Python objects (a pickle): these are never opened" if "pickle" in str(error) else str(error)
                    reading.problems.add("npz", "an array cannot be read", file=path.name, shown=f"{name}: {shown}")
                    continue
                if array.ndim == 0 or array.dtype.kind not in "biufUS":
                    reading.problems.add("npz", "an array is neither numbers nor strings", file=path.name, shown=name)
                else:
                    found[name] = array
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        shown = "it is a pickle: these are never opened" if "pickle" in str(error) else str(error)
        reading.problems.add("npz", "the file is no .npz archive", file=path.name, shown=shown)
    return found


def _table(data: "Array", labels: list[str] | None, reading: Reading, file: str) -> "pa.Table | None":
    import pyarrow as pa

    if data.ndim >= 3:
        if data.ndim == 4 and data.shape[1] in (1, 3) and data.shape[3] not in (1, 3):
            data = data.transpose(0, 2, 3, 1)  # channels first, as torch has them
        if data.ndim > 4 or (data.ndim == 4 and data.shape[3] not in (1, 3)):
            reading.problems.add("npz", "the images have neither one nor three channels", file=file, shown=str(data.shape))
            return None
        return _pictures(data, labels, reading)
    columns: dict[str, Any] = {"text": [str(one) for one in data]} if data.ndim == 1 and data.dtype.kind in "US" else {}
    if not columns:
        wide = data.reshape(len(data), -1)
        if wide.shape[1] > 10_000:
            reading.problems.add("npz", "more than 10,000 columns", file=file, shown=str(data.shape))
            return None
        columns = {f"f{place + 1}": wide[:, place] for place in range(wide.shape[1])}
    if labels is not None:
        columns["label"] = labels
    return pa.table(columns)


def _pictures(pixels: "Array", labels: list[str] | None, reading: Reading) -> "pa.Table":
    import numpy as np
    import pyarrow as pa

    if pixels.dtype.kind == "f":
        top = float(np.nanmax(pixels)) if pixels.size else 1.0
        scale = 255.0 if top <= 1.0 else 1.0
        pixels = np.nan_to_num(pixels * scale).clip(0, 255).round()
        reading.problems.note(f"Images of floats are kept as 8 bits a channel (times {scale:g}).")
    pixels = np.ascontiguousarray(pixels.clip(0, 255), np.uint8)
    if pixels.ndim == 4 and pixels.shape[3] == 1:
        pixels = pixels[..., 0]
    encoded = []
    for done, one in enumerate(pixels):
        encoded.append(png(one))
        if done % 2000 == 0:
            reading.progress(done, len(pixels))
    columns: dict[str, Any] = {"image": pa.array(encoded, pa.binary())}
    if labels is not None:
        columns["label"] = labels
    return pa.table(columns)
