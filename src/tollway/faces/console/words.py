"""The console's words: one dictionary file per language, looked up by dotted names such as `nav.overview`.

English and 简体中文 have the same names (a test compares them); an unknown name is an error, never a blank.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from tollway.kit.said import flat

LANGUAGES: Final = {"en": "English", "zh": "简体中文"}
HTML_LANG: Final = {"en": "en", "zh": "zh-CN"}
_FOLDER: Final = Path(__file__).parent / "i18n"


@cache
def dictionary(lang: str) -> Mapping[str, str]:
    """All words of a language, flat: dotted name -> text."""
    return dict(flat(tomllib.loads((_FOLDER / f"{lang}.toml").read_text(encoding="utf-8"))))


def translate(lang: str, name: str, /, **values: object) -> str:
    """The text called `name`, with `{placeholders}` filled in."""
    text = dictionary(lang)[name]
    return text.format(**values) if values else text


def choose(asked: str | None, cookie: str | None, accept_language: str) -> str:
    """The language of a visit: `?lang=`, else the cookie, else what the browser prefers, else English."""
    for wish in (asked, cookie):
        if wish in LANGUAGES:
            return wish
    best, best_weight = "en", 0.0
    for part in accept_language.split(",")[:20]:
        tag, _, weight = part.partition(";q=")
        lang = tag.strip().split("-")[0].lower()
        try:
            value = float(weight) if weight else 1.0
        except ValueError:
            continue
        if lang in LANGUAGES and value > best_weight:
            best, best_weight = lang, value
    return best
