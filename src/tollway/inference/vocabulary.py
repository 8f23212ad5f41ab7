"""Tokenizers: learnt from the training texts, or taken from a pre-trained model's folder. Built on `tokenizers` (Rust).

`words` keeps whole words (Chinese characters stand alone), `characters` single characters, `bpe` and `unigram` pieces.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tollway.kit.errors import BadRequest

FILE_NAME: Final = "tokenizer.json"
KINDS: Final = ("words", "characters", "bpe", "unigram")
PAD, UNKNOWN, START, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL: Final = (PAD, UNKNOWN, START, END, MASK)
_PAD_NAMES: Final = (PAD, "<pad>", "<|pad|>", "<|endoftext|>", "</s>")


def learn(
    texts: Iterable[str],
    kind: str = "words",
    size: int = 20_000,
    lower: bool = True,
    least: int = 2,
    frame: bool = False,
) -> Any:
    """A tokenizer learnt from `texts`. `least`: how often a word must occur; `frame`: put [CLS] ... [SEP] around."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = list(SPECIAL)
    cleaning: Any = normalizers.BertNormalizer(lowercase=lower, handle_chinese_chars=True, strip_accents=False)
    trainer: Any
    if kind in ("words", "characters"):
        made = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        trainer = trainers.WordLevelTrainer(
            vocab_size=size, min_frequency=least, special_tokens=special, show_progress=False
        )
        made.pre_tokenizer = (
            pre_tokenizers.BertPreTokenizer() if kind == "words" else pre_tokenizers.Split(Regex(r"\s|\S"), "isolated")
        )
        if kind == "characters":
            cleaning = normalizers.Sequence([normalizers.NFC()] + ([normalizers.Lowercase()] if lower else []))
            made.decoder = decoders.Fuse()
    elif kind == "bpe":
        made = Tokenizer(models.BPE(unk_token=UNKNOWN))
        trainer = trainers.BpeTrainer(
            vocab_size=size, min_frequency=least, special_tokens=special, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        cleaning = normalizers.Sequence([normalizers.NFC()] + ([normalizers.Lowercase()] if lower else []))
    elif kind == "unigram":
        made = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=special, unk_token=UNKNOWN, show_progress=False
        )
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        cleaning = normalizers.Sequence([normalizers.NFKC()] + ([normalizers.Lowercase()] if lower else []))
    else:
        raise BadRequest(f"{kind!r} is no kind of tokenizer.", hint=f"Choose one of {', '.join(KINDS)}.")
    made.normalizer = cleaning
    made.train_from_iterator(texts, trainer)
    if frame:
        marks = [(START, made.token_to_id(START)), (END, made.token_to_id(END))]
        made.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {END}", pair=f"{START} $A {END} $B:1 {END}:1", special_tokens=marks
        )
    return made


def read(folder: Path) -> Any:
    """The tokenizer of a folder, without padding or truncation of its own (the features decide that)."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise BadRequest(
            f"{folder.name} has no {FILE_NAME}.",
            hint="Save it once with a fast tokenizer: AutoTokenizer.from_pretrained(folder).save_pretrained(folder).",
        )
    return loads(path.read_text(encoding="utf-8"))


def loads(text: str) -> Any:
    """A tokenizer from its JSON."""
    from tokenizers import Tokenizer

    try:
        made = Tokenizer.from_str(text)
    except Exception as error:  # the Rust side raises a plain Exception for whatever is wrong with the file
        raise BadRequest(f"This is not a tokenizer that can be read: {error}") from error
    made.no_padding()
    made.no_truncation()
    return made


def pad_id(tokenizer: Any) -> int:
    """The number that fills up short rows; masked anyway."""
    for name in _PAD_NAMES:
        number = tokenizer.token_to_id(name)
        if number is not None:
            return int(number)
    return 0


def same(tokenizer: Any) -> Any:
    """An independent copy."""
    return loads(json.dumps(json.loads(tokenizer.to_str())))
