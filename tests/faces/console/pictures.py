"""Draws the pictures of docs/img from the seeded shop: `python -m tests.faces.console.pictures` (needs Pillow for small files)."""

import json
import tempfile
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from PIL import Image
from playwright.sync_api import sync_playwright
from starlette.responses import Response

from tests.faces.console import seed
from tests.faces.console.stage import serve
from tollway.sell import tables as sell

FOLDER = Path(__file__).parents[3] / "docs" / "img"
PICTURES = (  # name, who, address, language, look, width, height
    ("overview", seed.OPERATOR, "/overview?range=24h", "en-US", "light", 1280, 800),
    ("overview-dark", seed.OPERATOR, "/overview?range=24h", "en-US", "dark", 1280, 800),
    ("overview-zh", seed.OPERATOR, "/overview?range=24h", "zh-CN", "light", 1280, 800),
    ("overview-zh-dark", seed.OPERATOR, "/overview?range=24h", "zh-CN", "dark", 1280, 800),
    ("models", seed.OPERATOR, "/models", "en-US", "light", 1280, 800),
    ("organizations", seed.OPERATOR, "/organizations", "en-US", "light", 1280, 800),
    ("organization", seed.OPERATOR, "FIRST /organizations", "en-US", "light", 1280, 800),
    ("plans", seed.OPERATOR, "/plans", "en-US", "light", 1280, 800),
    ("plan", seed.OPERATOR, "/plans/starter", "en-US", "light", 1280, 800),
    ("usage", seed.OPERATOR, "/usage", "en-US", "light", 1280, 800),
    ("invoice", seed.OPERATOR, "FIRST /invoices?status=finalised", "en-US", "light", 1280, 800),
    ("economics", seed.OPERATOR, "/economics", "en-US", "light", 1280, 800),
    ("quick-start", seed.BUYER, "/start", "en-US", "light", 1280, 800),
    ("quick-start-zh", seed.BUYER, "/start", "zh-CN", "dark", 1280, 800),
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
        page.fill("#prompt", "What is a toll road, in one sentence?")
        page.keyboard.press("Enter")
        page.wait_for_selector("#send:visible")
    page.wait_for_timeout(900 if name == "playground" else 300)
    target = FOLDER / f"{name}.png"
    page.screenshot(path=target)
    Image.open(target).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    context.close()


ANSWER = "A toll road is a road that travellers pay to use, so that those who drive on it also pay for building and keeping it."


def answering(shop: seed.SeededShop) -> Any:
    """A playground that gives ANSWER and the receipt of the newest chat."""
    with shop.db.read() as conn:
        event = sell.usage_event.c
        org_id = sa.select(sell.member.c.org_id).where(sell.member.c.email == seed.BUYER).scalar_subquery()
        newest = sa.select(event.id).where(event.org_id == org_id, event.model == seed.CHAT, event.status == "ok")
        event_id = conn.execute(newest.order_by(event.at_ms.desc()).limit(1)).scalar_one()

    async def answer(_org_id: str, _body: dict[str, Any]) -> Response:
        piece = json.dumps({"choices": [{"index": 0, "delta": {"content": ANSWER}}]})
        return Response(
            f"data: {piece}\n\ndata: [DONE]\n\n", headers={"x-request-id": event_id.replace("evt_", "req_")}
        )

    return answer


def main() -> None:
    """All pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        shop = seed.seed(Path(folder) / "home")
        site = serve(shop, answering(shop))
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        for picture in PICTURES:
            draw(browser, site.url, *picture)
        browser.close()
        site.stop()


if __name__ == "__main__":
    main()
