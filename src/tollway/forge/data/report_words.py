"""The data report's language: the English sentence is the key, `words/report.<lang>.toml` has the others."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final

from tollway.kit.errors import BadRequest

LANGUAGES: Final = ("en", "zh")


class Words:
    """`t("rows in {split}", split="train")`."""

    def __init__(self, lang: str = "en") -> None:
        if lang not in LANGUAGES:
            raise BadRequest(f"There is no report in {lang!r}.", param="lang", hint=f"Choose {' or '.join(LANGUAGES)}.")
        self.html_lang = {"zh": "zh-CN"}.get(lang, lang)
        self._table = _table(lang)

    def __call__(self, sentence: str, /, **values: Any) -> str:
        found = self._table.get(sentence, sentence)
        return found.format(**values) if values else found


@cache
def _table(lang: str) -> dict[str, str]:
    if lang == "en":
        return {}
    path = Path(__file__).parent / "words" / f"report.{lang}.toml"
    found: dict[str, str] = tomllib.loads(path.read_text(encoding="utf-8"))
    return found
