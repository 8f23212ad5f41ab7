"""The report: one HTML file a run, the model card that travels with the package, and several runs side by side.

report.write(runs, record, "zh") -> Path to report.zh.html; in English report.html (card.md lies beside them)
report.compare(runs, records)    -> rows for `tollway run compare`
"""

from pathlib import Path

from tollway.forge.report import card, page
from tollway.forge.report.comparing import compare
from tollway.forge.report.story import Story, gather
from tollway.forge.steps import Record, Runs

__all__ = ["Story", "compare", "file_name", "gather", "render", "write"]


def write(runs: Runs, record: Record, lang: str = "en") -> Path:
    """Write `report.html` (`report.zh.html` in another language) and `card.md` into the run's folder, again if they are
    there; says where the report is."""
    story = gather(runs, record)
    path = story.folder / file_name(lang)
    document = page.render(story, lang)
    path.write_text(document, encoding="utf-8")
    (story.folder / "card.md").write_text(card.render(story, lang), encoding="utf-8")
    return path


def file_name(lang: str) -> str:
    """What a run's report is called."""
    return "report.html" if lang == "en" else f"report.{lang}.html"


def render(story: Story, lang: str = "en") -> str:
    """The HTML of a story."""
    return page.render(story, lang)
