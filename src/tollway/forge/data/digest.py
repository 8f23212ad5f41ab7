"""The digest of rows: the same rows in the same order under the same schema have the same digest, however they are stored.

Files of one format differ by compressor, chunking and writer version; values do not. So the digest is taken over values:
for every column its kind, which values are missing, lengths, and bytes, in blocks of a fixed number of rows.
`keys(table, columns)` gives a stable 64-bit key of each row instead: what splits, duplicates and joins are made with.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tollway.forge.data.schema import Column

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_BLOCK: Final = 65_536


def digest(tables: Mapping[str, "pa.Table"], columns: Sequence[Column]) -> str:
    """`sha256:…` over the splits in the order of their names."""
    total = hashlib.sha256(json.dumps([[one.name, one.kind] for one in columns]).encode())
    for split in sorted(tables):
        table = tables[split]
        total.update(json.dumps([split, table.num_rows]).encode())
        for name in table.column_names:
            part = hashlib.sha256(name.encode())
            column = table[name]
            for start in range(0, len(column), _BLOCK):
                _feed(part, _whole(column.slice(start, _BLOCK)))
            total.update(part.digest())
    return "sha256:" + total.hexdigest()


def keys(table: "pa.Table", columns: Sequence[str] | None = None, salt: str = "") -> "np.ndarray[Any, Any]":
    """A 64-bit key of each row's values in `columns` (all by default): equal values, equal keys, on every machine."""
    import numpy as np
    import pyarrow as pa

    names = list(table.column_names if columns is None else columns)
    start = hashlib.blake2b(salt.encode(), digest_size=8).digest()
    found = np.full(table.num_rows, int.from_bytes(start, "little"), dtype=np.uint64)
    for name in names:
        column = table[name]
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())  # as moments, not as a hundred thousand date objects
        found = _mixed(found, _hashed(column))
    return found


def _hashed(column: "pa.ChunkedArray") -> "np.ndarray[Any, Any]":
    """The hash of every value; of values that come again it is taken once."""
    import numpy as np
    import pyarrow as pa

    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return np.fromiter((_hash(value) for value in column.to_pylist()), np.uint64, len(column))
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    values = encoded.dictionary.to_pylist()
    hashed = np.fromiter((_hash(value) for value in values), np.uint64, len(values))
    return np.asarray(hashed[np.asarray(encoded.indices)])


def _hash(value: Any) -> int:
    if isinstance(value, str):
        raw = b"s" + value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes):
        raw = b"b" + value
    else:
        raw = b"j" + repr(value).encode()
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def _mixed(left: "np.ndarray[Any, Any]", right: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """splitmix64's finalizer over the two: order matters, every bit counts."""
    import numpy as np

    with np.errstate(over="ignore"):
        mixed = left * np.uint64(0x9E3779B97F4A7C15) + right
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def _whole(column: "pa.ChunkedArray") -> "pa.Array":
    import pyarrow as pa

    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def _feed(into: Any, array: "pa.Array") -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    into.update(np.asarray(array.is_valid().to_numpy(zero_copy_only=False), np.uint8).tobytes())
    if pa.types.is_list(kind):
        into.update(np.asarray(pc.fill_null(pc.list_value_length(array), 0), np.int64).tobytes())
        _feed(into, array.flatten())
    elif pa.types.is_struct(kind):
        for place in range(kind.num_fields):
            into.update(kind.field(place).name.encode())
            _feed(into, pc.struct_field(array, place))
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        filled = pc.fill_null(array, "" if pa.types.is_string(kind) else b"").cast(pa.large_binary())
        into.update(np.asarray(pc.binary_length(filled), np.int64).tobytes())
        offsets = np.frombuffer(filled.buffers()[1], np.int64)[filled.offset : filled.offset + len(filled) + 1]
        if len(offsets) and offsets[-1] > offsets[0]:
            into.update(memoryview(filled.buffers()[2])[int(offsets[0]) : int(offsets[-1])])
    elif pa.types.is_boolean(kind):
        into.update(np.asarray(pc.fill_null(array, False), np.uint8).tobytes())
    elif pa.types.is_floating(kind):
        values = np.asarray(pc.fill_null(array, 0.0), np.float64)
        into.update(np.where(np.isnan(values), np.nan, values + 0.0).astype("<f8").tobytes())  # one NaN, one zero
    else:
        into.update(np.asarray(pc.fill_null(array.cast(pa.int64()), 0), "<i8").tobytes())
