"""The report's explanations: inputs tinted by weight, and whether the weights say something true."""

from collections.abc import Mapping, Sequence
from typing import Any

from tollway.forge.report import charts
from tollway.forge.report.details import shown
from tollway.forge.report.markup import Child, Markup, badge, card, table, tag
from tollway.forge.report.story import Story
from tollway.forge.report.words import Words

BARS_MAX = 10
TOKENS_MAX = 24


def section(story: Story, t: Words) -> Child:
    """Some answers explained by each method, then the test of the explanations themselves."""
    found = story.explanations
    items = found.get("items") or []
    if not items:
        return None
    parts: list[Child] = [tag("div", [_item(item, t) for item in items], cls="reasons")]
    rolled = [one for item in items for one in item["by"].values() if (one.get("extra") or {}).get("rollout")]
    short = min(rolled, key=lambda one: len(one["extra"]["tokens"]), default=None)
    if short is not None and len(short["extra"]["tokens"]) <= TOKENS_MAX:
        extra = short["extra"]
        label = t("explain.attention", layers=extra["layers"])
        parts += [tag("h3", label), charts.heat(extra["rollout"], extra["tokens"], label)]
    return card(t("explain.title"), *parts, note=t("explain.note"), id="explanations")


def faithfulness(story: Story, t: Words) -> Child:
    """Deletion and insertion against random orders, by method."""
    found = story.explanations
    methods: Mapping[str, Mapping[str, float]] = found.get("methods") or {}
    if not methods:
        return None
    rows = []
    for name, one in methods.items():
        gain = (
            f"{t.signed(one['gain'])} ({t.interval(one.get('gain_low'), one.get('gain_high'))})"
            if "gain" in one
            else t.number(None)
        )
        law = f"{one['largest_gap']:.2g}" if "largest_gap" in one else t("none")
        rows.append(
            (
                tag("code", name),
                gain,
                t.percent(one.get("better_than_random")),
                law,
                t.number(round(one.get("evaluations", 0))),
            )
        )
    heads = (t("explain.method"), t("explain.gain"), t("explain.wins"), t("explain.law"), t("explain.asked"))
    drawn = [_curves(name, found["items"], t) for name in methods]
    notes = [tag("p", t("explain.law_note"), cls="muted small")]
    notes += [
        tag("p", tag("code", name), " ", t("explain.skipped", reason=reason), cls="muted small")
        for name, reason in (found.get("skipped") or {}).items()
        if name not in methods
    ]
    return card(
        t("explain.faithful"),
        table(heads, rows, (1, 2, 3, 4)),
        tag("div", drawn, cls="pair"),
        *notes,
        note=t("explain.faithful_note"),
    )


def _curves(method: str, items: Sequence[Mapping[str, Any]], t: Words) -> Child:
    """The mean over rows of what happens as the input is filled in by importance, and at random."""
    import numpy as np  # lazy: most reports need none

    grid = np.linspace(0, 1, 11)
    names = {
        "insertion_curve": t("explain.insertion"),
        "deletion_curve": t("explain.deletion"),
        "insertion_curve_random": t("explain.random"),
    }
    sums: dict[str, list[Any]] = {name: [] for name in names}
    for item in items:
        measured: Mapping[str, Any] = (item["by"].get(method) or {}).get("faithfulness") or {}
        for name in names if measured else ():
            sums[name].append(np.interp(grid, measured["steps"], measured[name]))
    if not sums["insertion_curve"]:
        return None
    curves = {
        name: list(zip((grid * 100).tolist(), np.mean(rows, axis=0).tolist(), strict=True))
        for name, rows in sums.items()
    }
    return tag(
        "div",
        tag("h3", tag("code", method)),
        charts.lines(curves, f"{method}: {t('explain.faithful')}", names, " %"),
        cls="stack",
    )


def _item(item: Mapping[str, Any], t: Words) -> Markup:
    parts = [
        tag("div", _head(method, one, t), _drawn(one, item, t), cls="reason") for method, one in item["by"].items()
    ]
    truth = (
        tag("p", badge(f"{t('examples.truth')}: {t.number(item['truth'])}")) if item.get("truth") is not None else None
    )
    plain = shown({name: value for name, value in item["input"].items() if name not in ("label", "target")})
    kind = next(iter(item["by"].values()))["kind"]
    if kind == "image":
        return tag("div", truth, tag("div", plain, parts, cls="pictures"), cls="example")
    return tag("div", truth, plain if kind == "tabular" else None, *parts, cls="example")


def _head(method: str, one: Mapping[str, Any], t: Words) -> Markup:
    ends = t("explain.base", base=t.number(one["base"]), value=t.number(one["value"]))
    if one["kind"] == "image":
        return tag(
            "p",
            tag("code", method),
            tag("br"),
            tag("span", f"{t('explain.target')} {one['target']} · {ends}", cls="muted small"),
        )
    return tag(
        "p",
        tag("code", method),
        " ",
        badge(f"{t('explain.target')} {one['target']}", "info"),
        " ",
        tag("span", ends, cls="muted small"),
    )


def _drawn(one: Mapping[str, Any], item: Mapping[str, Any], t: Words) -> Child:
    units = one["units"]
    if one["kind"] == "text":
        return _words(units)
    if one["kind"] == "image":
        boxes = [(unit["box"], unit["weight"]) for unit in units]
        wide, tall = max(box[2] for box, _ in boxes), max(box[3] for box, _ in boxes)
        return charts.overlay(str(item["input"].get("image", "")), wide, tall, boxes, t("explain.title"))
    best = sorted(units, key=lambda unit: -abs(unit["weight"]))[:BARS_MAX]
    rows = [(f"{unit['field']} = {_value(unit.get('value'))}", unit["weight"]) for unit in best]
    return charts.bars(rows, t("explain.title"))


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _words(units: Sequence[Mapping[str, Any]]) -> Markup:
    """A text whose words carry their weight as the depth of their colour; against is underlined too, for those who see none."""
    reach = max((abs(unit["weight"]) for unit in units), default=0) or 1.0
    words = []
    for unit in units:
        share = round(100 * abs(unit["weight"]) / reach)
        tone = "for" if unit["weight"] >= 0 else "against"
        words.append(
            tag(
                "span",
                unit["text"],
                cls=f"word {tone}" if share >= 6 else "word",
                style=f"--share: {share}%",
                title=charts.signed(unit["weight"]),
            )
        )
    return tag("p", words, cls="weighed")
