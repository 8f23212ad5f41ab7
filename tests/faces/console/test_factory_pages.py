"""Runs and datasets in a real browser: what stands there comes from the home's folders, and a running one lives."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from playwright.sync_api import expect

from tests.faces.console import seed
from tests.faces.console.stage import RECIPE, Site, opened, serve
from tests.faces.console.test_browser import LOOKS, faults
from tests.faces.console.test_browser import opened as browsing
from tollway.forge import data, steps
from tollway.kit.errors import Conflict

pytestmark = pytest.mark.browser


class Factory:
    """A served shop with a dataset of two versions, a run that is done, one that goes on and one that failed."""

    def __init__(self, shop: seed.SeededShop) -> None:
        home = Path(shop.settings.home)
        shelf = data.Shelf(home / "datasets", shop.clock)
        for size in (4, 6):
            rows = {"text": [f"text {n} <b>" for n in range(size)], "label": ["good", "bad"] * (size // 2)}
            self.dataset = shelf.add("reviews", {"train": pa.table(rows)}, source="reviews.csv", licence="CC0-1.0")
        runs = steps.Runs(home, shop.clock)
        self.done, self.going, self.broken = (
            runs.begin(RECIPE, "reviews", "text-classification", steps.Cost(116_000, "USD")) for _ in range(3)
        )
        for run in (self.done, self.going):
            for at in range(1, 30):
                run.emit({"kind": "metric", "name": "loss", "at": at, "value": 3 / at})
        self.going.record.step, self.going.record.step_began_ms = "train", shop.clock.now_ms() - 90_000
        self.going.save()
        self.going.emit({"kind": "progress", "step": "train", "done": 29, "total": 100})
        self.done.record.metrics |= {"accuracy": 0.91, "not_better_than": "majority"}
        self.done.finish("done")
        self.broken.finish("failed", Conflict("The loss is NaN.", hint="Lower the learning rate."))
        self.missed = runs.begin(RECIPE + f"\n# {'long ' * 60}", "strict", "text-classification", steps.Cost(116_000, "USD"))
        gate = {"name": "accuracy", "rule": ">=0.99", "value": 0.91, "passed": False, "why": "", "usual": False}
        self.missed.record.metrics |= {"accuracy": 0.91, "gates": [gate, gate | {"name": "vs.majority", "passed": True}]}
        self.missed.finish("failed", Conflict("1 of 2 gates failed:\n  accuracy is 0.91, wanted >=0.99", hint=f"See {'it ' * 80}"))
        (runs.folder(self.done.record) / "report.html").write_text(
            "<h1>Report</h1><script>document.title='run'</script>"
        )
        self.site: Site = serve(shop)

    def url(self, page: str) -> str:
        return f"{self.site.url}/console{page}"


@pytest.fixture(scope="module")
def factory(seeded_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    for shop in opened(seeded_home, tmp_path_factory.mktemp("factory") / "home"):
        one = Factory(shop)
        yield one
        one.site.stop()


@pytest.mark.parametrize(("locale", "look"), [LOOKS[1], LOOKS[2]])
def test_every_page_is_whole_and_accessible(chromium: Any, factory: Factory, axe: str, locale: str, look: str) -> None:
    names = ["/runs", *(f"/runs/{run.id}" for run in (factory.done, factory.going, factory.broken, factory.missed)), "/datasets"]
    with browsing(chromium, factory.site, seed.OPERATOR, locale=locale, color_scheme=look) as page:
        for name in [*names, f"/datasets/{factory.dataset.ref}"]:
            page.goto(factory.url(name))
            assert page.locator("h1").count() == 1, name
            assert faults(page, axe) == [], name
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), name


def test_a_run_is_watched(chromium: Any, factory: Factory) -> None:
    with browsing(chromium, factory.site, seed.OPERATOR) as page:
        page.goto(factory.url("/runs"))
        assert page.locator("tbody tr").count() == 4
        page.click(f"tr:has-text('…{factory.going.id[-8:]}') a")
        assert page.locator("progress").get_attribute("value") == "29"
        assert "3 → 0.1034" in page.inner_text(".curve")
        took = page.inner_text("#run-took")
        assert took == "90 s" and page.inner_text("#run-cost") == "$0.0029", "the step in work is in it"
        assert "Cost so far" in page.inner_text("#run")
        factory.going.emit({"kind": "progress", "step": "train", "done": 64, "total": 100})
        expect(page.locator("progress")).to_have_attribute("value", "64")
        page.goto(factory.url(f"/runs/{factory.broken.id}"))
        assert "The loss is NaN. Lower the learning rate." in page.inner_text("[role=alert]")


def test_gates_that_were_missed_are_shown_one_by_one(chromium: Any, factory: Factory) -> None:
    with browsing(chromium, factory.site, seed.OPERATOR, locale="zh-CN") as page:
        page.goto(factory.url(f"/runs/{factory.missed.id}"))
        rows = page.locator("section:has(h2:text-is('门槛')) tbody tr")
        assert [one.split() for one in rows.all_inner_texts()] == [
            ["accuracy", ">=0.99", "0.91", "未通过"], ["vs.majority", ">=0.99", "0.91", "通过"]
        ]  # fmt: skip
        assert "用时\n0 s" in page.inner_text("#run"), "nothing was done, and that takes no time in any unit"


def test_a_report_is_shut_in_a_sandbox(chromium: Any, factory: Factory) -> None:
    with browsing(chromium, factory.site, seed.OPERATOR) as page:
        page.goto(factory.url(f"/runs/{factory.done.id}"))
        assert "0.91" in page.inner_text("#run")
        assert "Not better than majority" in page.inner_text("[role=alert]")
        page.click("text=Open the report")
        page.wait_for_selector("h1:has-text('Report')")
        assert page.title() != "run", "its script did not run"
        page.complaints[:] = [one for one in page.complaints if "script" not in one]


def test_a_dataset_shows_its_versions_and_columns(chromium: Any, factory: Factory) -> None:
    with browsing(chromium, factory.site, seed.OPERATOR) as page:
        page.goto(factory.url("/datasets"))
        assert page.locator("tbody tr").count() == 1
        page.click("tbody a")
        text = page.inner_text("main")
        assert all(word in text for word in ("text", "label", "CC0-1.0", "reviews.csv")), json.dumps(text)
        assert page.locator("a[href$='reviews@1']").count() == 1
