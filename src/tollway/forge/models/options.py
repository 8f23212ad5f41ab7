"""The architectures that can be trained, and the options of each: default, range, meaning. No torch: recipes are checked
against this before anything heavy is loaded.

    options.of("bilstm")                      # the architecture: its options, the tasks it can do, what it is
    options.read(part, task)                  # a recipe's [model] -> validated options; every problem at once
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tollway.forge.models import bases
from tollway.kit.errors import BadRequest


class Part(Protocol):
    """A recipe's [model]."""

    @property
    def architecture(self) -> str: ...

    @property
    def base(self) -> str: ...

    @property
    def options(self) -> Mapping[str, Any]: ...


class Options(BaseModel):
    """Options of an architecture: unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dropout: float = Field(0.1, ge=0, lt=1, description="share of values left out while training")


class AdapterOptions(Options):
    """[train] options of the methods lora, adapter, prefix and prompt."""

    dropout: float = Field(0.05, ge=0, lt=1, description="lora: share of inputs left out while training")
    rank: int = Field(8, ge=1, le=1024, description="lora: width of the two small matrices")
    alpha: float = Field(16.0, gt=0, description="lora: strength; alpha / rank scales what is added")
    targets: list[str] = Field(
        [], description="lora: names of linear layers; default: queries and values; all: every one"
    )
    size: int = Field(64, ge=1, le=8192, description="adapter: neurons of the bottleneck")
    tokens: int = Field(16, ge=1, le=1024, description="prefix, prompt: learnt tokens")


class Text(Options):
    """What every text model from scratch has: how texts become tokens."""

    tokenizer: Literal["words", "characters", "bpe", "unigram"] = Field("words", description="what a token is")
    vocabulary: int = Field(20_000, ge=50, le=1_000_000, description="most tokens known")
    lower: bool = Field(True, description="lower-case the text first")
    min_count: int = Field(2, ge=1, description="how often a word must occur to be known")
    max_length: int = Field(256, ge=8, le=8192, description="tokens of a text that are read")
    vectors: str = Field("", description="pre-trained word vectors in GloVe's text format (a file)")
    freeze_vectors: bool = Field(False, description="keep the pre-trained vectors as they are")


class Recurrent(Text):
    """rnn, gru, lstm, bilstm: reads a text word by word."""

    dropout: float = Field(0.3, ge=0, lt=1, description="share of values left out while training")
    width: int = Field(128, ge=4, le=4096, description="of the hidden state, each direction")
    embedding: int = Field(128, ge=4, le=4096, description="width of the word vectors (that of `vectors` when given)")
    layers: int = Field(1, ge=1, le=8, description="one above the other")
    pooling: Literal["max", "mean", "last", "attention"] = Field("max", description="how states become one vector")


class Transformer(Text):
    """transformer: an encoder with self-attention (pre-norm)."""

    width: int = Field(128, ge=8, le=4096, description="of a token's vector")
    layers: int = Field(2, ge=1, le=48, description="one above the other")
    heads: int = Field(4, ge=1, le=64, description="attention heads; width must be divisible")
    inner: int = Field(0, ge=0, le=65_536, description="width inside a layer; 0: four times the width")
    pooling: Literal["mean", "max", "first", "attention"] = Field("mean", description="how states become one vector")


class Seq2Seq(Text):
    """seq2seq: a transformer that reads one text and writes another."""

    tokenizer: Literal["words", "characters", "bpe", "unigram"] = Field("bpe", description="what a token is")
    vocabulary: int = Field(8_000, ge=50, le=1_000_000, description="most tokens known, of both languages together")
    lower: bool = Field(False, description="lower-case the texts first")
    max_length: int = Field(128, ge=8, le=2048, description="tokens of a text that are read, and written")
    width: int = Field(192, ge=8, le=4096, description="of a token's vector")
    layers: int = Field(3, ge=1, le=24, description="of the reader, and of the writer")
    heads: int = Field(4, ge=1, le=64, description="attention heads; width must be divisible")
    inner: int = Field(0, ge=0, le=65_536, description="width inside a layer; 0: four times the width")
    beams: int = Field(1, ge=1, le=16, description="sentences kept while writing; 1: always the likeliest word")


class Image(Options):
    """What every image model has: how pictures become pixels."""

    size: int = Field(0, ge=0, le=1024, description="pixels a side; 0: as the first picture is, at most 224")
    channels: Literal[0, 1, 3] = Field(0, description="1 grey, 3 colour; 0: as the first picture is")
    normalise: Literal["data", "imagenet", "unit"] = Field("data", description="whose mean and spread")
    fit: Literal["stretch", "crop"] = Field("stretch", description="how a picture that is not square becomes square")


class Mlp(Image):
    """mlp: layers of neurons on the bare pixels."""

    hidden: list[int] = Field([256, 128], min_length=0, max_length=16, description="neurons of each layer")


class Cnn(Image):
    """cnn: convolutions with pooling, then a mean over the picture."""

    filters: list[int] = Field(
        [32, 64, 128], min_length=1, max_length=8, description="of each block; each halves the size"
    )
    hidden: int = Field(128, ge=0, le=8192, description="neurons before the answer; 0: none")


class MobileNet(Image):
    """mobilenet-v2: a small, fast network for photos."""

    dropout: float = Field(0.2, ge=0, lt=1, description="share of values left out while training")


class Tabular(Options):
    """tabular: a linear model, and layers on embeddings of categories and normalised numbers beside it."""

    dropout: float = Field(0.2, ge=0, lt=1, description="share of values left out while training")
    width: int = Field(128, ge=4, le=4096, description="of the layers")
    layers: int = Field(2, ge=1, le=16, description="residual blocks")
    embedding: int = Field(0, ge=0, le=256, description="width of a category's vector; 0: by the number of values")
    normalise: Literal["standard", "quantile"] = Field("quantile", description="numbers by mean and spread, or by rank")
    max_categories: int = Field(200, ge=1, le=100_000, description="values of a column known by name; rarer: unknown")


class Linear(Options):
    """linear: linear or logistic regression on columns, words or pixels. The simplest thing that learns."""

    dropout: float = Field(0.0, ge=0, lt=1, description="share of values left out while training")
    tokenizer: Literal["words", "characters", "bpe", "unigram"] = Field(
        "words", description="for texts: what a token is"
    )
    vocabulary: int = Field(20_000, ge=50, le=1_000_000, description="for texts: most tokens known")
    lower: bool = Field(True, description="for texts: lower-case first")
    min_count: int = Field(2, ge=1, description="for texts: how often a word must occur to be known")
    max_length: int = Field(512, ge=8, le=8192, description="for texts: tokens that are read")
    size: int = Field(0, ge=0, le=1024, description="for pictures: pixels a side")
    channels: Literal[0, 1, 3] = Field(0, description="for pictures: 1 grey, 3 colour")
    normalise: Literal["standard", "quantile", "data", "unit"] = Field("standard", description="of numbers or pixels")
    max_categories: int = Field(200, ge=1, le=100_000, description="for tables: values of a column known by name")


class Recommender(Options):
    """two-tower, matrix-factorisation: users and items as vectors whose product is the score."""

    width: int = Field(32, ge=1, le=1024, description="of the vectors")
    min_count: int = Field(1, ge=1, description="ratings a user or item needs to be known")
    goal: Literal["rating", "choice"] = Field(
        "rating", description="predict the rating, or tell chosen items from others"
    )
    unknown: float = Field(
        0.02, ge=0, lt=1, description="share of ids hidden while training, so that strangers get sense"
    )
    hidden: list[int] = Field([64], max_length=8, description="two-tower only: neurons of each tower's layers")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of values left out while training")
    top: int = Field(10, ge=1, le=1000, description="items named when a user alone is given")


class Generator(Image):
    """vae, gan: pictures from noise."""

    dropout: float = Field(0.0, ge=0, lt=1, description="share of values left out while training")
    noise: int = Field(64, ge=1, le=4096, description="numbers a picture is made of")
    filters: int = Field(32, ge=4, le=1024, description="of the largest layer; doubled as the picture gets smaller")
    beta: float = Field(1.0, ge=0, description="vae: weight of the order in its space of pictures (KL)")
    conditional: bool = Field(False, description="draw the class that is asked for; the rows need a label")


class Detector(Options):
    """centernet: objects in a picture, by the middle of each."""

    dropout: float = Field(0.0, ge=0, lt=1, description="share of feature maps left out while training")
    size: int = Field(0, ge=0, le=1024, description="pixels a side, a multiple of 16; 0: as the first picture, at most 224")
    channels: Literal[0, 1, 3] = Field(0, description="1 grey, 3 colour; 0: as the first picture is")
    normalise: Literal["data", "imagenet", "unit"] = Field("data", description="whose mean and spread")
    filters: int = Field(16, ge=4, le=256, description="of the first convolution; up to four times as many deeper down")
    flip: bool = Field(False, description="learn from mirrored pictures too: not where left and right mean something")
    threshold: float = Field(
        0.0, ge=0, lt=1, description="answers show objects with at least this score; 0: where F1 is best on validation rows"
    )
    overlap: float = Field(0.5, gt=0, le=1, description="of two boxes of one label that overlap more, the surer one stays")
    most: int = Field(100, ge=1, le=1000, description="objects of a picture that are looked at")


class Llama(Options):
    """llama: a decoder that writes; its tokenizer is learnt from the texts."""

    dropout: float = Field(0.0, ge=0, le=0, description="none: what is seen once needs no dropout")
    tokenizer: Literal["bpe", "unigram"] = Field("bpe", description="what a token is: merged bytes, or likely pieces")
    vocabulary: int = Field(8192, ge=300, le=262_144, description="most tokens known")
    max_length: int = Field(512, ge=16, le=131_072, description="tokens it can look back: the context")
    width: int = Field(384, ge=16, le=8192, description="of a token's vector")
    layers: int = Field(6, ge=1, le=128, description="one above the other")
    heads: int = Field(6, ge=1, le=128, description="attention heads; width must be divisible by twice as many")
    kv_heads: int = Field(0, ge=0, le=128, description="key heads, shared by the attention heads; 0: as many")
    inner: int = Field(0, ge=0, le=65_536, description="width inside a layer; 0: 8/3 of the width")
    tied: bool = Field(True, description="one matrix for reading and writing tokens")
    new_tokens: int = Field(48, ge=1, le=4096, description="tokens of an answer when it is asked to write")


class Bert(Options):
    """bert: an encoder pre-trained on texts (objective masked or next-sentence), to be a base for other tasks."""

    dropout: float = Field(0.1, ge=0, lt=1, description="share of values left out while training")
    tokenizer: Literal["bpe", "unigram"] = Field("bpe", description="what a token is: merged bytes, or likely pieces")
    vocabulary: int = Field(8192, ge=300, le=262_144, description="most tokens known")
    max_length: int = Field(128, ge=16, le=8192, description="tokens of a text that are read")
    width: int = Field(256, ge=16, le=8192, description="of a token's vector")
    layers: int = Field(4, ge=1, le=128, description="one above the other")
    heads: int = Field(4, ge=1, le=128, description="attention heads; width must be divisible")
    inner: int = Field(0, ge=0, le=65_536, description="width inside a layer; 0: four times the width")
    role: Literal["encoder"] = Field("encoder", description="which special tokens the tokenizer has")


class Language(Options):
    """A Llama-style base for language modelling, chat or preferences."""

    dropout: float = Field(0.0, ge=0, le=0, description="none")
    max_length: int = Field(512, ge=16, le=131_072, description="tokens of a row that are read while training")
    new_tokens: int = Field(48, ge=1, le=4096, description="tokens of an answer when it is asked to write")


class Pretrained(Options):
    """A base that already knows something: a Hugging Face model with the head of the task."""

    max_length: int = Field(256, ge=8, le=8192, description="tokens of a text that are read")
    pooling: Literal["mean", "first"] = Field("mean", description="sentence embeddings: how states become one vector")
    attention: Literal["auto", "eager", "sdpa"] = Field("auto", description="implementation; auto: the fastest here")
    size: int = Field(0, ge=0, le=1024, description="for pictures: pixels a side; 0: as it was pre-trained")
    doc_stride: int = Field(64, ge=0, le=4096, description="question answering: how far windows of a long text overlap")


@dataclass(frozen=True, slots=True)
class Architecture:
    """One line of the table: options, what it can do, and where it is built (`module:function` below forge.models)."""

    options: type[Options]
    tasks: tuple[str, ...]
    help: str
    builder: str


_TEXTS: Final = ("text-classification", "text-regression", "sentence-embedding", "token-classification")
LANGUAGE_TASKS: Final = ("language-modeling", "chat", "preference")
SINGLE: Final = ("image-generation", "translation", *LANGUAGE_TASKS)  # their answers have no mean: no ensembles
_TABLES: Final = ("tabular-classification", "tabular-regression")
ARCHITECTURES: Final[dict[str, Architecture]] = {
    "rnn": Architecture(Recurrent, _TEXTS, "plain recurrent network", "recurrent:create"),
    "gru": Architecture(Recurrent, _TEXTS, "gated recurrent units", "recurrent:create"),
    "lstm": Architecture(Recurrent, _TEXTS, "long short-term memory, one direction", "recurrent:create"),
    "bilstm": Architecture(Recurrent, _TEXTS, "long short-term memory, both directions", "recurrent:create"),
    "transformer": Architecture(Transformer, _TEXTS, "encoder with self-attention", "encoder:create"),
    "seq2seq": Architecture(Seq2Seq, ("translation",), "transformer that writes", "seq2seq:create"),
    "mlp": Architecture(Mlp, ("image-classification",), "layers of neurons on pixels", "image:create_mlp"),
    "cnn": Architecture(Cnn, ("image-classification",), "convolutional network", "image:create_cnn"),
    "mobilenet-v2": Architecture(MobileNet, ("image-classification",), "small network for photos", "mobilenet:create"),
    "centernet": Architecture(Detector, ("object-detection",), "detector without anchors", "detector:create"),
    "tabular": Architecture(Tabular, _TABLES, "network for columns", "tabular:create"),
    "linear": Architecture(
        Linear, (*_TABLES, "image-classification", "text-classification", "text-regression"),
        "linear or logistic regression", "tabular:create_linear",
    ),
    "two-tower": Architecture(Recommender, ("recommendation",), "a network each for users and items", "recommender:create"),
    "matrix-factorisation": Architecture(Recommender, ("recommendation",), "a vector each", "recommender:create"),
    "llama": Architecture(Llama, LANGUAGE_TASKS, "decoder that writes, Llama-style", "lm:create"),
    "bert": Architecture(Bert, ("language-modeling",), "encoder to pre-train with masked words", "lm_masked:create"),
    "vae": Architecture(Generator, ("image-generation",), "variational auto-encoder", "generators:create_vae"),
    "gan": Architecture(Generator, ("image-generation",), "generative adversarial network (DCGAN)", "generators:create_gan"),
}  # fmt: skip
NET_BASES: Final = {"mobilenet-v2": "mobilenet-v2"}  # bases that are one of our architectures with weights
BASE: Final = "transformers"  # the architecture written in model.toml when a base was used
BASE_TASKS: Final = (
    "text-classification", "text-regression", "sentence-embedding", "token-classification", "question-answering",
    "translation", "image-classification",
)  # fmt: skip
_DEFAULTS: Final = {
    "text-classification": "bilstm", "text-regression": "bilstm", "sentence-embedding": "transformer",
    "token-classification": "bilstm", "translation": "seq2seq", "image-classification": "cnn", "image-generation": "vae",
    "object-detection": "centernet",
    "recommendation": "matrix-factorisation", "tabular-classification": "tabular", "tabular-regression": "tabular",
    "language-modeling": "llama",
}  # fmt: skip


def default_architecture(task: str) -> str:
    """What is trained when a recipe says nothing. Raises BadRequest for tasks that need a base."""
    if task not in _DEFAULTS:
        raise BadRequest(
            f"{task} needs a model that already knows something.",
            param="base",
            hint='Give one: [model] base = "minilm" (or "smollm2", a Hugging Face folder or id).',
        )
    return _DEFAULTS[task]


def of(name: str) -> Architecture:
    """An architecture by its name."""
    if name not in ARCHITECTURES:
        close = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(ARCHITECTURES)}."
        raise BadRequest(f"There is no architecture {name!r}.", param="architecture", hint=hint)
    return ARCHITECTURES[name]


def read(part: Part, task: str, home: Path | None = None) -> tuple[str, Options]:
    """(architecture, its options with defaults filled in). Raises BadRequest with every problem of [model]."""
    mine = bases.own(part.base, home) if part.base else None
    if mine is not None:
        name, given = _made_before(mine)
        encoder = name == "bert" and task in BASE_TASKS  # pre-trained here, but a Hugging Face folder: a base like any other
        if name in ARCHITECTURES and not encoder:
            if task not in ARCHITECTURES[name].tasks:
                raise BadRequest(f"{part.base} is a {name}, which does not do {task}.", param="base")
            return name, parse(ARCHITECTURES[name].options, {**given, **part.options})
    if part.base and task in LANGUAGE_TASKS:
        return BASE, parse(Language, part.options)
    if part.base and bases.gguf_of(part.base, home) is not None:
        raise BadRequest(
            f"{part.base} is a GGUF file: a base for {', '.join(sorted(LANGUAGE_TASKS))}, not for {task}.", param="base"
        )
    if part.base in NET_BASES:
        name = NET_BASES[part.base]
        if task not in ARCHITECTURES[name].tasks:
            raise BadRequest(
                f"The base {part.base} does {', '.join(ARCHITECTURES[name].tasks)}, not {task}.", param="base"
            )
        return name, parse(ARCHITECTURES[name].options, part.options)
    if part.base:
        if task not in BASE_TASKS:
            raise BadRequest(f"A base cannot be trained for {task} here.", hint=f"It can for {', '.join(BASE_TASKS)}.")
        return BASE, parse(Pretrained, part.options)
    name = part.architecture or default_architecture(task)
    architecture = of(name)
    if task not in architecture.tasks:
        fitting = [one for one, each in ARCHITECTURES.items() if task in each.tasks]
        raise BadRequest(
            f"{name} does not do {task}; it does {', '.join(architecture.tasks)}.",
            param="architecture",
            hint=f"For {task}: {', '.join(fitting) or 'a base'}.",
        )
    return name, parse(architecture.options, part.options)


def _made_before(folder: Path) -> tuple[str, dict[str, Any]]:
    try:
        found = tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))
        return str(found["architecture"]), {
            **found.get("options", {}),
            **({"vectors": ""} if "vectors" in found.get("options", {}) else {}),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"model.toml of {folder.name} cannot be read: {error}") from error


def parse(kind: type[Options], given: Mapping[str, Any], part: str = "[model]") -> Options:
    """Options from a recipe's table; BadRequest lists every wrong one, with the nearest name for a typo."""
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        problems = []
        for one in error.errors():
            name = ".".join(str(each) for each in one["loc"])
            text = f"{part} options.{name}: {one['msg']}"
            if one["type"] == "extra_forbidden":
                close = difflib.get_close_matches(name, kind.model_fields, n=1)
                text = f"{part} options.{name}: there is no such option" + (
                    f"; did you mean {close[0]}?" if close else ""
                )
            problems.append(text)
        raise BadRequest("\n".join(problems), hint=f"Options: {', '.join(kind.model_fields)}.") from None


def describe(kind: type[Options]) -> list[dict[str, str]]:
    """Name, kind, default and meaning of each option; for `tollway recipe new` and the docs."""
    rows = []
    schema = kind.model_json_schema()["properties"]
    for name, each in kind.model_fields.items():
        about = schema[name]
        sort = " | ".join(str(one) for one in about["enum"]) if "enum" in about else str(about.get("type", ""))
        rows.append({"name": name, "kind": sort, "default": repr(each.default), "help": each.description or ""})
    return rows
