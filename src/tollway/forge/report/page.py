"""The page: one HTML file that loads nothing, in the console's look, for screens light and dark and for paper."""

from importlib.resources import files

from tollway.forge.report import details, objects, opening, origins, reasons
from tollway.forge.report.markup import Child, Markup, tag
from tollway.forge.report.story import Story
from tollway.forge.report.words import Words

MARK = Markup(
    '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M4 21V9.5a8 8 0 0 1 16 0V21M12 21v-2.2M12 15.6v-2.2M12 10.2V8.4" '
    'fill="none" stroke="currentColor" stroke-width="2.6" stroke-linecap="round"/></svg>'
)
# the browser is told too: nothing from outside, no script
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
CONTENTS = (
    ("gates", "gates.title"), ("quality", "quality.title"), ("training", "curves.title"), ("confusion", "confusion.title"),
    ("slices", "slices.title"), ("noise", "noise.title"), ("examples", "examples.title"), ("explanations", "explain.title"),
    ("compression", "compress.title"), ("formats", "convert.title"), ("data", "data.title"), ("lineage", "lineage.title"),
    ("deploy", "deploy.title"),
)  # fmt: skip


def render(story: Story, lang: str = "en") -> str:
    """The whole document."""
    t = Words(lang)
    body = tag("main", sections(story, t))
    title = f"{story.record.recipe} · {t('head.report')}"
    style = files("tollway.forge.report").joinpath("style.css").read_text(encoding="utf-8")
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY), tag("title", title), tag("style", Markup(style)),
    )  # fmt: skip
    return f"<!doctype html>\n{tag('html', head, tag('body', body), lang=t('lang'))}\n"


def sections(story: Story, t: Words) -> list[Child]:
    """Top to bottom: the verdict, why to believe it, where it is weak, what it is made of, how to sell it."""
    listed: list[Child] = [
        opening.head(story, t),
        opening.verdict(story, t),
        opening.warnings(story, t),
        opening.figures(story, t),
        opening.gates(story, t),
        opening.quality(story, t),
        opening.against(story, t),
        details.curves(story, t),
        columns(column(details.confusion(story, t), details.classes(story, t)), details.calibration(story, t)),
        objects.classes(story, t),
        details.slices(story, t),
        details.noise(story, t),
        details.examples(story, t),
        details.samples(story, t),
        reasons.section(story, t),
        reasons.faithfulness(story, t),
        origins.compression(story, t),
        origins.formats(story, t),
        origins.data(story, t),
        origins.lineage(story, t),
        opening.deploy(story, t),
    ]
    whole = "".join(one for one in listed if isinstance(one, str))
    links = [tag("a", t(name), href=f"#{place}") for place, name in CONTENTS if f'id="{place}"' in whole]
    brand = tag("div", MARK, "Tollway", cls="brand")
    top = tag("div", brand, tag("nav", links, aria_label=t("head.contents")), cls="top")
    return [top, *listed, tag("footer", t("head.print"))]


def column(*parts: Child) -> Child:
    """One under the other."""
    there = [part for part in parts if part is not None]
    return tag("div", there, cls="column") if there else None


def columns(*parts: Child) -> Child:
    """Side by side what belongs together."""
    there = [part for part in parts if part is not None]
    return tag("div", there, cls="columns") if there else None
