"""A Llama-style GGUF file becomes a Hugging Face folder, dequantised to float32. For a limited process; no torch.

    sandbox.call("tollway.forge.models.lm_gguf_import:written", {"path": "model.gguf", "folder": "out"}, writable=out)

Only what the engine itself uses is read: sizes, the byte-level BPE tokenizer with its pre-tokenizer's name, the chat
template and the tensors, whose query and key rows go back to the order of Hugging Face's rotary positions.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tollway.kit.errors import BadRequest

_CONTROL, _USER_DEFINED = 3, 4
_GPT2_PATTERN: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_PATTERN: Final = _LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
_NAMES: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Refused(ValueError):
    """The file is not what this can read; the text says why."""


def written(path: str, folder: str) -> None:
    """`convert` for a limited process. Raises BadRequest with the reason."""
    try:
        convert(Path(path), Path(folder))
    except Refused as refused:
        raise refusal(Path(path), str(refused)) from None
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise refusal(Path(path), f"it is damaged ({type(error).__name__}: {str(error)[:200]})") from None


def refusal(path: Path, why: str) -> BadRequest:
    """What people are told of a file that cannot be read."""
    return BadRequest(
        f"{path.name} cannot be made a base: {why}.",
        code="invalid_model_file",
        hint="Give the model's Hugging Face folder instead.",
    )


def convert(path: Path, folder: Path, *, weights: bool = True) -> None:
    """The whole of it, in this process; without `weights`, only what the model is like and its tokenizer."""
    import gguf

    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    if keys.get("general.architecture") != "llama":
        raise Refused(f"its architecture is {keys.get('general.architecture')!r}, not llama")
    scaling = keys.get("llama.rope.scaling.type", "none")
    if scaling != "none" or any(tensor.name.startswith("rope_freqs") for tensor in reader.tensors):
        raise Refused("its positions are scaled")
    _write_tokenizer(keys, folder)
    tied = not any(tensor.name == "output.weight" for tensor in reader.tensors)
    _write_json(folder / "config.json", _config(keys, tied))
    if weights:
        _write_tensors(reader, keys, folder)


def _config(keys: dict[str, Any], tied: bool) -> dict[str, Any]:
    heads = int(keys["llama.attention.head_count"])
    width = int(keys["llama.embedding_length"])
    if int(keys.get("llama.rope.dimension_count", width // heads)) != width // heads:
        raise Refused("only a part of its heads is rotated")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(keys["tokenizer.ggml.tokens"]),
        "hidden_size": width,
        "intermediate_size": int(keys["llama.feed_forward_length"]),
        "num_hidden_layers": int(keys["llama.block_count"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(keys.get("llama.attention.head_count_kv", heads)),
        "head_dim": width // heads,
        "hidden_act": "silu",
        "max_position_embeddings": int(keys["llama.context_length"]),
        "rms_norm_eps": round(float(keys["llama.attention.layer_norm_rms_epsilon"]), 12),
        "rope_theta": float(keys.get("llama.rope.freq_base", 10_000.0)),
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": keys.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": keys.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": keys.get("tokenizer.ggml.padding_token_id"),
        "dtype": "float32",
    }


def _write_tensors(reader: Any, keys: dict[str, Any], folder: Path) -> None:
    import numpy
    from gguf.quants import dequantize
    from safetensors.numpy import save_file

    heads = int(keys["llama.attention.head_count"])
    kv_heads = int(keys.get("llama.attention.head_count_kv", heads))
    tensors = {}
    for tensor in reader.tensors:
        array = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        array = array.reshape([int(extent) for extent in reversed(tensor.shape)])
        name = _name(tensor.name)
        if "q_proj" in name or "k_proj" in name:
            array = unpermute(array, heads if "q_proj" in name else kv_heads)
        tensors[name] = numpy.ascontiguousarray(array)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _name(name: str) -> str:
    parts = name.split(".")
    if parts[-1] != "weight":
        raise Refused(f"the tensor {name} has no place in this architecture")
    key = parts[-2]
    if key not in _NAMES or len(parts) not in (2, 4):
        raise Refused(f"the tensor {name} has no place in this architecture")
    layer = f"model.layers.{int(parts[1])}." if len(parts) == 4 else ""
    return f"{layer}{_NAMES[key]}.weight"


def unpermute(weight: Any, heads: int) -> Any:
    """Rows from llama.cpp's rotary order (pairs side by side) back to Hugging Face's (halves)."""
    rows = weight.shape[0]
    return weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _write_tokenizer(keys: dict[str, Any], folder: Path) -> None:
    if keys.get("tokenizer.ggml.model") != "gpt2":
        raise Refused(f"its tokenizer is {keys.get('tokenizer.ggml.model')!r}; byte-level BPE (gpt2) is read")
    made = _tokenizer(keys)
    made.save(str(folder / "tokenizer.json"))
    tokens = keys["tokenizer.ggml.tokens"]
    ids = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, key in ids.items():
        number = keys.get(f"tokenizer.ggml.{key}_token_id")
        if number is not None:
            config[name] = tokens[int(number)]
    config["add_bos_token"] = bool(keys.get("tokenizer.ggml.add_bos_token", False))
    config["model_max_length"] = int(keys["llama.context_length"])
    if keys.get("tokenizer.chat_template"):
        config["chat_template"] = keys["tokenizer.chat_template"]
    _write_json(folder / "tokenizer_config.json", config)


def _tokenizer(keys: dict[str, Any]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models

    tokens, kinds = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in keys["tokenizer.ggml.merges"]]
    ignore = keys.get("tokenizer.ggml.pre") in ("llama-bpe", "llama3")
    made = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(tokens)}, merges=merges, ignore_merges=ignore))
    made.pre_tokenizer = pre_tokenizer(str(keys.get("tokenizer.ggml.pre", "default")))
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(one, special=True) for one, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL])
    made.add_tokens([AddedToken(one) for one, kind in zip(tokens, kinds, strict=True) if kind == _USER_DEFINED])
    return made


def pre_tokenizer(name: str) -> Any:
    """llama.cpp's pre-tokenizers under their names there."""
    from tokenizers import Regex, pre_tokenizers

    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def split(pattern: str) -> Any:
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), plain])

    makers: dict[str, Callable[[], Any]] = {
        "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        "smollm": lambda: pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        ),
        "llama-bpe": lambda: split(_LLAMA3_PATTERN),
        "qwen2": lambda: split(_QWEN2_PATTERN),
    }
    if name not in makers:
        raise Refused(f"its pre-tokenizer {name!r} is not one of {', '.join(makers)}")
    return makers[name]()


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
