"""Jobs, batches, files, feedback and the fleet: what each role sees and may do, and the pages in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import expect

from tests.faces.console import seed, seed_work
from tests.faces.console.stage import Client, Site, opened, serve
from tests.faces.console.test_browser import LOOKS, faults
from tests.faces.console.test_browser import opened as browsing
from tollway.flows import adaptations
from tollway.kit import jobs
from tollway.sell import batches, catalog

OPERATOR_PAGES = [
    "/fleet",
    "/jobs",
    "/jobs?kind=batch",
    "/jobs/{running}",
    "/jobs/{failed}",
    "/jobs/{whole}",
    "/feedback",
]
BUYER_PAGES = ["/jobs", "/jobs/{done}", "/jobs/{running}", "/jobs/{batch}", "/jobs/{batch}/cancel", "/files"]


class Working:
    """A served shop in which there is work."""

    def __init__(self, shop: seed.SeededShop) -> None:
        self.shop, self.busy = shop, 3
        shop.fleet = lambda: seed_work.fleet(self.busy)  # type: ignore[attr-defined]
        shop.queues = seed_work.queues  # type: ignore[attr-defined]
        shop.steps = seed_work.steps  # type: ignore[attr-defined]
        self.ids = seed_work.fill(shop)
        self.site: Site = serve(shop)

    def url(self, page: str) -> str:
        return f"{self.site.url}/console{page.format(**self.ids)}"


@pytest.fixture(scope="module")
def still(seeded_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Working]:
    """No test changes it."""
    for shop in opened(seeded_home, tmp_path_factory.mktemp("work") / "home"):
        working = Working(shop)
        yield working
        working.site.stop()


@pytest.fixture
def working(shop: seed.SeededShop) -> Iterator[Working]:
    one = Working(shop)
    yield one
    one.site.stop()


@pytest.mark.browser
@pytest.mark.parametrize(("locale", "look"), [LOOKS[0], LOOKS[3]])
def test_every_page_is_whole_and_accessible(chromium: Any, still: Working, axe: str, locale: str, look: str) -> None:
    for email, names in ((seed.OPERATOR, OPERATOR_PAGES), (seed.BUYER, BUYER_PAGES)):
        with browsing(chromium, still.site, email, locale=locale, color_scheme=look) as page:
            for name in names:
                page.goto(still.url(name))
                assert page.locator("h1").count() == 1, name
                assert faults(page, axe) == [], name
                wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert wide <= 0, name
            if locale == "zh-CN":
                continue
            page.set_viewport_size({"width": 390, "height": 844})
            for name in names:
                page.goto(still.url(name))
                assert page.evaluate("document.documentElement.scrollWidth") <= 390, name


@pytest.mark.browser
def test_the_fleet_lives(chromium: Any, working: Working) -> None:
    with browsing(chromium, working.site, seed.OPERATOR) as page:
        page.goto(working.url("/fleet"))
        assert page.locator("tbody tr").count() == 4
        assert page.inner_text("#fleet-ready") == "1 of 3"
        waiting = page.inner_text("#fleet tr:has-text('Waiting for room')")
        assert "it asks for 1 free CPU on one node" in waiting and "this machine" not in waiting
        assert page.inner_text("#fleet-queued") == "2", "the two replicas of a version share a line"
        assert "its process ended with code -9" in page.inner_text("tr:has-text('Ejected')")
        assert "44% 3.5 of 8 sequences" in " ".join(page.inner_text("tbody tr:first-child").split())
        assert "$0.0000322" in page.inner_text("#fleet-cost") and "$0.12 an hour" in page.inner_text("#fleet-cost")
        working.busy = 7
        expect(page.locator("#fleet-running")).to_have_text("7")


@pytest.mark.browser
def test_a_buyer_watches_a_job_and_ends_it_by_keyboard(chromium: Any, working: Working) -> None:
    with browsing(chromium, working.site, seed.BUYER) as page:
        page.goto(working.url("/jobs"))
        assert page.locator("tbody tr").count() == 4, "not the other organization's"
        page.goto(working.url("/jobs/{running}"))
        assert "17 of 40" in page.inner_text("#job")
        assert page.locator("svg[role=img] path").get_attribute("d").count("L") >= 16
        with working.shop.db.write() as conn:
            data = {"step": 18, "total_steps": 40, "train_loss": 1.05}
            jobs.tell(conn, seed.NOW_MS, working.ids["running"], "Step 18/40", data=data)
        expect(page.locator("#job")).to_contain_text("18 of 40")
        page.focus("a.danger")
        page.keyboard.press("Enter")
        page.wait_for_url("**/cancel")
        page.focus("button.danger")
        page.keyboard.press("Enter")
        page.wait_for_url("**?done=job_cancelled")
        assert page.locator("a.danger").count() == 0
        assert "ending" in page.inner_text("#job")
    with working.shop.db.read() as conn:
        assert jobs.get(conn, "fine_tuning", working.ids["running"]).cancelling


@pytest.mark.browser
def test_a_job_that_is_over_shows_its_steps_and_the_tokens_that_were_trained(chromium: Any, working: Working) -> None:
    job_id = working.ids["done"]
    with browsing(chromium, working.site, seed.BUYER) as page:
        page.goto(working.url("/jobs/{done}"))
        assert "40 of 40" in page.inner_text("#job") and "182,400" in page.inner_text("#job")
        with working.shop.db.write() as conn:  # not all that was ordered
            made = jobs.get(conn, "fine_tuning", job_id).made
            jobs.change(conn, job_id, made={**made, "trained_tokens": 91_200})
        page.reload()
        assert "91,200" in page.inner_text("#job") and "182,400" not in page.inner_text("#job")


@pytest.mark.browser
def test_answers_are_downloaded_and_files_deleted(chromium: Any, working: Working) -> None:
    with browsing(chromium, working.site, seed.BUYER) as page:
        page.goto(working.url("/jobs/{whole}"))
        answers = page.request.get(working.site.url + page.get_attribute("a:has-text('Download the answers')", "href"))
        assert answers.body() == seed_work.CHATS
        assert page.inner_text("#job-cost").startswith("$0.0612")
        page.goto(working.url("/files"))
        page.click("tr:has-text('chats.jsonl') a.danger-text")
        page.click("button.danger")
        page.wait_for_selector("text=The job")
        assert "reads this file" in page.inner_text("main"), "a running job learns from it"
        page.complaints[:] = [
            one for one in page.complaints if "409" not in one
        ]  # the browser's own note of the refusal


@pytest.mark.browser
def test_the_operator_has_a_model_learn_from_its_feedback(chromium: Any, working: Working) -> None:
    with browsing(chromium, working.site, seed.OPERATOR) as page:
        page.goto(working.url("/feedback"))
        row = page.locator(f"tr:has-text('{seed.CHAT}')").first
        row.locator("button").click()
        page.wait_for_url("**/jobs/adapt_*")
        assert "waiting" in page.inner_text("#job")
        page.goto(working.url("/feedback"))
        assert row.locator("button").count() == 0
    with working.shop.db.read() as conn:
        (asked,) = jobs.list_of(conn, adaptations.KIND)
    assert asked.asked == {"model": seed.CHAT, "by": seed.OPERATOR}


def test_what_is_not_on_offer_learns_nothing(operator: Client, shop: seed.SeededShop) -> None:
    assert operator.post_form("/console/feedback", model="nobody").status_code == 404
    with shop.db.read() as conn:
        assert not jobs.list_of(conn, adaptations.KIND)


def test_what_is_anothers_is_not_there(operator: Client, buyer: Client, shop: seed.SeededShop) -> None:
    ids = seed_work.fill(shop)
    with shop.db.write() as conn:
        adaptation = adaptations.ask(conn, seed.NOW_MS, seed.CHAT, seed.OPERATOR).id
    assert operator.get(f"/console/jobs/{ids['failed']}").status_code == 200
    assert operator.get(f"/console/jobs/{adaptation}").status_code == 200
    for job_id in (ids["failed"], adaptation, "nothing"):
        assert buyer.get(f"/console/jobs/{job_id}").status_code == 404
        assert buyer.post_form(f"/console/jobs/{job_id}/cancel", confirmed="yes").status_code == 404
    assert buyer.get("/console/files/file_nothing/content").status_code == 404
    content = buyer.get(f"/console/files/{ids['fine-tune']}/content")
    assert content.content == seed_work.CHATS
    assert content.headers["content-disposition"].startswith("attachment")
    assert "Lotus" not in buyer.get("/console/jobs").text
    assert "Lotus" in operator.get("/console/jobs").text


def test_a_batch_that_is_ended_here_says_when(buyer: Client, shop: seed.SeededShop) -> None:
    batch = seed_work.fill(shop)["batch"]
    assert buyer.post_form(f"/console/jobs/{batch}/cancel").status_code == 303
    with shop.db.read() as conn:
        job = jobs.get(conn, batches.KIND, batch)
    assert job.cancelling and batches.made_of(job).cancelling_ms == shop.clock.now_ms()


def test_revising_a_plan_keeps_how_its_calls_are_served(operator: Client, shop: seed.SeededShop) -> None:
    with shop.db.write() as conn:
        old = catalog.get_plan(conn, "team").terms
        mine = {"batch_percent": 30, "weight": 4, "priority": "priority", "timeout_ms": 9000}
        catalog.revise_plan(conn, seed.NOW_MS, "team", msgspec.structs.replace(old, **mine))
    page = operator.get("/console/plans/team/revise").text
    assert all(f'name="{name}" value="{value}"' in page for name, value in mine.items() if name != "priority")
    typed = {"flat_fee": "59", "overage": "invoice", "aborted": "bill", "models": "*", "batch_percent": "25"}
    served = {"weight": "4", "priority": "priority", "timeout_ms": "9000", "step": "publish", "base_version": "2"}
    answer = operator.post_form("/console/plans/team/revise", **typed, **served)
    assert answer.status_code == 303, answer.text
    with shop.db.read() as conn:
        new = catalog.get_plan(conn, "team").terms
    assert (new.batch_percent, new.weight, new.priority, new.timeout_ms) == (25, 4, "priority", 9000)
    typed["batch_percent"] = "many"
    assert (
        operator.post_form("/console/plans/team/revise", **typed, **served | {"base_version": "3"}).status_code == 400
    )
