"""The recipe: one TOML file that says how a model is made. `load(path)` reads it and names every problem at once.

    [recipe]  name = "movie-sentiment"  task = "text-classification"
    [data]    dataset = "movies"        columns = {text = "review", label = "sentiment"}
    [model]   architecture = "bilstm"
    [train]   epochs = 5

Parts that are absent are skipped ([compress], [convert], [explain]) or have defaults that work. A key that does not
exist is a problem, with the nearest one that does: a typo never trains the wrong model for an hour.
"""

import difflib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tollway.kit.errors import BadRequest, NotFound

Task = Literal[
    "text-classification",
    "text-regression",
    "token-classification",
    "question-answering",
    "translation",
    "language-modeling",
    "chat",
    "preference",
    "sentence-embedding",
    "image-classification",
    "image-generation",
    "object-detection",
    "recommendation",
    "tabular-classification",
    "tabular-regression",
]
TASKS: tuple[str, ...] = get_args(Task)
Method = Annotated[str, Field(pattern=r"^(full|lora|adapter|prefix|prompt|none|top:[1-9][0-9]*)$")]
Share = Annotated[float, Field(ge=0, lt=1)]


class Part(BaseModel):
    """One table of a recipe: unknown keys are refused, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Header(Part):
    """`[recipe]`: what this makes."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$", description="the model's name: what buyers will call")
    task: Task = Field(description="what the model learns to do")
    seed: int = Field(7, ge=0, lt=2**32, description="of every random choice; the same seed makes the same model")


class Split(Part):
    """How rows are divided when the dataset is not split yet."""

    validation: Share = Field(0.1, description="share of the rows that choose among models")
    test: Share = Field(0.1, description="share of the rows that nothing but the evaluation sees")
    by: str = Field(
        "stratified",
        pattern=r"^(stratified|random|group:.+|time:.+)$",
        description="stratified (by label), random, group:COLUMN (a group stays together), time:COLUMN (newest is test)",
    )

    @model_validator(mode="after")
    def _leaves_something(self) -> "Split":
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together leave nothing to train on")
        return self


class Data(Part):
    """`[data]`: which rows, and what is done to them first."""

    dataset: str = Field(description="a dataset, newest version, or one version: movies@2", min_length=1)
    columns: dict[str, str] = Field({}, description="what the task needs = the column that has it")
    split: Split = Field(
        Split(), description="shares, and how rows are divided: stratified, random, group:COLUMN, time:COLUMN"
    )
    clean: list[str] = Field([], description="cleaning steps, in order")
    mask: bool = Field(False, description="cover personal data (English and Chinese) before anything else sees it")
    augment: list[str] = Field([], description="augmentations of the training rows, such as synonym:0.1")
    rows_max: int | None = Field(None, ge=1, description="use at most so many rows of each split")


class Model(Part):
    """`[model]`: what is trained: an architecture from scratch, or a base that already knows something."""

    architecture: str = Field("", description="from scratch: bilstm, cnn, mlp, transformer, llama, two-tower, vae …")
    base: str = Field("", description="pre-trained: a packaged model, a Hugging Face folder or id, a GGUF file, a package here")
    options: dict[str, Any] = Field({}, description="of the architecture or the base")

    @model_validator(mode="after")
    def _one_of_both(self) -> "Model":
        if self.architecture and self.base:
            raise ValueError("give an architecture (from scratch) or a base (pre-trained), not both")
        return self


class EarlyStopping(Part):
    """Stop when the validation figure has not improved for so many looks; the best model is kept."""

    patience: int = Field(2, ge=1, description="looks without progress")
    metric: str = Field("loss", description="a validation figure; loss is the lower the better")


class Adversarial(Part):
    """FGM: a second pass with embeddings moved along the gradient (Miyato et al. 2017)."""

    epsilon: float = Field(1.0, gt=0, description="how far the embeddings are moved")


class Search(Part):
    """Hyper-parameter search (Optuna) with a budget; the best trial's settings are used and written down."""

    trials: int = Field(10, ge=1, le=10_000, description="most trials")
    minutes: float = Field(30, gt=0, description="most time; the trial in work is finished")
    space: dict[str, list[Any]] = Field(
        description="setting = [low, high] for numbers (a third value: log) or the choices; settings of [train], or options.X"
    )


class Train(Part):
    """`[train]`: how it is trained. One dial (`epochs` or `steps`); the rest has defaults that fit the method."""

    method: Method = Field(
        "full", description="full, lora, adapter, prefix, prompt, top:N (the N topmost layers), none"
    )
    objective: str = Field("", description="pre-training goal: causal, masked, next-sentence, rotation, masked-image …")
    epochs: float | None = Field(
        None, gt=0, description="times through the training rows; default: what suits the task"
    )
    steps: int | None = Field(None, ge=1, description="steps of the optimiser, instead of epochs")
    learning_rate: float | None = Field(None, gt=0, description="default: what suits the model and method")
    optimizer: Literal["adamw", "adam", "sgd", "adagrad", "rmsprop", "adafactor"] = Field(
        "adamw", description="adamw, adam, sgd, adagrad, rmsprop or adafactor"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd and rmsprop")
    schedule: Literal["linear", "cosine", "constant", "one-cycle"] = Field(
        "linear", description="of the learning rate after the warm-up: linear, cosine, constant, one-cycle"
    )
    warmup: float = Field(0.06, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    batch_rows: int | None = Field(None, ge=1, description="rows a step; default: what suits the task")
    batch_tokens: int | None = Field(None, ge=16, description="tokens a step; rows of like length go together")
    accumulate: int = Field(1, ge=1, description="batches whose gradients are added up for one step")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto measures what is faster here")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto: a graphics card where there is one"
    )
    weight_decay: float = Field(0.01, ge=0, description="L2")
    l1: float = Field(0.0, ge=0, description="L1")
    dropout: float | None = Field(None, ge=0, lt=1, description="instead of the architecture's own")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of certainty spread over the other labels")
    clip: float = Field(1.0, ge=0, description="largest norm of the gradient; 0: no limit")
    early_stopping: EarlyStopping | None = Field(
        None, description="{patience, metric}: stop when the validation figure has not improved for so many looks"
    )
    adversarial: Adversarial | None = Field(None, description="{epsilon}: adversarial training on embeddings (FGM)")
    members: int = Field(1, ge=1, le=32, description="models trained with different seeds; their answers are averaged")
    soup: bool = Field(False, description="average the members' weights into one model instead")
    search: Search | None = Field(None, description="{trials, minutes, space}: hyper-parameter search with a budget")
    options: dict[str, Any] = Field({}, description="of the method: rank and targets of LoRA, beta of DPO …")
    checkpoint_every_s: float = Field(60, gt=0, description="seconds of work that a crash can cost")
    processes: int = Field(1, ge=1, description="processes that train together")
    distributed: Literal["ddp", "fsdp", "tensor", "ray", "ray-fsdp"] = Field("ddp", description="how, when processes > 1")
    threads: int | None = Field(None, ge=1, description="CPU threads of each process; default: all cores shared out")

    @model_validator(mode="after")
    def _one_dial(self) -> "Train":
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both")
        if self.batch_rows is not None and self.batch_tokens is not None:
            raise ValueError("give batch_rows or batch_tokens, not both")
        if self.soup and self.members == 1:
            raise ValueError("a soup needs members: set members to 2 or more")
        return self


class Compress(Part):
    """`[compress]`: make it smaller or faster, in the order given; each step is measured before and after."""

    steps: list[str] = Field(
        min_length=1, description="such as prune:0.5, structured:0.25, distil:4, int8-static, 4bit"
    )
    recovery_epochs: float = Field(0, ge=0, description="fine-tuning after pruning")
    options: dict[str, Any] = Field({}, description="of the steps")


class Convert(Part):
    """`[convert]`: the formats the package carries; the first is the one that is served."""

    formats: list[Literal["onnx", "openvino", "litert", "pt2", "torchscript", "gguf", "safetensors"]] = Field(
        min_length=1, description="onnx, openvino, litert, pt2, torchscript, gguf, safetensors"
    )
    quantise: str = Field("", description="int8 for onnx, openvino and litert; f16, q8_0 or q4_k_m for gguf")
    tolerance: float | None = Field(
        None, gt=0, description="largest difference of outputs from the source; default by format"
    )
    options: dict[str, Any] = Field({}, description="of the formats")

    @field_validator("formats")
    @classmethod
    def _once_each(cls, formats: list[str]) -> list[str]:
        if len(set(formats)) != len(formats):
            raise ValueError("a format is named twice")
        return formats


class Evaluate(Part):
    """`[evaluate]`: what is measured on the test split, and what the model must reach to be registered."""

    metrics: list[str] = Field([], description="default: those of the task")
    slices: list[str] = Field([], description="columns by which the figures are also given")
    require: dict[str, str] = Field({}, description='gates: accuracy = ">=0.8", "vs.baseline" = ">=0"')
    bootstrap: int = Field(1000, ge=0, le=100_000, description="resamples behind each confidence interval; 0: none")
    noise: list[float] = Field([0.05, 0.1], description="levels at which robustness is measured")
    rows_max: int | None = Field(None, ge=1, description="measure on at most so many test rows")
    baseline: bool = Field(True, description="measure a simple baseline on the same rows")

    @field_validator("require")
    @classmethod
    def _readable(cls, require: dict[str, str]) -> dict[str, str]:
        import re

        for name, wanted in require.items():
            if not re.fullmatch(r"(>=|<=|>|<)\s*-?\d+(\.\d+)?", wanted):
                raise ValueError(f'the gate {name} = "{wanted}" is not like ">=0.8"')
        return require


class Explain(Part):
    """`[explain]`: why the model says what it says, for some test rows, and how faithful the explanations are."""

    methods: list[str] = Field(
        [], description="attention, integrated-gradients, shap, lime, occlusion; default by task"
    )
    rows: int = Field(8, ge=1, le=1000, description="test rows that are explained")


class Package(Part):
    """`[package]`: what the model package says of itself."""

    title: str = Field("", description="what people see")
    description: str = Field("", description="what it is for, in a sentence")
    licence: str = Field("", description="of the weights; that of the data binds you too")
    intended_use: str = Field("", description="for the model card")
    limits: str = Field("", description="for the model card: what it must not be used for")
    parent: str = Field("", description="the package this one improves on: its figures stand beside ours")


class Recipe(Part):
    """A whole recipe."""

    recipe: Header
    data: Data
    model: Model = Model()
    train: Train = Train()
    compress: Compress | None = None
    convert: Convert | None = None
    evaluate: Evaluate = Evaluate()
    explain: Explain | None = None
    package: Package = Package()


class Faulty(BadRequest):
    """Settings of a recipe are wrong. `rest` is the recipe without them, so that the others can be looked at as well (None:
    too little is left); `gone` are the parts that fell away whole."""

    rest: Recipe | None = None
    gone: frozenset[str] = frozenset()


def load(path: Path) -> Recipe:
    """Read a recipe file. Raises NotFound, or BadRequest listing every problem with its line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(
            f"There is no recipe {path}.", hint="Write one: tollway recipe new NAME --task TASK --dataset DATASET."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"The recipe {path} cannot be read: {error}.") from None
    return parse(text, str(path))


def parse(text: str, where: str = "the recipe") -> Recipe:
    """A recipe from its TOML text. Raises BadRequest listing every problem with its line."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f"{where} is not valid TOML: {error}.", code="invalid_recipe") from None
    try:
        return Recipe.model_validate(found)
    except ValidationError as error:
        problems = [_problem(one, text) for one in error.errors()]
        faulty = Faulty(
            f"{where} has {len(problems)} problem{'s' * (len(problems) > 1)}:\n  " + "\n  ".join(problems),
            code="invalid_recipe",
            hint="`tollway recipe schema` lists every setting with its meaning.",
        )
        faulty.rest, faulty.gone = _without(found, error)
        raise faulty from None


def _without(found: dict[str, Any], error: ValidationError) -> tuple[Recipe | None, frozenset[str]]:
    """What is left of a recipe when each wrong setting is taken out, and the parts that went with one."""
    gone: set[str] = set()
    for _ in range(2):  # a part that cannot be without the setting that was taken out goes with it, the second time
        for one in error.errors():
            path = [str(part) for part in one["loc"]][:2]  # a setting is taken out whole
            part = found.get(path[0]) if path else None
            if len(path) == 2 and isinstance(part, dict) and path[1] in part:
                part.pop(path[1])
            elif path:
                found.pop(path[0], None)
                gone.add(path[0])
        try:
            return Recipe.model_validate(found), frozenset(gone)
        except ValidationError as next_one:
            error = next_one
    return None, frozenset(gone)


def settings() -> list[dict[str, str]]:
    """Every setting of a recipe: part, name, kind, default, meaning; for `recipe schema` and the docs."""
    return [row for part, field in Recipe.model_fields.items() for row in rows_of(part, part_of(field.annotation))]


def rows_of(part: str, kind: type[BaseModel]) -> list[dict[str, str]]:
    """The settings of one part, or of an architecture's options."""
    rows = []
    for name, row in kind.model_fields.items():
        default = "required" if row.is_required() else _toml(row.get_default(call_default_factory=True))
        shown = str(row.annotation).replace("typing.", "").removeprefix("<class '").removesuffix("'>")
        rows.append({"part": part, "name": name, "kind": shown, "default": default, "help": row.description or ""})
    return rows


def part_of(annotation: Any) -> type[BaseModel]:
    """The model behind a part's annotation, optional or not."""
    return next(
        one for one in (annotation, *get_args(annotation)) if isinstance(one, type) and issubclass(one, BaseModel)
    )


def _toml(value: Any) -> str:
    """A default as it would stand in the file; none: the setting is left out."""
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "{" + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value) + "}"
    return json.dumps(value, ensure_ascii=False)


def _problem(error: Any, text: str) -> str:
    """`line 7: [train] epoch: there is no such setting; did you mean epochs?`"""
    path = [str(part) for part in error["loc"]]
    line = _line_of(path, text)
    at = f"line {line}: " if line else ""
    name = f"[{path[0]}]" + (f" {'.'.join(path[1:])}" if len(path) > 1 else "") if path else "the recipe"
    match error["type"]:
        case "extra_forbidden":
            close = difflib.get_close_matches(path[-1], _names(path[:-1]), n=1)
            what = "there is no such setting" + (f"; did you mean {close[0]}?" if close else "")
        case "missing":
            what = "is missing"
        case "literal_error":
            wanted = str(error["ctx"]["expected"])
            given = error["input"]
            choices = wanted.replace("'", "").replace(" or ", ", ").split(", ")
            close = difflib.get_close_matches(str(given), choices, n=1)
            what = f"{given!r} is none of {wanted}" + (f"; did you mean {close[0]}?" if close else "")
        case "string_pattern_mismatch":
            what = f"{error['input']!r} does not look like {error['ctx']['pattern']}"
        case _:
            what = error["msg"].removeprefix("Value error, ")
            what = what[0].lower() + what[1:]
            if not isinstance(error["input"], (dict, list)):
                what += f" (it is {error['input']!r})"
    return f"{at}{name}: {what}"


def _names(path: list[str]) -> list[str]:
    part: type[BaseModel] = Recipe
    for name in path:
        field = part.model_fields.get(name)
        if field is None:
            return []
        try:
            part = part_of(field.annotation)
        except StopIteration:
            return []
    return list(part.model_fields)


def _line_of(path: list[str], text: str) -> int:
    """The line of a setting, by its table and name; 0 when it cannot be told (inline tables, missing ones)."""
    inside = ""
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if bare.startswith("["):
            inside = bare.strip("[] ")
            if path == [inside]:
                return number
            continue
        key = bare.partition("=")[0].strip().strip('"')
        table, _, last = ".".join(path).rpartition(".")
        if "=" in bare and (
            (inside == table and key == last) or (len(path) > 2 and inside == path[0] and key == path[1])
        ):
            return number
    return 0
