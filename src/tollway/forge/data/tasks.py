"""What each task needs of a dataset: its canonical columns, and how they are found when the recipe does not say.

A role is found by, in this order: `columns` of the recipe, what the import said (`--text`, `--label`), a column of that
very name, a usual other name, and for text and image the only column of that kind.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tollway.forge.data.schema import Column
from tollway.kit.errors import BadRequest


@dataclass(frozen=True)
class Role:
    """A canonical column: its name, what it may be made from, and other names people give it."""

    name: str
    kinds: tuple[str, ...]
    also: tuple[str, ...] = ()
    required: bool = True


_WORDS: Final = ("text", "category")
_ANY: Final = ("text", "category", "integer", "number", "boolean", "time")
_NUMBERS: Final = ("number", "integer")
TEXT: Final = Role("text", _WORDS, ("sentence", "review", "content", "message", "comment", "body", "document", "tweet"))
LABEL: Final = Role("label", _ANY, ("sentiment", "class", "category", "target", "y", "species", "intent", "topic"))
TARGET: Final = Role("target", _NUMBERS, ("score", "y", "value", "price", "label", "rating"))
IMAGE: Final = Role("image", ("image",), ("img", "picture", "photo"))

TEXT_B: Final = Role("text_b", _WORDS, ("sentence2",), required=False)

ROLES: Final[Mapping[str, tuple[Role, ...]]] = {
    "text-classification": (TEXT, TEXT_B, LABEL),
    "text-regression": (TEXT, TEXT_B, TARGET),
    "token-classification": (
        Role("tokens", ("tokens", "json"), ("words",)),
        Role("tags", ("tokens", "json"), ("ner_tags", "pos_tags", "labels")),
    ),
    "question-answering": (
        Role("context", _WORDS, ("passage", "paragraph")),
        Role("question", _WORDS, ("query",)),
        Role("answer", _WORDS, ("answer_text", "answers")),
        Role("answer_start", ("integer",), ("start",)),
    ),
    "translation": (Role("source", _WORDS, ("src", "en", "from")), Role("target", _WORDS, ("tgt", "zh", "es", "to"))),
    "language-modeling": (TEXT,),
    "chat": (Role("messages", ("json",), ("conversation", "conversations", "dialogue")),),
    "preference": (Role("prompt", _WORDS, ("question",)), Role("chosen", _WORDS), Role("rejected", _WORDS)),
    "sentence-embedding": (
        Role("text", _WORDS, ("text_a", "sentence1", "anchor", "query")),
        Role("text_b", _WORDS, ("sentence2", "positive", "document"), required=False),
        Role("label", _NUMBERS, ("score", "similarity"), required=False),
    ),
    "image-classification": (IMAGE, LABEL),
    "image-generation": (IMAGE, Role("label", _ANY, LABEL.also, required=False)),
    "object-detection": (IMAGE, Role("boxes", ("json",), ("objects", "annotations", "bboxes"))),
    "recommendation": (
        Role("user", _ANY, ("user_id", "userid", "customer", "customer_id")),
        Role("item", _ANY, ("item_id", "movie_id", "movieid", "product", "product_id")),
        Role("rating", _NUMBERS, ("score", "stars")),
        Role("time", ("time", "integer", "number"), ("timestamp", "date"), required=False),
    ),
    "tabular-classification": (LABEL,),
    "tabular-regression": (TARGET,),
}
TABULAR: Final = ("tabular-classification", "tabular-regression")
_EXTRA: Final = ("features", "drop")


def match(
    task: str, columns: tuple[Column, ...], asked: Mapping[str, str], noted: Mapping[str, str], ref: str
) -> dict[str, str]:
    """canonical name -> column. Raises BadRequest with everything that does not fit."""
    if task not in ROLES:
        close = difflib.get_close_matches(task, ROLES, n=1)
        raise BadRequest(f"{task!r} is no task." + (f" Did you mean {close[0]!r}?" if close else ""))
    kinds = {one.name: one.kind for one in columns}
    roles = {role.name: role for role in ROLES[task]}
    problems = []
    extra = _EXTRA if task in TABULAR else ()
    for name, source in asked.items():
        if name in extra:
            continue
        if name not in roles:
            close = difflib.get_close_matches(name, roles, n=1)
            problems.append(f"{task} has no column {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        elif source not in kinds:
            close = difflib.get_close_matches(source, kinds, n=1)
            problems.append(f"{name} = {source!r}: no such column" + (f"; did you mean {close[0]!r}?" if close else ""))
    found: dict[str, str] = {}
    for role in roles.values():
        source = asked.get(role.name) or _found(role, kinds, noted, set(found.values()) | set(asked.values()))
        if source and source in kinds:
            if kinds[source] not in role.kinds:
                problems.append(f"{role.name} = {source!r} is of kind {kinds[source]}, not {' or '.join(role.kinds)}")
            found[role.name] = source
        elif role.required and role.name not in asked:
            problems.append(f"which column is the {role.name}?")
    twice = {source for source in found.values() if list(found.values()).count(source) > 1}
    problems += [f"{source!r} is used twice" for source in sorted(twice)]
    if problems:
        shown = ", ".join(f"{one.name} ({one.kind})" for one in columns)
        example = ", ".join(f'{role.name} = "{next(iter(kinds), "COLUMN")}"' for role in roles.values() if role.required)
        raise BadRequest(
            f"{ref} does not fit the task {task}: {'; '.join(problems)}.",
            code="columns_do_not_fit",
            hint=f"Say it in the recipe: [data] columns = {{{example}}}. Its columns: {shown}.",
        )
    return found


def _found(role: Role, kinds: Mapping[str, str], noted: Mapping[str, str], taken: set[str]) -> str:
    free = {name: kind for name, kind in kinds.items() if name not in taken}
    if noted.get(role.name) in free and free[noted[role.name]] in role.kinds:
        return noted[role.name]
    lowered = {name.lower(): name for name in reversed(free)}
    for name in (role.name, *role.also):
        if name in lowered and free[lowered[name]] in role.kinds:
            return lowered[name]
    if role.name in ("text", "image"):
        only = [name for name, kind in free.items() if kind == role.name]
        return only[0] if len(only) == 1 else ""
    return ""
