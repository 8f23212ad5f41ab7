"""A BERT sentence encoder (safetensors, WordPiece, mean pooling) as GGUF, for llama.cpp.

Written with the official `gguf` package; no torch. Ends with a parity check: the finished file is run by the engine
on sixteen texts and held against a slow, obvious reference in float32 (`bert_reference`). A difference stops it.
"""

import contextlib
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tollway.kit.errors import BadRequest

COSINE_LEAST: Final = 0.999
_SPECIAL: Final = {"[UNK]": "unk", "[SEP]": "sep", "[PAD]": "pad", "[CLS]": "cls", "[MASK]": "mask"}
_WORD_START: Final = "\u2581"
_CHILD_WALL_S: Final = 180

PARITY_TEXTS: Final = (
    "The quick brown fox jumps over the lazy dog.",
    "A model is only as good as the bill it can pay.",
    "How do I cancel my subscription?",
    "I want my money back; the parcel arrived broken.",
    "Invoice No. 2026-0042: 1,250.00 EUR, due in 14 days.",
    "naïve café résumé coöperate Ångström",
    "don't, won't, can't: it's the users' choice",
    "e-mail: someone@example.com, see https://example.com/a?b=c#d",
    "def add(a, b):\n    return a + b  # returns the sum",
    "antidisestablishmentarianism and pneumonoultramicroscopicsilicovolcanoconiosis",
    "今天天气很好, 我们去公园吧。",
    "Zażółć gęślą jaźń; Привет, мир; γειά σου",
    "UPPER CASE AND lower case AND MiXeD cAsE",
    "?!... --- *** ### $$$ 50% & 3 < 5 > 2",
    "x",
    "The gateway counts every token, holds money for it, runs the call, records what was used and settles it. " * 8,
)


@dataclass(frozen=True, slots=True)
class Converted:
    """The file that was written and how near it is to its source."""

    path: Path
    parity: dict[str, float | int | str]


def sentence_encoder_to_gguf(folder: Path, out_path: Path, *, precision: str = "F16") -> Converted:
    """Convert the sentence-transformers folder at `folder`. Raises BadRequest when it is not such an encoder, or when
    the result does not agree with it; then nothing is left at `out_path`."""
    source = Source.read(folder)
    if precision not in ("F16", "F32"):
        raise BadRequest(f"{precision!r} is not a precision this converter writes.", hint="Choose F16 or F32.")
    aside = out_path.with_name(out_path.name + ".part")
    try:
        _write(source, aside, precision)
        parity = _parity(source, aside)
        aside.rename(out_path)
    finally:
        aside.unlink(missing_ok=True)
    return Converted(out_path, parity)


@dataclass(frozen=True, slots=True)
class Source:
    """The parts of a sentence-transformers folder that matter."""

    config: dict[str, Any]
    vocabulary: tuple[str, ...]
    tensors: dict[str, Any]
    lower_case: bool
    name: str

    @classmethod
    def read(cls, folder: Path) -> "Source":
        """Read and check the folder. All problems at once."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            config = _json(folder / "config.json")
            pooling = _json(folder / "1_Pooling" / "config.json")
            tokenizer = _json(folder / "tokenizer_config.json")
            vocabulary = tuple((folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n"))
            tensors = load_file(folder / "model.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise _refusal(f"{folder} cannot be read as a sentence encoder ({error})") from None
        tensors = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
        problems = _problems(config, pooling, vocabulary, tensors)
        if problems:
            raise _refusal(f"{folder} is no encoder this converter knows: " + "; ".join(problems))
        title = str(config.get("_name_or_path", "")).rpartition("/")[2]
        return cls(config, vocabulary, tensors, bool(tokenizer.get("do_lower_case", True)), title or folder.name)


def _problems(
    config: dict[str, Any], pooling: dict[str, Any], vocabulary: tuple[str, ...], tensors: dict[str, Any]
) -> list[str]:
    wanted = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    problems = [
        f"its {key} is {config.get(key)!r}, not {value!r}" for key, value in wanted.items() if config.get(key) != value
    ]
    if not pooling.get("pooling_mode_mean_tokens"):
        problems.append("it does not pool by the mean")
    if config.get("vocab_size") != len(vocabulary):
        problems.append(f"its vocabulary has {len(vocabulary)} words, its config says {config.get('vocab_size')}")
    problems += [f"its vocabulary has no {token}" for token in _SPECIAL if token not in vocabulary]
    if not all(isinstance(config.get(key), int) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")):
        problems.append("its config lacks hidden_size, num_hidden_layers or num_attention_heads")
    if "embeddings.word_embeddings.weight" not in tensors:
        problems.append("it holds no word embeddings")
    return problems


def _json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is not an object")
    return found


def _refusal(why: str) -> BadRequest:
    return BadRequest(
        f"{why}.",
        code="conversion_failed",
        hint="Give the folder of a BERT sentence-transformers model with vocab.txt and model.safetensors.",
    )


def _write(source: Source, path: Path, precision: str) -> None:
    import gguf
    import numpy

    config = source.config
    layers = int(config["num_hidden_layers"])
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(source.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(layers)
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if precision == "F16" else gguf.LlamaFileType.ALL_F32)
    _add_vocabulary(writer, source)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, layers)
    for name in sorted(source.tensors):
        if name == "embeddings.position_ids" or name.startswith("pooler."):
            continue  # an index, and a head that mean pooling does not use
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise _refusal(f"the tensor {name} has no place in this architecture")
        tensor = source.tensors[name].astype(numpy.float32)
        halved = (
            precision == "F16" and tensor.ndim == 2 and target not in ("position_embd.weight", "token_types.weight")
        )
        writer.add_tensor(target, tensor.astype(numpy.float16) if halved else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: Any, source: Source) -> None:
    """llama.cpp marks the start of a word, WordPiece its continuation: `##ing` -> `ing`, `run` -> `▁run`."""
    import gguf

    words, kinds = [], []
    for token in source.vocabulary:
        if token in _SPECIAL:
            words.append(token)
        else:
            words.append(token[2:] if token.startswith("##") else _WORD_START + token)
        kinds.append(gguf.TokenType.CONTROL if token in _SPECIAL else gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    writer.add_token_type_count(source.config.get("type_vocab_size", 2))
    at = {role: source.vocabulary.index(token) for token, role in _SPECIAL.items()}
    writer.add_bos_token_id(at["cls"])
    writer.add_eos_token_id(at["sep"])
    writer.add_unk_token_id(at["unk"])
    writer.add_sep_token_id(at["sep"])
    writer.add_pad_token_id(at["pad"])
    writer.add_mask_token_id(at["mask"])


def _parity(source: Source, path: Path) -> dict[str, float | int | str]:
    """Run the file and the reference on the same texts. Raises BadRequest when one differs too much."""
    from tollway.forge.convert.bert_reference import Reference

    reference = Reference(source.config, source.vocabulary, source.tensors, lower_case=source.lower_case)
    ours = embed_with_engine(path, PARITY_TEXTS)
    cosines = [_cosine(a, reference.embed(text).tolist()) for a, text in zip(ours, PARITY_TEXTS, strict=True)]
    worst = min(range(len(cosines)), key=lambda index: cosines[index])
    if not cosines[worst] >= COSINE_LEAST:
        raise _refusal(
            f"the converted model disagrees with its source: cosine {cosines[worst]:.6f} "
            f"on {PARITY_TEXTS[worst][:40]!r}, at least {COSINE_LEAST} is wanted"
        )
    return {
        "reference": "numpy float32",
        "texts": len(cosines),
        "cosine_min": round(cosines[worst], 7),
        "cosine_mean": round(math.fsum(cosines) / len(cosines), 7),
    }


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    if len(a) != len(b):
        return 0.0
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    norms = math.hypot(*a) * math.hypot(*b)
    return dot / norms if norms else 0.0


def embed_with_engine(path: Path, texts: Sequence[str]) -> list[list[float]]:
    """What llama.cpp makes of `texts`, in a process of its own. Raises BadRequest when it cannot load the file."""
    orders = json.dumps({"path": str(path.absolute()), "texts": list(texts)})
    with contextlib.suppress(ValueError, KeyError, subprocess.TimeoutExpired):
        child = subprocess.run(
            [sys.executable, "-P", "-m", "tollway.forge.convert.engine_run"],
            input=orders.encode(),
            capture_output=True,
            timeout=_CHILD_WALL_S,
            check=False,
        )
        vectors = json.loads(child.stdout)["vectors"]
        return [[float(value) for value in vector] for vector in vectors]
    raise _refusal(f"the engine cannot run {path.name}")
