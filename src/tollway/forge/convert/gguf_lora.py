"""A LoRA (PEFT's two files) as a GGUF adapter, which llama.cpp adds to its base request by request.

    gguf_lora.write(folder, Path("adapter.gguf"), base_shape)

What such a file cannot say (DoRA, trained biases or heads, other layers than linear ones) is refused, never dropped.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tollway.forge.convert.gguf_decoder import Written, permute
from tollway.forge.convert.gguf_tokenizer import refusal

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_PREFIXES: Final = ("base_model.model.", "base_model.")


def write(folder: Path, path: Path, shape: Any, *, name: str = "") -> Written:
    """Convert the adapter in `folder`, for a base of `shape`. Raises BadRequest; then nothing is left at `path`."""
    config, tensors = _read(folder)
    pairs = _pairs(tensors)
    _check(config, pairs, shape)
    rank = {len(pair["A"]) for pair in pairs.values()}
    if len(rank) > 1 or config.get("alpha_pattern"):
        raise refusal("its layers have different strengths")
    alpha = float(config.get("lora_alpha", config.get("r", 8)))
    if config.get("use_rslora"):
        alpha *= next(iter(rank)) ** 0.5  # the engine divides by the rank, not by its root
    aside = path.with_name(f".{path.name}.part")
    try:
        parameters = _write(aside, pairs, alpha, shape, name or folder.name)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return Written(path, parameters, path.stat().st_size)


def _read(folder: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = {key: one.float().numpy() for key, one in load_file(folder / WEIGHTS).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise refusal(f"{folder.name} holds no adapter that can be read ({error})") from None
    return config, tensors


def _pairs(tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{"model.layers.0.self_attn.q_proj": {"A": ..., "B": ...}}; anything else in the file is refused."""
    pairs: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        plain = next((key.removeprefix(one) for one in _PREFIXES if key.startswith(one)), key).replace(".default.", ".")
        for side in ("A", "B"):
            end = f".lora_{side}.weight"
            if plain.endswith(end) and tensor.ndim == 2:
                pairs.setdefault(plain.removesuffix(end), {})[side] = tensor
                break
        else:
            raise refusal(f"it holds {key}, which is no part of a LoRA on linear layers")
    return pairs


def _check(config: Mapping[str, Any], pairs: Mapping[str, Any], shape: Any) -> None:
    problems = []
    if str(config.get("peft_type", "LORA")) != "LORA":
        problems.append(f"it is {config['peft_type']}, not a LoRA")
    if config.get("use_dora"):
        problems.append("it is a DoRA")
    if config.get("bias", "none") != "none":
        problems.append("it has trained biases")
    if config.get("modules_to_save"):
        problems.append(f"it replaces {', '.join(config['modules_to_save'])}")
    if not pairs:
        problems.append("it changes no layer")
    sizes = _sizes(shape)
    for key, pair in sorted(pairs.items()):
        size = sizes.get(key.rpartition(".")[2])
        if set(pair) != {"A", "B"} or size is None:
            problems.append(f"{key} is not one of the base's linear layers, or is incomplete")
        elif (len(pair["B"]), pair["A"].shape[1]) != size or pair["B"].shape[1] != len(pair["A"]):
            problems.append(f"{key} is made for another base")
    if problems:
        raise refusal("; ".join(problems[:4]) + (f" (and {len(problems) - 4} more)" if len(problems) > 4 else ""))


def _sizes(shape: Any) -> dict[str, tuple[int, int]]:
    """Rows and columns of each linear layer of the base."""
    kv = shape.kv_heads * shape.head_width
    return {
        "q_proj": (shape.width, shape.width), "k_proj": (kv, shape.width), "v_proj": (kv, shape.width),
        "o_proj": (shape.width, shape.width), "gate_proj": (shape.inner, shape.width),
        "up_proj": (shape.inner, shape.width), "down_proj": (shape.width, shape.inner),
    }  # fmt: skip


def _write(path: Path, pairs: Mapping[str, dict[str, Any]], alpha: float, shape: Any, name: str) -> int:
    import gguf
    import numpy

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_name(name)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, shape.layers)
    count = 0
    for key in sorted(pairs):
        target = names.get_name(key + ".weight", try_suffixes=(".weight",))
        if target is None:
            raise refusal(f"the layer {key} has no place in this architecture")
        a, b = pairs[key]["A"], pairs[key]["B"]
        if key.endswith(("q_proj", "k_proj")):
            b = permute(b, shape.heads if key.endswith("q_proj") else shape.kv_heads)
        writer.add_tensor(f"{target}.lora_a", numpy.ascontiguousarray(a, dtype=numpy.float32))
        writer.add_tensor(f"{target}.lora_b", numpy.ascontiguousarray(b, dtype=numpy.float32))
        count += a.size + b.size
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return count
