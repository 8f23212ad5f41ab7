"""The report's language: sentences by name from words/en.toml and words/zh.toml, numbers, sizes, times and money for people."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from tollway.kit.errors import BadRequest
from tollway.kit.money import format_micros

LANGUAGES = ("en", "zh")


@cache
def _table(lang: str) -> dict[str, Any]:
    text = files("tollway.forge.report").joinpath("words", f"{lang}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


class Words:
    """`t("verdict.passed", count=3)` and the forms of figures in one language."""

    def __init__(self, lang: str = "en") -> None:
        if lang not in LANGUAGES:
            raise BadRequest(f"There is no report in {lang!r}.", param="lang", hint=f"Choose {' or '.join(LANGUAGES)}.")
        self.lang = lang
        self._table = _table(lang)

    def __call__(self, name: str, /, **values: Any) -> str:
        found: Any = self._table
        for part in name.split("."):
            found = found[part]
        return str(found).format(**values) if values else str(found)

    def metric(self, name: str) -> str:
        """A metric's title: `f1.positive` keeps its class, `ndcg@10` its depth."""
        head, _, rest = name.partition(".") if "@" not in name else (name, "", "")
        bare, at, depth = head.partition("@")
        title = f"{self._table['metric'].get(bare, bare)}{at}{depth}"
        return f"{title} · {rest}" if rest else title

    def noise(self, kind: str) -> str:
        return str(self._table["noise"].get(kind, kind))

    def number(self, value: Any) -> str:
        """Four digits that matter, a dash for nothing."""
        if value is None:
            return str(self._table["none"])
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return str(value)
        return _digits(value).replace("-", "−")

    def interval(self, low: Any, high: Any) -> str:
        return self.number(None) if low is None or high is None else f"{self.number(low)} … {self.number(high)}"

    def signed(self, value: Any) -> str:
        if value is None:
            return self.number(None)
        return ("+" if value > 0 else "−" if value < 0 else "") + self.number(abs(value))

    def percent(self, value: Any) -> str:
        return self.number(None) if value is None else f"{100 * value:.1f} %"

    def size(self, count: Any) -> str:
        if not isinstance(count, (int, float)):
            return self.number(None)
        for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
            if count >= scale:
                return f"{count / scale:.3g} {unit}"
        return f"{int(count)} B"

    def time(self, seconds: float) -> str:
        if seconds < 60:
            return f"{seconds:.1f} s"
        minutes, left = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {left:02d} s"

    def money(self, micros: int, currency: str) -> str:
        """To the hundredth of a minor unit where it is small: a run may cost a tenth of a cent."""
        step = 10_000 if abs(micros) >= 1_000_000 else 100
        return format_micros(round(micros / step) * step, currency)


def _digits(value: float) -> str:
    size = abs(value)
    if size < 5e-5:
        return "0" if size < 1e-12 else "≈ 0"
    if isinstance(value, int) or (size >= 1e4 and value == int(value)):
        return f"{int(value):,}"
    if size >= 1000:
        return f"{value:,.1f}"
    if size < 1e-4:
        return f"{value:.5f}"
    return f"{value:.4g}" if size >= 1 else f"{value:.3f}" if size >= 0.0995 else f"{value:.3g}"
