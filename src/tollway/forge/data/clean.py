"""Cleaning: small steps with a name, applied in the order given; each says how many rows it changed or dropped.

    trim  collapse-spaces  fix-unicode  strip-html  lowercase  half-width  remove-urls  remove-control
    deduplicate  near-deduplicate[:0.8]  drop-missing  drop-conflicts  min-length:N  max-length:N  truncate:N
    rename:OLD=NEW  drop-label:NAME

Text steps work on all columns of kind text of the task; `deduplicate` keeps the first row (of a test split rather than
of the train split: rows that leak into training go from training).
"""

import difflib
import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tollway.forge.data import digest
from tollway.kit.errors import BadRequest

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Mask = np.ndarray[Any, Any]

_TAG: Final = re.compile(r"<(?:br|p|/p|div|/div|li|/li|tr|/tr|h[1-6]|/h[1-6])\b[^<>]{0,500}>", re.IGNORECASE)
_ANY_TAG: Final = re.compile(r"<[a-zA-Z/!][^<>]{0,500}>")
_SPACES: Final = re.compile(r"[ \t\u00a0\u3000]+")
_LINES: Final = re.compile(r"\s*\n\s*")
_URL: Final = re.compile(r"(?:https?://|www\.)[^\s<>\"'（）。，、]{2,2000}", re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060\ufeff]")


@dataclass(frozen=True)
class Roles:
    """Which columns a step works on: the texts, what makes two rows equal, and the label."""

    texts: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    label: str | None = None


@dataclass
class Done:
    """What one step did."""

    step: str
    changed: int = 0
    dropped: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        did = [f"{self.changed:,} values changed" * bool(self.changed), f"{self.dropped:,} rows dropped" * bool(self.dropped)]
        return f"{self.step}: {', '.join(part for part in did if part) or 'nothing to do'}"


def _strip_html(text: str) -> str:
    return html.unescape(_ANY_TAG.sub("", _TAG.sub("\n", text)))


def _half_width(text: str) -> str:
    """Full-width letters, digits and ASCII signs become plain ones; Chinese punctuation of its own stays."""
    return "".join(chr(ord(one) - 0xFEE0) if "\uff01" <= one <= "\uff5e" and one not in "，。！？；：（）" else one for one in text)


TEXT_STEPS: Final[dict[str, Callable[[str], str]]] = {
    "trim": str.strip,
    "collapse-spaces": lambda text: _LINES.sub("\n", _SPACES.sub(" ", text)),
    "fix-unicode": lambda text: unicodedata.normalize("NFC", text),
    "strip-html": _strip_html,
    "lowercase": str.lower,
    "half-width": _half_width,
    "remove-urls": lambda text: _URL.sub("", text),
    "remove-control": lambda text: _CONTROL.sub("", text),
}
ROW_STEPS: Final = ("deduplicate", "near-deduplicate", "drop-missing", "drop-conflicts", "min-length", "max-length",
                    "truncate", "rename", "drop-label")  # fmt: skip
_NEED_VALUE: Final = ("min-length", "max-length", "truncate", "rename", "drop-label")


def check(steps: Sequence[str]) -> None:
    """Raise BadRequest naming every step that does not exist or lacks its value."""
    wrong = []
    known = [*TEXT_STEPS, *ROW_STEPS]
    for step in steps:
        name, _, value = step.partition(":")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            wrong.append(f"{step!r} is no cleaning step" + (f"; did you mean {close[0]!r}?" if close else ""))
        elif name in _NEED_VALUE and not value:
            wrong.append(f"{step!r} needs a value, such as {_example(name)}")
        elif name in ("min-length", "max-length", "truncate") and not (value.isdigit() and int(value)):
            wrong.append(f"{step!r}: {value!r} is no number of characters")
        elif name == "rename" and not re.fullmatch(r"[^=]+=.+", value):
            wrong.append(f"{step!r} is not like rename:postive=positive")
        elif name == "near-deduplicate" and value and not re.fullmatch(r"0?\.\d+|1", value):
            wrong.append(f"{step!r}: the similarity is a number between 0 and 1")
    if wrong:
        raise BadRequest("; ".join(wrong) + ".", code="unknown_step", hint=f"Steps: {', '.join(known)}.")


def clean(table: "pa.Table", steps: Sequence[str], roles: Roles) -> tuple["pa.Table", list[Done]]:
    """The rows after all steps, and what each did."""
    check(steps)
    done = []
    for step in steps:
        name, _, value = step.partition(":")
        if name in TEXT_STEPS:
            table, one = _texts(table, name, TEXT_STEPS[name], roles.texts)
        else:
            table, one = _rows(table, name, value, roles)
        one.step = step
        done.append(one)
    return table, done


def _texts(table: "pa.Table", step: str, change: Callable[[str], str], names: Sequence[str]) -> tuple["pa.Table", Done]:
    import pyarrow as pa

    done = Done(step)
    for name in names:
        before = table[name].to_pylist()
        after = [None if one is None else change(one) for one in before]
        done.changed += sum(old != new for old, new in zip(before, after, strict=True))
        table = table.set_column(table.column_names.index(name), name, pa.chunked_array([pa.array(after, pa.string())]))
    return table, done


def _rows(table: "pa.Table", step: str, value: str, roles: Roles) -> tuple["pa.Table", Done]:
    import numpy as np
    import pyarrow as pa

    done = Done(step)
    count = table.num_rows
    keep = np.ones(count, bool)
    content = list(roles.content) or None
    if step == "deduplicate":
        _, first = np.unique(digest.keys(table, content), return_index=True)
        keep = np.zeros(count, bool)
        keep[first] = True
    elif step == "near-deduplicate":
        keep = _near(table, float(value or 0.8), roles)
    elif step == "drop-missing":
        for name in (*roles.content, *([roles.label] if roles.label else [])):
            column = table[name]
            keep &= np.asarray(column.is_valid())
            if pa.types.is_string(column.type):
                keep &= np.asarray([bool(one and one.strip()) for one in column.to_pylist()])
    elif step == "drop-conflicts" and roles.label:
        keep = _agreeing(table, content, roles.label)
    elif step in ("min-length", "max-length"):
        for name in roles.texts:
            lengths = np.asarray([len(one or "") for one in table[name].to_pylist()])
            keep &= lengths >= int(value) if step == "min-length" else lengths <= int(value)
    elif step == "truncate":
        return _texts(table, step, lambda text: text[: int(value)], roles.texts)
    elif step == "rename" and roles.label:
        old, new = value.split("=", 1)
        return _texts(table, step, lambda text: new if text == old else text, [roles.label])
    elif step == "drop-label" and roles.label:
        keep = np.asarray([one != value for one in table[roles.label].to_pylist()])
    done.dropped = int(count - keep.sum())
    if done.dropped == count and count:
        raise BadRequest(f"The cleaning step {step!r} leaves no row.", hint="Use a milder one.")
    return (table.filter(pa.array(keep)) if done.dropped else table), done


def _near(table: "pa.Table", similarity: float, roles: Roles) -> "Mask":
    import numpy as np
    import pyarrow as pa

    from tollway.forge.data import duplicates

    keep = np.ones(table.num_rows, bool)
    # What `check` compares: the texts that make a row (a question with its context, not its answer), or its picture.
    strings = [name for name in roles.content if pa.types.is_string(table[name].type)]
    pictures = [name for name in roles.content if pa.types.is_binary(table[name].type)]
    looked_at = (strings or roles.texts) if roles.texts else pictures
    for cluster in duplicates.near(table, looked_at, similarity=similarity):
        keep[cluster[1:]] = False
    return keep


def _agreeing(table: "pa.Table", content: list[str] | None, label: str) -> "Mask":
    """Rows whose content does not stand there under another label as well."""
    import numpy as np

    names = content or [name for name in table.column_names if name != label]
    seen: dict[int, object] = {}
    bad = set()
    labels = table[label].to_pylist()
    keys = digest.keys(table, names).tolist()
    for key, one in zip(keys, labels, strict=True):
        if seen.setdefault(key, one) != one:
            bad.add(key)
    return np.asarray([key not in bad for key in keys])


def _example(name: str) -> str:
    return {"rename": "rename:postive=positive", "drop-label": "drop-label:unknown"}.get(name, f"{name}:20")
