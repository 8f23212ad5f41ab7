"""A sentence that knows what it says: English words, and beside them a code and figures, so that it can be said in any language.

    why = say("rollout.kept_warm", "kept loaded for {grace_s}", grace_s=300)     'kept loaded for 5 min'
    why.coded()     {"code": "rollout.kept_warm", "figures": {"grace_s": 300}}: what is stored beside the words

`Said` is a `str`: logs, the API and the command line use it as the sentence it is. Whoever stores it stores `coded(why)` too;
whoever shows it to people looks the code up in the reader's language (`said.zh.toml`) and falls back to the words.
A figure's name ends with its unit: `_s` seconds, `_ms` milliseconds, `_share` 0 to 1; whole numbers get their thousands.
"""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

_SPANS: Final = (("d", 86_400), ("h", 3600), ("min", 60))
UNITS: Final[Mapping[str, Mapping[str, str]]] = {"zh": {"d": "天", "h": "小时", "min": "分钟", "s": "秒"}}
"""What the units of a length of time are called, where not d, h, min and s."""


class Said(str):
    """The English words, with their code and figures."""

    code: str
    figures: Mapping[str, Any]

    def __new__(cls, words: str, code: str = "", figures: Mapping[str, Any] | None = None) -> "Said":
        """`words` as they are; `say` makes them from a template."""
        made = super().__new__(cls, words)
        made.code, made.figures = code, dict(figures or {})
        return made

    def coded(self) -> dict[str, Any]:
        """As it is stored: code and figures, where a figure may be a sentence or several."""
        return {"code": self.code, "figures": {name: _kept(value) for name, value in self.figures.items()}}


def say(code: str, template: str, /, **figures: Any) -> Said:
    """The sentence `template`, with `{placeholders}` filled in."""
    shown = {name: english(name, value) for name, value in figures.items()}
    return Said(template.format(**shown) if figures else template, code, figures)


def coded(words: str) -> dict[str, Any] | None:
    """What is stored beside the words; None for words that have no code."""
    return words.coded() if isinstance(words, Said) and words.code else None


def said(kept: Mapping[str, Any] | None, words: str) -> Said | str:
    """Words that were stored, or came from another process, with the code beside them."""
    return Said(words, str(kept["code"]), kept["figures"]) if kept else words


def listed(sentences: Sequence[str]) -> Said:
    """Several sentences as one, with semicolons."""
    return say("list", "{parts}", parts=list(sentences))


def english(name: str, value: Any) -> str:
    """A figure in English."""
    if isinstance(value, list):
        return "; ".join(value)
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    if name.endswith("_share"):
        return percent(value)
    if name.endswith("_ms"):
        return milliseconds(value)
    if name.endswith("_s"):
        return span(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


@cache
def sentences(lang: str) -> Mapping[str, str]:
    """Everything that is said, in this language: code -> template. English is said where it is meant."""
    path = files("tollway.kit").joinpath(f"said.{lang}.toml")
    return dict(flat(tomllib.loads(path.read_text(encoding="utf-8")))) if path.is_file() else {}


def translated(lang: str, words: str, kept: Mapping[str, Any] | None) -> str:
    """What was said, in this language, as plain text; the words themselves where there are none for it."""
    template = sentences(lang).get(str((kept or {}).get("code")))
    if template is None:
        return words
    figures = {name: _of_language(lang, name, value) for name, value in ((kept or {}).get("figures") or {}).items()}
    try:
        return template.format(**figures)
    except (KeyError, IndexError, ValueError):  # written by another release
        return words


def _of_language(lang: str, name: str, value: Any) -> str:
    if isinstance(value, list):
        return "；".join(_of_language(lang, name, one) for one in value)
    if isinstance(value, Mapping):
        return translated(lang, str(value.get("words", "")), value)
    if name.endswith("_s") and not isinstance(value, str) and value is not None:
        return span(value, UNITS.get(lang))
    return english(name, value)


def flat(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A tree of texts, each under its dotted name."""
    found: list[tuple[str, str]] = []
    for name, value in node.items():
        path = f"{prefix}{name}"
        found.extend(flat(value, f"{path}.") if isinstance(value, Mapping) else [(path, str(value))])
    return found


def percent(share: float) -> str:
    """`1.3 %` of 0.013."""
    return f"{share * 100:.{0 if share in (0, 1) else 1 if abs(share) >= 0.001 else 2}f} %"


def milliseconds(took_ms: float) -> str:
    """`34 ms`, `12.1 s`."""
    if took_ms >= 10_000:
        return f"{took_ms / 1e3:,.1f} s"
    return f"{took_ms:,.0f} ms" if took_ms >= 10 else f"{took_ms:.1f} ms"


def span(seconds: float, units: Mapping[str, str] | None = None) -> str:
    """`5 min`, `3 h`; `units` are the names of d, h, min and s in another language."""
    for unit, size in _SPANS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {(units or {}).get(unit, unit)}"
    return f"{seconds:.0f} {(units or {}).get('s', 's')}"


def _kept(value: Any) -> Any:
    """A figure as it is stored: a sentence keeps its words, for whoever does not know its code."""
    if isinstance(value, list):
        return [_kept(one) for one in value]
    if isinstance(value, Said) and value.code:
        return value.coded() | {"words": str(value)}
    return str(value) if isinstance(value, str) else value
