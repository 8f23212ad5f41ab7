"""Pages that are there in two languages say the same: headings, code, and the figures of every row of a table. Where prose
has changed, a digest in the Chinese page says whether somebody looked at it since (`twins.py`)."""

import re
from pathlib import Path

import pytest

from tests.shape import twins
from tests.shape.source import ROOT

ENGLISH, CHINESE = ROOT / "docs", ROOT / "docs" / "zh"
PAGES = [
    "admission", "api", "batches", "compress-and-convert", "datasets", "deployments", "economics", "edge", "engines", "evaluation",
    "explanations", "factory", "getting-started", "language-models", "models-from-scratch", "observability", "operations", "replicas", "scale-out", "security", "selling", "speech", "training",
]  # fmt: skip
FENCED = re.compile(r"^```(\w*)(?: run)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^    .*\n|^\n(?=    ))+", re.MULTILINE)
COMMENT = re.compile(r"\s+# .*")
FIGURE = re.compile(r"\d[\d,.]*\d|\d")
CODE = re.compile(r"`[^`]*`")
SPELT = {"twice": "2", "three": "3", "eight": "8", "five": "5", "double": "2"}


def outside_code(text: str) -> str:
    return INDENTED.sub("", FENCED.sub("", text))


def headings(text: str) -> list[int]:
    """Their levels, in order."""
    return [len(one) for one in re.findall(r"^(#+) ", outside_code(text), re.MULTILINE)]


def code(text: str) -> list[str]:
    """Blocks without their comments, which are in the reader's language."""
    blocks = [body for _, body in FENCED.findall(text)] + INDENTED.findall(FENCED.sub("", text))
    return ["\n".join(COMMENT.sub("", line).rstrip() for line in one.strip("\n").splitlines()) for one in blocks]


def tables(text: str) -> list[tuple[list[str], list[str]]]:
    """Of each row: the names in code, and the figures, in any order; a figure that English spells out counts as one."""
    rows = []
    for line in re.findall(r"^\|.*$", outside_code(text), re.MULTILINE):
        if re.fullmatch(r"[|\s:-]+", line):
            continue
        said = CODE.sub(" ", line)
        for word, figure in SPELT.items():
            said = re.sub(rf"\b{word}\b", figure, said)
        rows.append((sorted(set(CODE.findall(line))), sorted(set(FIGURE.findall(said)))))
    return rows


def differences(english: str, chinese: str) -> list[str]:
    """What one page has and the other has not."""
    found = []
    if headings(english) != headings(chinese):
        found.append(f"headings: {headings(english)} and {headings(chinese)}")
    for number, (one, other) in enumerate(zip(code(english), code(chinese), strict=False)):
        if one != other:
            found.append(f"code {number}: {one!r} and {other!r}")
    if len(code(english)) != len(code(chinese)):
        found.append(f"{len(code(english))} and {len(code(chinese))} blocks of code")
    mine, theirs = tables(english), tables(chinese)
    found += [f"row: {one} and {other}" for one, other in zip(mine, theirs, strict=False) if one != other]
    return found + ([f"{len(mine)} and {len(theirs)} rows"] if len(mine) != len(theirs) else [])


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_every_page_of_the_list_has_its_twin_and_no_other_page_has_one():
    assert sorted(page.stem for page in CHINESE.glob("*.md")) == sorted({*PAGES})


@pytest.mark.parametrize("name", PAGES)
def test_a_page_and_its_twin_say_the_same(name):
    english, chinese = read(ENGLISH / f"{name}.md"), read(CHINESE / f"{name}.md")
    assert differences(english, chinese) == []


@pytest.mark.parametrize("name", PAGES)
def test_twins_link_each_other_at_the_top_and_the_chinese_one_stays_in_chinese(name):
    assert read(ENGLISH / f"{name}.md").splitlines()[2] == f"English | [简体中文](zh/{name}.md)"
    chinese = read(CHINESE / f"{name}.md")
    assert chinese.splitlines()[2] == f"[English](../{name}.md) | 简体中文"
    links = re.findall(r"\]\((?:\.\./)([a-z-]+)\.md\)", "\n".join(chinese.splitlines()[3:]))
    assert not [link for link in links if link in PAGES], "there is a Chinese page of it"


def test_the_chinese_readme_leads_to_the_chinese_pages():
    links = re.findall(r"\]\(docs/([a-z-]+)\.md\)", read(ROOT / "README.zh-CN.md"))
    assert not [link for link in links if link in PAGES]


def test_every_twin_was_looked_at_since_its_english_page_changed():
    """Red: look at the pages it names, then `make twins ARGS=NAME`."""
    assert twins.behind() == []


def test_a_word_that_changes_is_noticed_and_a_page_that_was_looked_at_is_not():
    chinese = twins.noted("# 甲\n\n文字。\n", PAGE)
    assert twins.follows(chinese) == twins.digest(PAGE) == twins.digest(PAGE.replace("\n", " \n"))
    assert twins.follows(chinese) != twins.digest(PAGE.replace("all", "any"))
    assert twins.noted(chinese, PAGE) == chinese and twins.follows("# 甲\n") == ""
    assert twins.noted(chinese, "# B\n").count("follows") == 1


PAGE = "# A\n\n```bash run\nmake   # all\n```\n\n| a | b |\n|---|---|\n| `x` | 12 of 1,000 |\n"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (("make   # all", "make   # 全部"), 0),
        (("```bash run", "```bash"), 0),
        (("1,000", "1,001"), 1),
        (("`x`", "`y`"), 1),
        (("make ", "make it "), 1),
        (("# A\n", "# A\n\n## B\n"), 1),
        (("| `x` | 12 of 1,000 |\n", ""), 1),
    ],
)
def test_a_difference_is_found_and_a_translation_is_none(change, found):
    assert len(differences(PAGE, PAGE.replace(*change))) == found
