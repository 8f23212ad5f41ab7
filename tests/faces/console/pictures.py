"""Draws the pictures of docs/img from the seeded shop: `python -m tests.faces.console.pictures` (needs Pillow for small files)."""

import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.faces.console import seed
from tests.faces.console.stage import serve

FOLDER = Path(__file__).parents[3] / "docs" / "img"
PICTURES = (  # name, who, address, language, look, width, height
    ("overview", seed.OPERATOR, "/overview?range=24h", "en-US", "light", 1280, 800),
    ("overview-dark", seed.OPERATOR, "/overview?range=24h", "en-US", "dark", 1280, 800),
    ("overview-zh", seed.OPERATOR, "/overview?range=24h", "zh-CN", "light", 1280, 800),
    ("models", seed.OPERATOR, "/models", "en-US", "light", 1280, 800),
    ("organizations", seed.OPERATOR, "/organizations", "en-US", "light", 1280, 800),
    ("organization", seed.OPERATOR, "FIRST /organizations", "en-US", "light", 1280, 800),
    ("plans", seed.OPERATOR, "/plans", "en-US", "light", 1280, 800),
    ("plan", seed.OPERATOR, "/plans/starter", "en-US", "light", 1280, 800),
    ("usage", seed.OPERATOR, "/usage", "en-US", "light", 1280, 800),
    ("invoice", seed.OPERATOR, "FIRST /invoices?status=finalised", "en-US", "light", 1280, 800),
    ("economics", seed.OPERATOR, "/economics", "en-US", "light", 1280, 800),
    ("quick-start", seed.BUYER, "/start", "en-US", "light", 1280, 800),
    ("keys", seed.BUYER, "/keys", "en-US", "light", 1280, 800),
    ("playground", seed.BUYER, "/playground", "en-US", "dark", 1280, 800),
    ("my-plan", seed.BUYER, "/plan", "zh-CN", "light", 1280, 800),
    ("telephone", seed.OPERATOR, "/overview?range=30d", "en-US", "light", 390, 844),
)


def draw(
    browser: Any, url: str, name: str, email: str, path: str, locale: str, look: str, width: int, height: int
) -> None:
    """One picture, in 256 colours."""
    context = browser.new_context(viewport={"width": width, "height": height}, locale=locale, color_scheme=look)
    page = context.new_page()
    page.goto(f"{url}/console/login")
    page.fill("[name=email]", email)
    page.fill("[name=password]", seed.PASSWORD)
    page.press("[name=password]", "Enter")
    page.wait_for_url(lambda address: "/login" not in address)
    first = path.startswith("FIRST ")
    page.goto(f"{url}/console{path.removeprefix('FIRST ')}")
    if first:
        page.goto(url + page.get_attribute("tbody th a", "href"))
    if name == "playground":
        page.fill("#prompt", "Can you hear me?")
        page.keyboard.press("Enter")
        page.wait_for_selector("#send:visible")
    page.wait_for_timeout(300)
    target = FOLDER / f"{name}.png"
    page.screenshot(path=target)
    Image.open(target).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    context.close()


def main() -> None:
    """All pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site = serve(seed.seed(Path(folder) / "home"))
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        for picture in PICTURES:
            draw(browser, site.url, *picture)
        browser.close()
        site.stop()


if __name__ == "__main__":
    main()
