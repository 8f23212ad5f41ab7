"""Covering what was found, and putting it back: whole texts, and texts that arrive in pieces."""

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tollway.guard.masking.recognisers import KINDS, Found, find

STYLES: Final = ("number", "kind", "hash", "partial")
_MARK: Final = re.compile(r"\[[A-Z_]{2,12}_(?:[0-9]{1,6}|[0-9a-f]{8})\]")
_LONGEST: Final = 22


@dataclass(frozen=True, slots=True)
class Masked:
    """A text without its personal data, what was found, and what each mark stands for."""

    text: str
    found: tuple[Found, ...]
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> Counter[str]:
        return Counter(one.kind for one in self.found)


class Masker:
    """Covers personal data in one style.

    number   `[PHONE_1]`: the same value has the same number within a text (or a list of values handed on); can be put back
    kind     `[PHONE]`: nothing can be put back
    hash     `[PHONE_1f3a9c02]`: the same value has the same mark in all texts under one key
    partial  `138****5678`: enough for a person to recognise, nothing to call
    """

    def __init__(self, kinds: Sequence[str] = KINDS, style: str = "number", key: bytes = b"") -> None:
        unknown = set(kinds) - set(KINDS)
        if unknown or style not in STYLES:
            raise ValueError(f"unknown kind or style: {', '.join(sorted(unknown)) or style}")
        if style == "hash" and not key:
            raise ValueError("the style hash needs a key: without one, short values can be found by trying")
        self._kinds = tuple(kinds)
        self._style = style
        self._key = key

    def mask(self, text: str, values: Mapping[str, str] | None = None) -> Masked:
        """Cover everything found. `values` of earlier texts go on: the same value keeps its mark."""
        found = find(text, self._kinds)
        known = dict(values or {})
        marks = {value: mark for mark, value in known.items()}
        counts = Counter(mark[1:].rpartition("_")[0].lower() for mark in known)
        # A mark that somebody typed must not be taken for one of ours later.
        taken = set(_MARK.findall(text))
        parts, at = [], 0
        for one in found:
            value = text[one.start : one.end]
            mark = self._mark(one.kind, value, marks, counts, taken)
            if self._style == "number":
                known[mark] = value
            parts += [text[at : one.start], mark]
            at = one.end
        return Masked("".join([*parts, text[at:]]), tuple(found), known)

    def _mark(self, kind: str, value: str, marks: dict[str, str], counts: Counter[str], taken: set[str]) -> str:
        if self._style == "kind":
            return f"[{kind.upper()}]"
        if self._style == "hash":
            digest = hmac.new(self._key, f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()
            return f"[{kind.upper()}_{digest[:8]}]"
        if self._style == "partial":
            return _partial(kind, value)
        if value in marks:
            return marks[value]
        while True:
            counts[kind] += 1
            mark = f"[{kind.upper()}_{counts[kind]}]"
            if mark not in taken:
                marks[value] = mark
                return mark


def _partial(kind: str, value: str) -> str:
    if kind == "email":
        name, _, rest = value.partition("@")
        return f"{name[:1]}***@{rest}"
    if kind == "name":
        return value[:1] + "*" * max(len(value) - 1, 1)
    shown = 4 if len(value) >= 10 else 0
    head = 3 if len(value) >= 11 else 0
    return value[:head] + "*" * max(len(value) - shown - head, 3) + (value[-shown:] if shown else "")


def restore(text: str, values: Mapping[str, str]) -> str:
    """Marks back to what they stand for; marks that are not ours stay."""
    return _MARK.sub(lambda match: values.get(match.group(), match.group()), text) if values else text


class Restorer:
    """`restore` for a text that arrives in pieces: a mark cut in two by the stream is still put back."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._held = ""

    def feed(self, piece: str) -> str:
        """What can be passed on now; the beginning of what may become a mark is held back."""
        text = restore(self._held + piece, self._values)
        self._held = ""
        start = text.rfind("[")
        if start >= 0 and len(text) - start < _LONGEST and re.fullmatch(r"\[[A-Z_]*[0-9a-f]*", text[start:]):
            text, self._held = text[:start], text[start:]
        return text

    def end(self) -> str:
        """What was still held back."""
        left, self._held = self._held, ""
        return left
