"""Reasons and errors in the reader's language: said with a code and figures below (`kit/said.py`), made into words here.

    sentence("zh", row.why, row.said)     Markup: the Chinese sentence; for a row of an older release its English words
    failure("zh", error)                  what went wrong and what to do next

Words without a code come from elsewhere (an engine, a library, an older release): they are shown as they are, marked as
English, behind a sentence that says so where they stand alone.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from markupsafe import Markup, escape

from tollway.faces.console import words
from tollway.faces.console.formats import NONE, Locale
from tollway.kit import said
from tollway.kit.errors import TollwayError

_ENGLISH: Final = re.compile(r"(?:[A-Za-z']{2,}[ ,]+){3}[A-Za-z']{2,}")
_WORDS: Final = (
    "failure",
    "found",
    "why",
    "how",
    "left_out",
    "said",
    "hint",
    "parts",
    "problems",
)  # figures that are sentences
_NAMED: Final = {"role": "deployment.roles.", "state": "job.state.", "kind": "model.kinds.", "other": "model.kinds.",
                 "status": "status."}  # fmt: skip


def sentence(lang: str, text: str, coded: Mapping[str, Any] | None = None) -> Markup:
    """What was said. `coded`: as it is stored beside the words; words that were just said bring it along."""
    kept = coded or said.coded(text)
    made = _told(lang, kept) if kept and lang != "en" else None
    if made is not None:
        return escape(made)
    return escape(text) if lang == "en" or not _is_english(text) else _foreign(text)


def failure(lang: str, error: TollwayError) -> Markup:
    """An error's message with what to do next; one that has no words in this language begins with what kind it is."""
    told = sentence(lang, error.said)
    known = said.sentences(lang).get(f"code.{error.code}")
    if "<" in told and known is not None:
        return escape(known)
    if "<" in told:  # its own words are English
        names = words.dictionary(lang)
        kind = error.status if f"error.title.{error.status}" in names else 500
        told = Markup("{}（{}）").format(names[f"error.title.{kind}"], told)
    hint = sentence(lang, error.said_hint)
    if not hint or "<" in hint:
        return told if lang != "en" or not hint else Markup("{} {}").format(told, hint)
    return Markup("{} {}").format(told, hint) if lang == "en" else told + hint


def _told(lang: str, kept: Mapping[str, Any]) -> Markup | None:
    """The sentence in this language; None when it has no words for it."""
    template = said.sentences(lang).get(str(kept.get("code")))
    if template is None:
        return None
    figures = {name: _figure(lang, name, value) for name, value in (kept.get("figures") or {}).items()}
    try:
        return Markup(template).format(**figures)  # noqa: S704 - our own dictionary; format escapes the figures
    except (KeyError, IndexError, ValueError):  # written by another release
        return None


def _figure(lang: str, name: str, value: Any) -> str:
    if isinstance(value, list):
        return Markup("；").join(_figure(lang, name, one) for one in value)
    if isinstance(value, Mapping):
        return sentence(lang, str(value.get("words", "")), value)
    if value is None:
        return NONE
    if isinstance(value, str):
        own = _NAMED.get(name, "") + value
        if name in _NAMED and own in words.dictionary(lang):
            return words.dictionary(lang)[own]
        return _foreign(value) if name in _WORDS and _is_english(value) else value
    if name.endswith("_share"):
        return said.percent(value)
    if name.endswith("_ms"):
        return said.milliseconds(value)
    if name.endswith("_s"):
        return said.span(value, said.UNITS[lang])
    return Locale(lang).number(value) if isinstance(value, int) else f"{value:.2f}"


def _is_english(text: str) -> bool:
    """Whether these are English words, whatever names stand among them."""
    return bool(text) and (text.isascii() or _ENGLISH.search(text) is not None)


def _foreign(text: str) -> Markup:
    """Somebody else's words, which a screen reader speaks in English."""
    return Markup('<span lang="en">{}</span>').format(text)
