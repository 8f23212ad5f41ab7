"""A Llama-style decoder (config.json, safetensors, tokenizer.json) as GGUF, for llama.cpp. Written with the `gguf` package.

    gguf_decoder.write(folder, Path("model.gguf"), "q8_0")

Queries and keys are re-ordered, since llama.cpp rotates neighbouring numbers and Hugging Face halves; vectors stay float32.
`q4_k_m` is made by the engine's own quantiser, which its wheel exports; the others by the `gguf` package.
"""

import ctypes
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from tollway.forge.convert import gguf_tokenizer
from tollway.forge.convert.gguf_tokenizer import refusal

# name -> (type of the file, type of the matrices, type of the embedding when it is also the head)
PRECISIONS: Final[dict[str, tuple[str, str, str]]] = {
    "f32": ("ALL_F32", "F32", "F32"),
    "f16": ("MOSTLY_F16", "F16", "F16"),
    "bf16": ("MOSTLY_BF16", "BF16", "BF16"),
    "q8_0": ("MOSTLY_Q8_0", "Q8_0", "Q8_0"),
    "q5_1": ("MOSTLY_Q5_1", "Q5_1", "Q8_0"),
    "q4_1": ("MOSTLY_Q4_1", "Q4_1", "Q8_0"),
    "q4_0": ("MOSTLY_Q4_0", "Q4_0", "Q8_0"),
    "q4_k_m": ("MOSTLY_Q4_K_M", "Q4_K", "Q6_K"),
}
_BLOCK: Final = {"Q8_0": 32, "Q5_1": 32, "Q5_0": 32, "Q4_1": 32, "Q4_0": 32, "Q4_K": 256, "Q6_K": 256}
_SMALLER: Final = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}  # where rows are no multiple of 256; as llama.cpp does it


@dataclass(frozen=True)
class Written:
    """What was written."""

    path: Path
    parameters: int
    bytes: int


def write(
    folder: Path, path: Path, precision: str = "f16", *, net: Any = None, name: str = "", licence: str = ""
) -> Written:
    """Convert the folder (its tokenizer with the weights of `net`, where one is given: a merged LoRA, say).

    Raises BadRequest when it holds something else; then nothing is left at `path`.
    """
    from tollway.forge.models import lm_decoder

    if precision not in PRECISIONS:
        raise refusal(f"{precision!r} is none of {', '.join(PRECISIONS)}")
    shape = net.shape if net is not None else lm_decoder.read_shape(folder)
    weights = net.state_dict() if net is not None else lm_decoder.read_tensors(folder)
    tensors = {key: one.detach().float().numpy() for key, one in weights.items()}
    vocabulary = gguf_tokenizer.read(folder, shape.vocabulary)
    aside = path.with_name(f".{path.name}.part")
    try:
        parameters = _write(aside, shape, tensors, vocabulary, precision, name or folder.name, licence)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return Written(path, parameters, path.stat().st_size)


def _write(
    path: Path, shape: Any, tensors: dict[str, Any], vocabulary: Any, precision: str, name: str, licence: str
) -> int:
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    if licence:
        writer.add_license(licence)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(getattr(gguf.LlamaFileType, PRECISIONS[precision][0]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    gguf_tokenizer.add(writer, vocabulary)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, shape.layers)
    for key in sorted(tensors):
        target = names.get_name(key, try_suffixes=(".weight",))
        if target is None:
            raise refusal(f"the tensor {key} has no place in this architecture")
        array = reordered(tensors[key], key, shape)
        kind = _kind_of(target, array, precision, shape)
        data, raw = encode(array, kind)
        writer.add_tensor(target, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sum(int(array.size) for array in tensors.values())


def reordered(array: Any, key: str, shape: Any) -> Any:
    """Rows of queries and keys in the order of llama.cpp's rotary positions; everything else as it is."""
    if "q_proj" in key or "k_proj" in key:
        return permute(array, shape.heads if "q_proj" in key else shape.kv_heads)
    return array


def permute(weight: Any, heads: int) -> Any:
    """From halves to neighbours; the inverse of `lm_gguf_import.unpermute`."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _kind_of(target: str, array: Any, precision: str, shape: Any) -> str:
    """The type a tensor is stored in."""
    if array.ndim == 1:
        return "F32"
    _, kind, shared = PRECISIONS[precision]
    if target in ("token_embd.weight", "output.weight"):
        kind = shared
    elif precision == "q4_k_m" and target.endswith(("attn_v.weight", "ffn_down.weight")) and _more(target, shape.layers):
        kind = "Q6_K"
    return fitting(kind, array.shape[-1])


def fitting(kind: str, width: int) -> str:
    """The type itself where rows of this width can be stored in it, else the next that takes them."""
    if width % _BLOCK.get(kind, 1):
        kind = _SMALLER.get(kind, "F16")
    return "F16" if width % _BLOCK.get(kind, 1) else kind


def _more(target: str, layers: int) -> bool:
    """The layers whose values are worth more bits: the first and last eighth and every third between (llama.cpp's rule)."""
    layer, eighth = int(target.split(".")[1]), layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def encode(array: Any, kind: str) -> tuple[Any, Any]:
    """A tensor's bytes, and its type for the writer (None: the array's own)."""
    import gguf
    import numpy
    from gguf.quants import quantize

    array = numpy.ascontiguousarray(array, dtype=numpy.float32)
    if kind == "F32":
        return array, None
    if kind == "F16":
        return array.astype(numpy.float16), None
    number = getattr(gguf.GGMLQuantizationType, kind)
    if kind.endswith("_K") or kind == "Q5_0":
        return _by_engine(array, number), number
    return quantize(array, number), number


def _by_engine(array: Any, kind: Any) -> Any:
    """K-quants: the package cannot make them, the engine's library can."""
    import gguf
    import numpy

    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, width = array.shape
    out = numpy.empty((rows, width // block * size), dtype=numpy.uint8)
    made = _quantiser()(int(kind), array.ctypes.data, out.ctypes.data, 0, rows, width, None)
    if made != out.nbytes:
        raise refusal(f"the engine's quantiser wrote {made} bytes of {kind.name} where {out.nbytes} belong")
    return out


@cache
def _quantiser() -> Callable[..., int]:
    spec = importlib.util.find_spec("xllamacpp")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in Path(folder).glob("*.so"):
            found = getattr(ctypes.CDLL(str(file)), "ggml_quantize_chunk", None)
            if found is not None:
                found.restype = ctypes.c_size_t
                pointer, long = ctypes.c_void_p, ctypes.c_int64
                found.argtypes = [ctypes.c_int, pointer, pointer, long, long, long, pointer]
                return found  # type: ignore[no-any-return]
    raise refusal("this engine does not offer its quantiser; choose q8_0, q5_1 or q4_1 instead of q4_k_m")
