"""The report's drawings: inline SVG that follows the page's colours, each with a label for those who cannot see it."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from tollway.forge.data.report_words import Words

_WIDTH: Final = 280
_HEIGHT: Final = 72
_TONES: Final = {"train": "accent", "validation": "second", "test": "third"}


def histogram(
    edges: Sequence[float], counts: Sequence[int], what: str, t: Words, moments: bool = False, more: bool = False
) -> str:  # fmt: skip
    """Bars over a range; the ends are written below. `more`: the last bar also counts what lies beyond."""
    most = max(counts, default=0) or 1
    wide = _WIDTH / max(len(counts), 1)
    bars = "".join(
        f'<rect x="{place * wide + 0.5:.1f}" y="{_HEIGHT - _tall(count, most):.1f}" width="{max(wide - 1, 1):.1f}" '
        f'height="{_tall(count, most):.1f}"><title>{_figure(edges[place], moments)} – '
        f"{_figure(edges[place + 1], moments)}: {count:,}</title></rect>"
        for place, count in enumerate(counts)
    )
    ends = {"low": _figure(edges[0], moments), "high": _figure(edges[-1], moments)}
    label = t("Distribution of {what} from {low} to {high}", what=what, **ends)
    return (
        f'<figure class="plot"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}" preserveAspectRatio="none">'
        f'<g class="bars">{bars}</g></svg><figcaption><span>{_figure(edges[0], moments)}</span>'
        f"<span>{_figure(edges[-1], moments)}{t(' and more') if more else ''}</span></figcaption></figure>"
    )


def _tall(count: int, most: int) -> float:
    return max(_HEIGHT * count / most, 1.5) if count else 0.0


def bars(values: Mapping[str, int], t: Words, most_shown: int = 12) -> str:
    """Names with a bar and a figure each."""
    total, most = sum(values.values()) or 1, max(values.values(), default=0) or 1
    rows = "".join(
        f'<div class="bar-row"><span class="bar-name" title="{escape(name)}">{escape(name) or t("(empty)")}</span>'
        f'<span class="bar"><i style="width:{100 * count / most:.1f}%"></i></span><span class="num">{count:,}</span>'
        f'<span class="num muted">{count / total:.1%}</span></div>'
        for name, count in list(values.items())[:most_shown]
    )
    more = len(values) - most_shown
    return f'<div class="bars-list">{rows}</div>' + (f'<p class="muted small">{t("and {count} more", count=more)}</p>' if more > 0 else "")


def classes(counts: Mapping[str, Mapping[str, int]], t: Words, most_shown: int = 30) -> str:
    """Classes as stacked bars: a part for each split."""
    total: dict[str, int] = {}
    for split in counts.values():
        for name, count in split.items():
            total[name] = total.get(name, 0) + count
    order = sorted(total, key=lambda name: -total[name])
    most, whole = max(total.values(), default=0) or 1, sum(total.values()) or 1
    rows = []
    for name in order[:most_shown]:
        parts = "".join(
            f'<i class="{_TONES[split]}" style="width:{100 * count.get(name, 0) / most:.2f}%" title="{split}: {count.get(name, 0):,}"></i>'
            for split, count in counts.items()
        )
        rows.append(
            f'<div class="bar-row"><span class="bar-name" title="{escape(name)}">{escape(name)}</span><span class="bar">{parts}</span>'
            f'<span class="num">{total[name]:,}</span><span class="num muted">{total[name] / whole:.1%}</span></div>'
        )
    key = "".join(f'<span><i class="{_TONES[split]}"></i>{split}</span>' for split in counts)
    more = f'<p class="muted small">{t("and {count} more", count=len(order) - most_shown)}</p>' if len(order) > most_shown else ""
    return f'<p class="key">{key}</p><div class="bars-list">{"".join(rows)}</div>{more}'


def _figure(value: float, moment: bool = False) -> str:
    if moment:
        from tollway.kit.clock import from_ms

        return from_ms(round(value / 1000)).strftime("%Y-%m-%d")
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def facts(values: Mapping[str, Any]) -> str:
    """Names and values in a row."""
    cells = "".join(f"<div><dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd></div>" for name, value in values.items())
    return f'<dl class="facts">{cells}</dl>'
