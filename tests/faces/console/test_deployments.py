"""Versions of a model in the console: started, promoted and taken back by forms that ask first; shown with their figures."""

from pathlib import Path

import msgspec
import pytest

from tests.faces.console import seed
from tests.faces.console.test_browser import faults, opened, visit
from tests.serve import tiny_models, tiny_versions
from tollway.flows import release, versions
from tollway.flows.rollout_figures import Figures
from tollway.flows.rollout_verdict import Agreement, Side, judge, policy_of
from tollway.sell import catalog
from tollway.serve import deployments, models
from tollway.serve.stats import Stats

FORM = {
    "version": "2", "role": "canary", "share": "10", "min_calls": "50", "minutes": "0", "max_error": "2", "mirror": "0",
    "min_agreement": "0", "automatic": "yes",
}  # fmt: skip


@pytest.fixture
def mood(shop, tmp_path: Path):
    """A model with two versions on the shelf, the first one on offer."""
    for number in range(2):
        tiny_versions.shelve(shop.store, tmp_path / str(number), "equal")
    release.deploy(shop, "mood", "1")
    return shop


def in_service(shop) -> dict[str, str]:
    with shop.db.read() as conn:
        return {role: one.version for role, one in deployments.running(conn, "mood").items()}


def measured(shop, took_ms: float = 30.0, errors: int = 0) -> None:
    """Figures as the gateway notes them."""
    with shop.db.write() as conn:
        canary = deployments.running(conn, "mood")["canary"]
        figures = Figures(Side(Stats(calls=40, errors=errors)), Side(Stats(calls=360)), Agreement(12, 11, 11.2))
        for side in (figures.canary, figures.stable):
            for _ in range(side.stats.calls):
                side.stats.latency.add(took_ms / 1e3)
        figures.verdict = judge(policy_of(canary.policy), figures.canary, figures.stable, figures.agreement, 5)
        deployments.note_ready(conn, canary.began_ms, canary.id)
        deployments.note_figures(conn, canary.id, msgspec.to_builtins(figures), figures.verdict.reason)


def test_the_engine_that_was_chosen_is_shown_and_why_it_does_not_come_up(operator, shop, tmp_path: Path):
    about = tiny_models.text_classifier(tmp_path / "mood")
    (tmp_path / "mood" / "model.pt2").write_bytes(b"cut off")
    shop.store.add_package("mood", tmp_path / "mood", about)
    release.deploy(shop, "mood", engine="torch")
    assert "<code>1</code> <small class=\"muted\">torch" in operator.get("/console/models/mood").text
    with shop.db.write() as conn:
        stable = deployments.running(conn, "mood")["stable"]
        deployments.note_figures(conn, stable.id, {}, "its replica does not come up: a short file")
    assert "its replica does not come up: a short file" in operator.get("/console/models/mood").text


def test_a_canary_is_started_promoted_and_taken_back_by_forms_that_ask(operator, mood):
    assert "Try another version" in operator.get("/console/models/mood").text
    asked = operator.post_form("/console/deployments/start/mood", **FORM)
    assert "It answers 10% of the calls" in asked.text and in_service(mood) == {"stable": "1"}
    done = operator.post_form("/console/deployments/start/mood", **FORM, confirmed="yes")
    assert done.headers["location"].endswith("/console/models/mood?done=deployment_started")
    assert in_service(mood) == {"stable": "1", "canary": "2"}
    measured(mood)
    question = operator.get("/console/deployments/promote/mood").text
    assert "answers all calls within a second" in question and "Failed calls" in question
    operator.post_form("/console/deployments/promote/mood", confirmed="yes")
    assert in_service(mood) == {"stable": "2", "warm": "1"}
    assert "it is still loaded" in operator.get("/console/deployments/back/mood").text
    operator.post_form("/console/deployments/back/mood", confirmed="yes")
    assert in_service(mood) == {"stable": "1"}
    page = operator.get("/console/models/mood").text
    assert "Taken back" in page and "Promoted" in page and "by hand" in page


def test_the_page_shows_both_versions_figures_and_goes_on_by_itself(operator, mood):
    versions.start(mood, "mood", "2", "canary", 25)
    measured(mood)
    page = operator.get("/console/models/mood").text
    assert "25%" in page and "Answer time, p95" in page and "91.7%" in page and "40 of 100 calls" in page
    part = operator.get("/console/models/mood", headers={"hx-request": "true"}).text
    assert "Failed calls" in part and "<html" not in part
    chinese = operator.get("/console/models/mood?lang=zh").text
    assert "金丝雀" in chinese and "答案一致" in chinese


def test_what_cannot_be_is_refused_in_words(operator, buyer, mood):
    for change in ({"share": "0"}, {"share": "ten"}, {"role": "king"}, {"version": ""}, {"min_calls": "-1"}):
        assert operator.post_form("/console/deployments/start/mood", **FORM | change).status_code == 400, change
    assert operator.get("/console/deployments/promote/mood").status_code == 404
    assert operator.get("/console/deployments/back/mood").status_code == 404
    assert operator.get("/console/deployments/stop/mood").status_code == 404
    assert operator.get("/console/deployments/promote/none").status_code == 404
    answer = operator.post_form("/console/deployments/start/mood", **FORM | {"version": "9"}, confirmed="yes")
    assert answer.status_code == 404 and in_service(mood) == {"stable": "1"}
    assert buyer.get("/console/deployments/back/mood").status_code == 403


def test_stopping_ends_a_shadow_and_models_without_versions_show_none(operator, mood):
    versions.start(mood, "mood", "2", "shadow", 5)
    assert "not" in operator.get("/console/models/mood").text
    operator.post_form("/console/deployments/stop/mood", confirmed="yes")
    assert in_service(mood) == {"stable": "1"}
    release.add_upstream(mood, "far", "chat", models.Upstream("http://127.0.0.1:9/v1", "far"))
    page = operator.get("/console/models/far")
    assert page.status_code == 200 and "Try another version" not in page.text


def test_an_upstream_s_page_says_where_it_is_and_what_it_charges_and_shows_no_secret(operator, mood):
    places = ("https://me:hush@far.example/v1?key=hush#hush", "http://[::1]:8000/v1")
    costs = (("input_tokens", 150_000), ("output_tokens", 600_000))
    release.add_upstream(mood, "far", "chat", models.Upstream(places[0], "far-large", "FAR_KEY", places[1:], costs))
    page = " ".join(operator.get("/console/models/far").text.split())
    assert "hush" not in page and "<code class=\"wrap\">https://far.example/v1</code>" in page
    assert all(one in page for one in ("http://[::1]:8000/v1", "far-large", "$FAR_KEY"))
    assert "Input tokens $0.15<br>Output tokens $0.60" in page
    release.add_upstream(mood, "plain", "chat", models.Upstream("http://127.0.0.1:9/v1", "plain"))
    assert "--cost" in operator.get("/console/models/plain").text, "the way to say it"


@pytest.mark.parametrize(("locale", "look"), [("en-US", "light"), ("zh-CN", "dark")])
def test_the_pages_are_accessible_and_whole(chromium, site, axe, tmp_path, locale, look):
    """By axe, with a rollout under way and its questions; nothing is wider than a telephone."""
    for number in range(2):
        tiny_versions.shelve(site.shop.store, tmp_path / str(number), "equal")
    release.deploy(site.shop, "mood", "1")
    versions.start(site.shop, "mood", "2", "canary", 25)
    measured(site.shop)
    with opened(chromium, site, seed.OPERATOR, locale=locale, color_scheme=look) as page:
        for name in ("/models/mood", "/deployments/promote/mood", "/deployments/back/mood"):
            visit(page, site, name)
            page.wait_for_load_state("load")
            for details in page.locator("details").all():
                details.evaluate("one => one.open = true")
            assert faults(page, axe) == [], name
            page.set_viewport_size({"width": 390, "height": 844})
            for _ in range(50):  # the new width takes a moment
                if (width := page.evaluate("document.documentElement.scrollWidth")) <= 390:
                    break
                page.wait_for_timeout(100)
            assert width <= 390, name
            page.set_viewport_size({"width": 1280, "height": 800})


def test_the_page_names_every_price_that_a_call_of_the_model_has(operator, mood):
    """mood reads texts: it is sold by their tokens, though a plan has prices for rows too; a chat has three of them."""
    with mood.db.write() as conn:
        prices = {"rows": 500, "input_tokens": 3, "explanations": 7, "cached_tokens": 1, "output_tokens": 9, "images": 2}
        charges = [catalog.Charge(meter=meter, model="*", price_micros=price) for meter, price in prices.items()]
        for plan in catalog.list_plans(conn):
            catalog.archive_plan(conn, seed.NOW_MS, plan.plan_name)
        catalog.create_plan(conn, seed.NOW_MS, "all-in", "All in", catalog.Terms(currency="USD", charges=charges))
    release.add_upstream(mood, "far", "chat", models.Upstream("http://127.0.0.1:9/v1", "far"))
    sold = {
        name: operator.get(f"/console/models/{name}").text.partition("Sold in")[2].partition("</table>")[0]
        for name in ("mood", "far")
    }
    named = ("Table rows", "Input tokens", "Cached", "Output tokens", "Explanations", "Images")
    assert [one for one in named if one in sold["mood"]] == ["Input tokens", "Explanations"]
    assert [one for one in named if one in sold["far"]] == ["Input tokens", "Cached", "Output tokens"]


def test_a_model_without_a_price_is_named_where_it_is_deployed(operator, mood):
    """Scale sells everything by tokens, so only explanations lack a price; a plan for others alone leaves it out."""
    page = operator.get("/console/models/mood").text
    assert "The plan Scale has no price for Explanations (Free) of mood." in page
    asked = operator.post_form("/console/deployments/start/mood", **FORM).text
    assert "The plan Scale has no price" in asked
    with mood.db.write() as conn:
        for name in ("starter", "team", "scale"):
            catalog.archive_plan(conn, seed.NOW_MS, name)
    assert "No plan on sale includes mood" in operator.get("/console/models/mood").text
    assert "没有在售的套餐包含 mood" in operator.get("/console/models/mood?lang=zh").text
