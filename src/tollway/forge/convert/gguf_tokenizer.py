"""A Hugging Face tokenizer.json in the words of GGUF, for llama.cpp. Byte-level BPE and Unigram.

llama.cpp cuts texts by rules it knows under a name ("smollm", "llama-bpe"); here that name is found by comparing structure,
never guessed: what is not exactly one of them is refused. The conversion's parity check compares the tokens besides.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tollway.inference.language import read_config
from tollway.kit.errors import BadRequest

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
_TURN_ENDS: Final = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
_KNOWN: Final = ("smollm", "gpt-2", "llama-bpe", "qwen2")


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says about its tokenizer."""

    model: str  # gpt2 (byte-level BPE) or t5 (Unigram)
    pre: str
    tokens: list[str]
    kinds: list[int]
    scores: list[float]
    merges: list[str]
    special: dict[str, int]  # bos, eos, unk, pad, eot
    add_bos: bool
    chat_template: str


def read(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of a model folder whose embedding has `rows` rows. Raises BadRequest naming what cannot be said."""
    try:
        found = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise refusal(f"its tokenizer.json cannot be read ({error})") from None
    model, config = found["model"], read_config(folder)
    if found.get("normalizer"):
        raise refusal(f"its tokenizer rewrites texts first ({found['normalizer'].get('type')})")
    added = {int(one["id"]): one for one in found.get("added_tokens", ())}
    if model["type"] == "BPE":
        pieces = sorted(model["vocab"].items(), key=lambda item: item[1])
        tokens = {int(number): piece for piece, number in pieces}
        scores: dict[int, float] = {}
        name, pre = "gpt2", _pre(found.get("pre_tokenizer"))
        merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
    elif model["type"] == "Unigram":
        tokens = {number: piece for number, (piece, _) in enumerate(model["vocab"])}
        scores = {number: float(score) for number, (_, score) in enumerate(model["vocab"])}
        name, pre, merges = "t5", _metaspace(found.get("pre_tokenizer")), []
    else:
        raise refusal(f"its tokenizer is {model['type']}; BPE and Unigram can be written")
    tokens |= {number: one["content"] for number, one in added.items()}
    if max(tokens) >= rows:
        raise refusal(f"its tokenizer has the token {max(tokens)}, its embedding only {rows} rows")
    special = _special(config, {content: number for number, content in tokens.items()}, model)
    return Vocabulary(
        name, pre, [tokens.get(at, f"[unused {at}]") for at in range(rows)],
        [_kind(at, tokens, added, special if name == "t5" else {}) for at in range(rows)],
        [scores.get(at, 0.0) for at in range(rows)], merges, special, bool(config.get("add_bos_token", False)),
        str(config.get("chat_template") or ""),
    )  # fmt: skip


def _kind(number: int, tokens: dict[int, str], added: dict[int, Any], special: dict[str, int]) -> int:
    if number not in tokens:
        return _UNUSED
    if number in added:
        return _CONTROL if added[number].get("special") else _USER_DEFINED
    return _UNKNOWN if number == special.get("unk") else _NORMAL


def _special(config: dict[str, Any], numbers: dict[str, int], model: dict[str, Any]) -> dict[str, int]:
    found = {}
    for role in ("bos", "eos", "unk", "pad"):
        given = config.get(f"{role}_token")
        word = given.get("content") if isinstance(given, dict) else given
        if word in numbers:
            found[role] = numbers[word]
    if model.get("unk_id") is not None:
        found["unk"] = int(model["unk_id"])
    ends = [numbers[name] for name in _TURN_ENDS if name in numbers]
    if ends:
        found["eot"] = ends[0]
    return found


def _pre(given: Any) -> str:
    """llama.cpp's name of a pre-tokenizer."""
    from tollway.forge.models.lm_gguf_import import pre_tokenizer

    wanted = _plain(given)
    for name in _KNOWN:
        if _plain(json.loads(pre_tokenizer(name).__getstate__())) == wanted:
            return name
    raise refusal("its tokenizer cuts texts in a way that llama.cpp has no name for here")


def _plain(given: Any) -> list[Any]:
    """A pre-tokenizer as the steps that matter."""
    if not given:
        return []
    if given["type"] == "Sequence":
        return [step for one in given["pretokenizers"] for step in _plain(one)]
    names = ("type", "individual_digits", "use_regex", "add_prefix_space", "pattern", "behavior", "invert")
    return [{name: given[name] for name in names if name in given}]


def _metaspace(given: Any) -> str:
    if not given or given["type"] != "Metaspace" or given.get("prepend_scheme") not in ("first", "always"):
        raise refusal("its Unigram tokenizer does not mark words the SentencePiece way")
    return "default"


def add(writer: Any, vocabulary: Vocabulary) -> None:
    """Write the tokenizer's keys."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    if vocabulary.model == "t5":
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(True)
        writer.add_remove_extra_whitespaces(False)
    else:
        writer.add_token_merges(vocabulary.merges)
        writer.add_add_space_prefix(False)
    put = {
        "bos": writer.add_bos_token_id, "eos": writer.add_eos_token_id, "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id, "eot": writer.add_eot_token_id,
    }  # fmt: skip
    for role, number in vocabulary.special.items():
        put[role](number)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(False)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)


def refusal(why: str) -> BadRequest:
    """The same words for everything that cannot be written as GGUF."""
    return BadRequest(
        f"This model cannot be written as GGUF: {why}.",
        code="conversion_failed",
        hint="Serve it in another format, or train a model whose tokenizer was made here.",
    )
