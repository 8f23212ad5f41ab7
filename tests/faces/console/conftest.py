"""A seeded shop per worker, a copy of it per test, a client without and a browser with scripts."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from tests.faces.console import seed
from tests.faces.console.stage import Client, Site, opened, serve, tell_a_story
from tollway.faces.console import routes

CACHE = Path(__file__).parents[2] / ".cache"
AXE = "4.14.1"


@pytest.fixture(scope="session")
def seeded_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sixty days, built once."""
    home = tmp_path_factory.mktemp("seeded") / "home"
    seed.seed(home, share=0.25).db.close()
    return home


@pytest.fixture
def shop(seeded_home: Path, tmp_path: Path) -> Iterator[seed.SeededShop]:
    """A copy of the seeded shop that a test may change."""
    yield from opened(seeded_home, tmp_path / "home")


@pytest.fixture
def new_client(shop: seed.SeededShop) -> Callable[[], Client]:
    """Makes clients that share one running console."""
    app = Starlette(routes=routes(shop, tell_a_story))
    return lambda: Client(app, base_url=shop.settings.url, follow_redirects=False)


@pytest.fixture
def anyone(new_client: Callable[[], Client]) -> Client:
    return new_client()


@pytest.fixture
def operator(new_client: Callable[[], Client]) -> Client:
    return new_client().sign_in(seed.OPERATOR)


@pytest.fixture
def buyer(new_client: Callable[[], Client]) -> Client:
    return new_client().sign_in(seed.BUYER)


@pytest.fixture
def site(shop: seed.SeededShop) -> Iterator[Site]:
    """A served copy that a test may change."""
    found = serve(shop)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def still_site(seeded_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A served copy that no test changes (beyond signing in)."""
    for shop in opened(seeded_home, tmp_path_factory.mktemp("still") / "home"):
        found = serve(shop)
        yield found
        found.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's browser, driven by Playwright."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The accessibility checker's source: a test tool, fetched once and never shipped."""
    CACHE.mkdir(exist_ok=True)
    script = CACHE / f"axe-core-{AXE}.min.js"
    if not script.exists():
        folder = CACHE / f"axe-{os.getpid()}"  # every worker may be at it
        folder.mkdir()
        subprocess.run(["npm", "pack", "--silent", f"axe-core@{AXE}"], cwd=folder, check=True, capture_output=True)
        subprocess.run(["tar", "xzf", f"axe-core-{AXE}.tgz"], cwd=folder, check=True)
        (folder / "package" / "axe.min.js").replace(script)
        shutil.rmtree(folder)
    return script.read_text(encoding="utf-8")
