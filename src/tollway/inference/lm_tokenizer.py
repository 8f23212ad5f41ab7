"""A tokenizer made from the seller's own texts: byte-level BPE or Unigram, in the form the engines read too.

    made = lm_tokenizer.train(texts, kind="bpe", vocabulary=8192)
    lm_tokenizer.save(made, folder, context_tokens=512)   # tokenizer.json, tokenizer_config.json (with the chat template)

Three rules keep training and serving the same by construction:
- the pre-tokenizer is one llama.cpp has under a name (`smollm`: digits one by one, then GPT-2's pattern), or for Unigram
  the plain SentencePiece one (`t5`), so that a GGUF file cuts texts exactly as the training did;
- every text begins with the end-of-text token (it means "a document ends, another begins"), written by the tokenizer itself
  and declared to the engine, so that the first real token has something to be predicted from;
- the special tokens have fixed places: 0 end of text, 1 and 2 begin and end a turn of a chat, 3 padding.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tollway.kit.errors import BadRequest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Kind = Literal["bpe", "unigram"]
KINDS: Final = ("bpe", "unigram")
END, TURN, TURN_END, PAD, UNKNOWN = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<|unk|>"
DECODER_SPECIALS: Final = (END, TURN, TURN_END, PAD)
ENCODER_SPECIALS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY_LEAST: Final = 300  # the 256 bytes, the special tokens and something to learn
VOCABULARY_MOST: Final = 262_144

# ChatML: what SmolLM2, Qwen and many others use. No text of our own is put before the seller's.
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train(
    texts: Iterable[str],
    *,
    kind: str = "bpe",
    vocabulary: int = 8192,
    role: Literal["decoder", "encoder"] = "decoder",
    specials: Sequence[str] = (),
) -> "Tokenizer":
    """Learn a tokenizer of at most `vocabulary` pieces from `texts`. Raises BadRequest for orders that make no sense.

    `role` decides which special tokens there are: those of a language model, or those of a masked one ([CLS] ... [SEP]).
    The same texts give the same tokenizer, whatever the number of threads.
    """
    _check(kind, vocabulary)
    reserved = [*(DECODER_SPECIALS if role == "decoder" else ENCODER_SPECIALS), *specials]
    source = _Counted(texts)
    if kind == "unigram" and role == "decoder":
        reserved.append(UNKNOWN)  # bytes know everything, pieces do not
    made = _bpe(source, vocabulary, reserved) if kind == "bpe" else _unigram(source, vocabulary, reserved, role)
    if not source.characters:
        raise BadRequest(
            "There is no text to learn a tokenizer from.",
            code="empty_dataset",
            hint="Give a dataset whose text column is not empty.",
        )
    _frame(made, role)
    return made


def _check(kind: str, vocabulary: int) -> None:
    problems = []
    if kind not in KINDS:
        problems.append(f"{kind!r} is no kind of tokenizer made here ({', '.join(KINDS)})")
    if not VOCABULARY_LEAST <= vocabulary <= VOCABULARY_MOST:
        problems.append(f"a vocabulary of {vocabulary} is not between {VOCABULARY_LEAST} and {VOCABULARY_MOST}")
    if problems:
        raise BadRequest(
            "This tokenizer cannot be made: " + "; ".join(problems) + ".",
            code="invalid_recipe",
            param="model.options.tokenizer",
            hint='Say for example options = {tokenizer = "bpe", vocabulary = 8192}.',
        )


class _Counted:
    """Hands texts on and knows afterwards how much there was."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.characters += len(text)
            yield text


def _bpe(texts: Iterable[str], vocabulary: int, reserved: list[str]) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=reserved,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),  # every byte has a token: nothing is unknown
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return made


def _unigram(texts: Iterable[str], vocabulary: int, reserved: list[str], role: str) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary,
        special_tokens=reserved,
        unk_token=UNKNOWN if role == "decoder" else "[UNK]",
        initial_alphabet=[*map(chr, range(33, 127)), "\n", "\t"],  # what a chat template or a program needs is never unknown
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    learned = json.loads(made.to_str())["model"]
    made.model = models.Unigram(_settled(learned["vocab"], len(reserved)), learned["unk_id"], False)
    made.add_special_tokens(reserved)
    return made


def _settled(vocabulary: list[list[Any]], reserved: int) -> list[tuple[str, float]]:
    """The learned pieces in an order and with scores that do not depend on the trainer's hash tables.

    It sums in any order (the last bits differ), and gives the characters that won no place of their own falling scores
    by chance; here these fall by code point.
    """
    fixed = [(piece, 0.0) for piece, _ in vocabulary[:reserved]]
    scores = {piece: round(score, 6) for piece, score in vocabulary[reserved:]}
    floor = min((score for piece, score in scores.items() if len(piece) > 1), default=0.0)
    late = sorted(piece for piece, score in scores.items() if len(piece) == 1 and score < floor)
    scores |= {piece: round(floor - 0.0001 * place, 6) for place, piece in enumerate(late, 1)}
    return fixed + sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def _frame(made: "Tokenizer", role: str) -> None:
    """What the tokenizer puts around a text by itself."""
    from tokenizers import processors

    if role == "decoder":
        frame: dict[str, Any] = {"single": f"{END} $A", "pair": f"{END} $A {END} $B:1", "special_tokens": [(END, 0)]}
    else:
        marks = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
        frame = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1", "special_tokens": marks}
    made.post_processor = processors.TemplateProcessing(**frame)


def config(made: "Tokenizer", *, context_tokens: int, chat_template: str = CHAT_TEMPLATE) -> dict[str, Any]:
    """tokenizer_config.json: what the special tokens are for, and the chat template."""
    if made.token_to_id("[MASK]") is not None:
        chat_template = ""
        roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        found: dict[str, Any] = {**roles, "mask_token": "[MASK]"}
    else:
        unknown = UNKNOWN if made.token_to_id(UNKNOWN) is not None else END
        found = {"bos_token": END, "eos_token": END, "unk_token": unknown, "pad_token": PAD, "add_bos_token": True}
        if chat_template:
            found["chat_template"] = chat_template
    return found | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_tokens,
        "clean_up_tokenization_spaces": False,
    }


def save(made: "Tokenizer", folder: Path, *, context_tokens: int, chat_template: str = CHAT_TEMPLATE) -> None:
    """Write the two files every Hugging Face tool reads: tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    text = json.dumps(
        config(made, context_tokens=context_tokens, chat_template=chat_template), ensure_ascii=False, indent=2
    )
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def fertility(made: "Tokenizer", texts: Sequence[str]) -> dict[str, float]:
    """How well the tokenizer fits: tokens a word, characters a token, share of pieces it does not know."""
    lists = [encoding.ids for encoding in made.encode_batch_fast(list(texts), add_special_tokens=False)]
    tokens = sum(map(len, lists))
    words = sum(len(text.split()) for text in texts)
    unknown = next((one for name in ("[UNK]", UNKNOWN) if (one := made.token_to_id(name)) is not None), -1)
    return {
        "tokens_per_word": tokens / max(1, words),
        "characters_per_token": sum(map(len, texts)) / max(1, tokens),
        "unknown_share": sum(ids.count(unknown) for ids in lists) / max(1, tokens),
    }
