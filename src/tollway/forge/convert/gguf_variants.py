"""A GGUF file in another precision: every key as it is, matrices decoded and stored anew. For trying out what serves best.

    gguf_variants.write(package.weights_path, Path("weights.q8_0.gguf"), "q8_0")

Works in a limited process and for every architecture: nothing but the numbers' type changes. What was lost when the file
was first rounded stays lost; "f16" is therefore the float reference of a file that never had a better one.
"""

from pathlib import Path
from typing import Any, Final

from tollway.forge.convert import gguf_decoder
from tollway.kit import sandbox
from tollway.kit.errors import BadRequest

_GIB: Final = 1 << 30


def write(source: Path, out: Path, precision: str) -> Path:
    """Write `out`. Raises BadRequest when the file cannot be read or the precision is not known."""
    if precision not in gguf_decoder.PRECISIONS:
        raise BadRequest(f"{precision!r} is none of {', '.join(gguf_decoder.PRECISIONS)}.", code="invalid_value")
    limits = sandbox.ResourceLimits(memory_bytes=6 * _GIB + 8 * source.stat().st_size)
    orders = {"source": str(source.absolute()), "out": str(out.absolute()), "precision": precision}
    sandbox.call(f"{__name__}:written", orders, writable=out.absolute().parent, limits=limits)
    return out


def written(source: str, out: str, precision: str) -> dict[str, Any]:
    """The whole of it, in this process."""
    import gguf
    import numpy
    from gguf.quants import dequantize

    reader = gguf.GGUFReader(source)
    told = {name: field.contents() for name, field in reader.fields.items()}
    writer = gguf.GGUFWriter(out, str(told["general.architecture"]))
    file_type, kind, shared = gguf_decoder.PRECISIONS[precision]
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(name, told[name], field.types[0], inner)
    writer.add_file_type(getattr(gguf.LlamaFileType, file_type))
    for tensor in reader.tensors:
        array = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        array = array.reshape([int(extent) for extent in reversed(tensor.shape)])
        wanted = "F32" if array.ndim == 1 else shared if tensor.name in ("token_embd.weight", "output.weight") else kind
        data, raw = gguf_decoder.encode(array, gguf_decoder.fitting(wanted, array.shape[-1]))
        writer.add_tensor(tensor.name, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {"bytes": Path(out).stat().st_size}
