"""Two languages, the same words, and no text outside the dictionaries."""

import re
from pathlib import Path
from string import Formatter

import pytest

from tollway.artifacts import manifest
from tollway.faces.console import words
from tollway.sell import catalog
from tollway.serve import models

ROOT = Path(words.__file__).parent
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
CODE = sorted(ROOT.glob("*.py"))
NAMED = re.compile(r"""\bnamed\(\s*'([a-z_.]+)'""")  # a group of names
USED = re.compile(r"""\bt\(\s*f?(["'])([a-z0-9_.{}]+)\1\s*(~?)""")


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_both_languages_know_the_same_words_with_the_same_placeholders():
    english, chinese = words.dictionary("en"), words.dictionary("zh")
    assert english.keys() == chinese.keys()
    assert {n: placeholders(english[n]) for n in english} == {n: placeholders(chinese[n]) for n in english}


def test_chinese_is_chinese():
    same = {name for name, text in words.dictionary("zh").items() if text == words.dictionary("en")[name]}
    assert same <= {"brand", "plan.none", "invoice.pdf"}


def used() -> tuple[set[str], set[str]]:
    """Names asked for in templates and code: whole ones, and beginnings that are completed at run time."""
    whole, begun = set(), set()
    for path in [*TEMPLATES, *CODE]:
        for _, name, joined in USED.findall(path.read_text(encoding="utf-8")):
            if joined or "{" in name:
                begun.add(name.split("{")[0])
            else:
                whole.add(name)
        begun |= {f"{group}." for group in NAMED.findall(path.read_text(encoding="utf-8"))}
    return whole, begun


def test_every_word_asked_for_exists():
    whole, begun = used()
    names = words.dictionary("en").keys()
    assert whole - names == set()
    assert {start for start in begun if not any(name.startswith(start) for name in names)} == set()


def test_every_kind_of_model_and_every_meter_has_a_name():
    names = words.dictionary("en").keys()
    kinds = {*manifest.KINDS, *models.UPSTREAM_KINDS}
    assert {kind for kind in kinds if f"model.kinds.{kind}" not in names} == set()
    assert {meter for meter in catalog.METERS if f"meter.{meter}" not in names} == set()


def test_no_word_is_left_over():
    whole, begun = used()
    begun |= {"done.", "wallet.kind.", "confirm."}
    whole |= {"error.too_often"}  # said by the gateway, before a visit begins
    assert {
        n for n in words.dictionary("en") if n not in whole and not any(n.startswith(start) for start in begun)
    } == set()


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_hold_no_text_of_their_own(path: Path):
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", " ", text, flags=re.S)
    text = re.sub(
        r"<code>(tollway [^<]*|client\.[^<]*|Authorization: Bearer)</code>", " ", text
    )  # code is the same in every language
    spoken = re.findall(r'(?:aria-label|title|placeholder|alt)="([^"]*)"', text)
    text = re.sub(r"<!doctype html>|<[^>]*>", " ", text, flags=re.S)
    assert not [found for found in [text, *spoken] if re.search(r"[^\W\d_]{2,}", found)], text.split()


@pytest.mark.parametrize(
    ("asked", "cookie", "header", "expected"),
    [
        (None, None, "", "en"),
        (None, None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, None, "fr, en;q=0.4, zh;q=0.7", "zh"),
        (None, None, "zh;q=nonsense, de", "en"),
        (None, "zh", "en-US", "zh"),
        ("en", "zh", "zh", "en"),
        ("xx", "yy", "zh", "zh"),
    ],
)
def test_the_language_is_asked_for_then_remembered_then_preferred(asked, cookie, header, expected):
    assert words.choose(asked, cookie, header) == expected
