"""Docs are tests: the generated pages are current, links lead somewhere, and every example marked `run` runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.shape.source import ROOT, SOURCE
from tollway.faces.cli import reference
from tollway.kit.settings import TABLE

PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(bash|python) run\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shown(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_reference_of_commands_is_current():
    assert (ROOT / "docs" / "cli.md").read_text() == reference.cli(), "run: make docs"


def test_the_reference_of_settings_is_current():
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == reference.settings(), "run: make docs"
    assert all(f"`TOLLWAY_{one.name.upper()}`" in page and one.help for one in TABLE)


def test_the_reference_of_recipes_is_current():
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert page == reference.recipes(), "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


def test_the_readmes_are_twins():
    """Same headings by number, same code, line by line but for the comments; short enough to be read."""
    english, chinese = PAGES[0].read_text(), PAGES[1].read_text()
    assert english.count("\n## ") == chinese.count("\n## ")
    bare = [[re.sub(r"\s+#.*", "", code) for _, code in BLOCK.findall(text)] for text in (english, chinese)]
    assert bare[0] == bare[1] and bare[0]
    assert max(english.count("\n"), chinese.count("\n")) <= 120


def test_every_command_a_page_names_exists():
    from tollway.faces.cli.root import COMMANDS

    named = {
        word
        for page in PAGES
        for word in re.findall(r"`tollway ([a-z]+)\b|^tollway ([a-z]+)\b", page.read_text(), re.M)
    }
    assert {word for pair in named for word in pair if word} <= set(COMMANDS)


def test_every_error_code_a_page_may_show_is_in_the_source():
    text = (ROOT / "docs" / "api.md").read_text()
    classes = (SOURCE / "kit" / "errors.py").read_text()
    for status in re.findall(r"^\| (\d{3}) \|", text, re.MULTILINE):
        assert f"status = {status}" in classes


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A running shop with the starter models; gives the environment its examples need."""
    home = tmp_path_factory.mktemp("docs") / "home"
    port = free_port()
    command = [sys.executable, "-m", "tollway", "up", "--home", str(home), "--port", str(port), "--json"]
    gateway = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        welcome = json.loads(gateway.stdout.readline())
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        yield os.environ | {
            "PATH": path, "TOLLWAY_HOME": str(home), "TOLLWAY_KEY": welcome["key"], "TOLLWAY_URL": welcome["url"],
        }  # fmt: skip
    finally:
        gateway.terminate()
        gateway.communicate(timeout=300)


@pytest.mark.engine
@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=shown)
def test_the_examples_run(page, live, tmp_path):
    for language, code in BLOCK.findall(page.read_text()):
        code = code.replace("http://127.0.0.1:8080", live["TOLLWAY_URL"])
        shell = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
        run = subprocess.run(shell, env=live, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert run.returncode == 0, f"{code}\n{run.stdout}\n{run.stderr}"
        assert run.stdout.strip(), code
        assert '"error"' not in run.stdout, run.stdout
