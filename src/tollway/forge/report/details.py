"""The middle of the report: how it learned, what it confuses, how honest its scores are, where it is weak, examples."""

from collections.abc import Mapping
from typing import Any

from tollway.forge.evaluate import Figure
from tollway.forge.report import charts, objects
from tollway.forge.report.markup import Child, Markup, badge, card, table, tag
from tollway.forge.report.story import Story
from tollway.forge.report.words import Words

CLASSES_SHOWN = 20


def curves(story: Story, t: Words) -> Child:
    """Loss and validation figures over the steps."""
    grouped: dict[str, dict[str, Any]] = {}
    for name, curve in story.curves.items():
        side, _, figure = name.partition(".")
        grouped.setdefault(figure or side, {})[side] = curve
    drawn = []
    for figure in sorted(grouped, key=lambda one: (one != "loss", one)):
        titles = {"train": t("curves.train"), "validation": t("curves.validation")}
        title = t("curves.loss") if figure == "loss" else t.metric(figure)
        drawn.append(tag("div", tag("h3", title), charts.lines(grouped[figure], title, titles), cls="stack"))
    facts = _facts(story, t)
    if not drawn and not facts:
        return None
    return card(
        t("curves.title"),
        tag("div", drawn[:6], cls="pair") if drawn else None,
        facts,
        note=t("curves.note"),
        id="training",
    )


def _facts(story: Story, t: Words) -> Markup | None:
    wanted = {
        "method": "curves.method", "steps": "curves.steps", "seconds": "curves.seconds", "rows_per_s": "curves.rate",
        "tokens_per_s": "curves.tokens", "learning_rate": "curves.learning_rate",
    }  # fmt: skip
    made = story.training
    if made.get("tokens_per_s") == made.get("rows_per_s"):  # a row without tokens counts as one
        wanted.pop("tokens_per_s")
    rows = [
        (t(word), f"{made[name]:g}" if name == "learning_rate" else t.number(made[name]))
        for name, word in wanted.items()
        if isinstance(story.training.get(name), (int, float, str)) and story.training[name]
    ]
    return facts(rows, across=True) if rows else None


def facts(rows: list[tuple[Child, Child]], across: bool = False) -> Markup:
    """Names with their values."""
    return tag(
        "dl",
        [tag("div", tag("dt", name), tag("dd", value)) for name, value in rows],
        cls="facts across" if across else "facts",
    )


def confusion(story: Story, t: Words) -> Child:
    """Counts by truth and answer, tinted by their share of the row; for many classes the worst pairs only."""
    scores = story.scores
    if scores is None or not scores.confusion:
        return None
    labels, counts = scores.labels, scores.confusion
    if len(labels) > CLASSES_SHOWN:
        pairs = sorted(
            ((counts[a][b], a, b) for a in range(len(labels)) for b in range(len(labels)) if a != b and counts[a][b]),
            reverse=True,
        )[:15]
        rows = [(labels[a], labels[b], str(count)) for count, a, b in pairs]
        return card(
            t("confusion.title"),
            table((t("confusion.truth"), t("confusion.answer"), t("confusion.count")), rows, (2,)),
            note=t("confusion.pairs"),
        )
    body = []
    for truth, row in enumerate(counts):
        total = sum(row) or 1
        cells = []
        for given, count in enumerate(row):
            share = round(100 * count / total)
            tone = "right" if truth == given else "wrong"
            cells.append(
                tag(
                    "td",
                    f"{count:,}" if count else tag("span", "0", cls="muted"),
                    cls=f"cell {tone}",
                    style=f"--share: {share}%",
                )
            )
        body.append(tag("tr", tag("th", labels[truth], scope="row"), *cells))
    head = tag("tr", tag("th", ""), [tag("th", label, scope="col", cls="num") for label in labels])
    grid = tag("div", tag("table", tag("thead", head), tag("tbody", body), cls="confusion"), cls="scroll", tabindex="0")
    return card(t("confusion.title"), grid, note=t("confusion.note"), id="confusion")


def calibration(story: Story, t: Words) -> Child:
    """The reliability curve."""
    found = story.scores.calibration if story.scores else None
    if found is None or not found.points:
        return None
    said = [t("calibration.ece", ece=t.number(found.ece))]
    if found.temperature is not None and found.ece_after is not None and found.ece_after < found.ece:
        said.append(
            t("calibration.temperature", temperature=t.number(found.temperature), after=t.number(found.ece_after))
        )
    drawn = charts.reliability(found.points, t("calibration.title"), (t("calibration.sure"), t("calibration.right")))
    return card(t("calibration.title"), drawn, tag("p", " ".join(said), cls="small"), note=t("calibration.note"))


def classes(story: Story, t: Words) -> Child:
    """Precision, recall and F1 of each class, the weakest first."""
    scores = story.scores
    names = [name.removeprefix("f1.") for name in scores.metrics if name.startswith("f1.")] if scores else []
    if scores is None or len(names) < 2:
        return None
    names.sort(key=lambda name: scores.metrics[f"f1.{name}"].value or 0.0)
    rows = []
    for name in names[:40]:
        f1 = scores.metrics[f"f1.{name}"]
        rows.append((
            name, *(t.number(scores.metrics[f"{kind}.{name}"].value) for kind in ("precision", "recall")), t.number(f1.value),
            t.interval(f1.low, f1.high),
        ))  # fmt: skip
    heads = (t("quality.class"), t.metric("precision"), t.metric("recall"), t.metric("f1"), t("quality.interval"))
    return card(t("quality.classes"), table(heads, rows, (1, 2, 3, 4)), id="classes")


def slices(story: Story, t: Words) -> Child:
    """The main metric by part, and how far groups are apart."""
    scores = story.scores
    if scores is None or not scores.slices:
        return None
    metric = t.metric(scores.primary)
    rows = []
    last = ""
    for one in scores.slices:
        column = one.column if one.column != last else ""
        last = one.column
        weak = _weak(one.figure, scores.metrics[scores.primary])
        apart = (
            badge(t("slices.small")) if one.small else tag("span", t.signed(one.difference), cls="bad" if weak else "")
        )
        rows.append(
            (
                column,
                one.value,
                t.number(one.rows),
                t.number(one.figure.value),
                t.interval(one.figure.low, one.figure.high),
                apart,
            )
        )
    heads = (
        t("slices.column"),
        t("slices.part"),
        t("slices.rows"),
        metric,
        t("quality.interval"),
        t("slices.difference"),
    )
    parts: list[Child] = [table(heads, rows, (2, 3, 4, 5))]
    if any(gap.quality or gap.parity for gap in scores.gaps):
        parts += [tag("h3", t("slices.gaps")), _gaps(story, t), tag("p", t("slices.gap_note"), cls="muted small")]
    return card(t("slices.title"), *parts, note=t("slices.note", metric=metric), id="slices")


def _weak(part: Figure, whole: Figure) -> bool:
    """Whether a part is worse than the whole by more than its interval."""
    if whole.value is None or part.low is None or part.high is None:
        return False
    return part.high < whole.value if whole.higher else part.low > whole.value


def _gaps(story: Story, t: Words) -> Markup:
    scores = story.scores
    assert scores is not None

    def shown(figure: Any) -> str:
        return t.number(None) if figure is None else f"{t.number(figure.value)} ({t.interval(figure.low, figure.high)})"

    rows = [
        (
            gap.column,
            shown(gap.parity),
            shown(gap.opportunity),
            shown(gap.quality),
            ", ".join(gap.left_out) or t("none"),
        )
        for gap in scores.gaps
    ]
    heads = (
        t("slices.column"),
        t("slices.parity"),
        t("slices.opportunity"),
        t("slices.quality", metric=t.metric(scores.primary)),
        t("slices.left_out"),
    )
    return table(heads, rows, (1, 2, 3))


def noise(story: Story, t: Words) -> Child:
    """What noise costs."""
    scores = story.scores
    if scores is None or not scores.noise:
        return None
    metric = t.metric(scores.primary)
    most = max((abs(one.lost or 0.0) for one in scores.noise), default=0) or 1.0
    rows = []
    for one in scores.noise:
        width = round(100 * max(0.0, one.lost or 0.0) / most)
        bar = tag("span", cls="meter", style=f"--share: {width}%")
        level = "" if one.kind == "case" else f"{one.level:g}"
        rows.append(
            (
                t.noise(one.kind),
                level,
                t.number(one.value),
                t.signed(None if one.lost is None else -one.lost),
                t.interval(_minus(one.high), _minus(one.low)),
                bar,
            )
        )
    heads = (
        t("noise.kind"),
        t("noise.level"),
        t("noise.value", metric=metric),
        t("noise.lost"),
        t("quality.interval"),
        "",
    )
    return card(t("noise.title"), table(heads, rows, (1, 2, 3, 4)), note=t("noise.note", metric=metric), id="noise")


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def examples(story: Story, t: Words) -> Child:
    """Some answers of each kind; what is wrong and sure comes first."""
    found = story.scores.examples if story.scores else {}
    groups = [(name, rows) for name, rows in found.items() if rows]
    if not groups:
        return None
    parts: list[Child] = []
    for name, rows in groups:
        parts += [
            tag("h3", t(f"examples.{name}")),
            tag("div", [_example(row, name, t) for row in rows], cls="examples"),
        ]
    return card(t("examples.title"), *parts, id="examples")


def samples(story: Story, t: Words) -> Child:
    """What a language model writes after the beginnings of held-out rows."""
    found = story.training.get("samples") or []
    if not found:
        return None
    rows = [(one["prompt"], one["text"], t.number(one["temperature"])) for one in found]
    heads = (t("samples.prompt"), t("samples.text"), t("samples.temperature"))
    return card(t("samples.title"), table(heads, rows, (2,)), note=t("samples.note"))


def _example(row: Mapping[str, Any], group: str, t: Words) -> Markup:
    tone = "good" if group in ("right", "best") else "bad"
    answer = row["answer"]
    score = answer.get("score")
    said = answer.get(
        "label", answer.get("answer", answer.get("text", answer.get("value", answer.get("entities", answer.get("boxes", score)))))
    )
    sure = f" {t.percent(score)}" if isinstance(score, float) and "label" in answer else ""
    truth = next(iter(row["truth"].values()), None)
    line = tag(
        "p",
        badge(f"{t('examples.truth')}: {_short(truth, t)}"),
        " ",
        badge(f"{t('examples.answer')}: {_short(said, t)}{sure}", tone),
        cls="small",
    )
    picture = (objects.drawn(row) if "boxes" in answer else None) or shown(row["input"])
    return tag("div", picture, line, cls="example")


def _short(value: Any, t: Words) -> str:
    if isinstance(value, list):
        return ", ".join(str(one.get("text", one.get("label", one))) if isinstance(one, dict) else str(one) for one in value)[:120] or t(
            "none"
        )
    return t.number(value)[:160]


def shown(inputs: Mapping[str, Any]) -> Child:
    """An input as a person sees it: a picture, a text, or fields."""
    if isinstance(inputs.get("image"), str) and inputs["image"].startswith("data:"):
        return tag("img", src=inputs["image"], alt="", cls="picture")
    if set(inputs) == {"text"}:
        return tag("p", str(inputs["text"]))
    if "tokens" in inputs:
        return tag("p", " ".join(map(str, inputs["tokens"])))
    rows = [f"{name}: {_plainly(value)}" for name, value in list(inputs.items())[:12]]
    return tag("p", " · ".join(rows) + (" …" if len(inputs) > 12 else ""), cls="small")


def _plainly(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
