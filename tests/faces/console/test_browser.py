"""Every page in a real browser: no error, no broken policy, accessible, usable by keyboard, in both languages and looks."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.faces.console import seed

pytestmark = pytest.mark.browser

OPERATOR_PAGES = [
    "/overview", "/overview?range=30d", "/models", f"/models/{seed.CHAT}", "/organizations", "ORGANIZATION",
    "/plans", "/plans/starter", "/plans/new", "/plans/starter/revise",
    "/usage", "/usage?by=org", "/usage/events", "EVENT", "/invoices", "INVOICE", "/economics", "/account",
]  # fmt: skip
BUYER_PAGES = ["/start", "/keys", "/playground", "/usage", "/usage/events", "/plan", "/invoices", "INVOICE", "/account"]
FIRST_LINK = {"ORGANIZATION": "/organizations", "EVENT": "/usage/events", "INVOICE": "/invoices"}


@contextlib.contextmanager
def opened(chromium: Any, site: Any, email: str = "", **options: Any) -> Iterator[Any]:
    """A page of a fresh browser profile, signed in; whatever it complains about ends the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, **options)
    page = context.new_page()
    complaints: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.set_default_timeout(60_000)
    if email:
        page.goto(f"{site.url}/console/login")
        page.fill("[name=email]", email)
        page.fill("[name=password]", seed.PASSWORD)
        page.press("[name=password]", "Enter")
        page.wait_for_url(re.compile("/console/(overview|start)"))
    page.complaints = complaints
    yield page
    context.close()
    assert complaints == []


def visit(page: Any, site: Any, name: str) -> None:
    if name in FIRST_LINK:
        page.goto(f"{site.url}/console{FIRST_LINK[name]}")
        page.goto(site.url + page.get_attribute("tbody tr > :first-child a", "href"))
    else:
        page.goto(f"{site.url}/console{name}")


def faults(page: Any, axe: str) -> list[str]:
    """What axe calls serious or critical on the present page."""
    page.evaluate(axe)  # through the debugger: the policy of the page itself lets no foreign script in
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {[node['target'] for node in one['nodes']][:3]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


FOCUS = """(() => {
  const e = document.activeElement;
  return [e.tagName + (e.name || ''), getComputedStyle(e).outlineStyle, e.matches(':focus-visible')];
})()"""
WRITES = """[
  document.querySelector('.message.assistant .text').innerText.trim().endsWith('and on'),
  document.querySelector('#stop').checkVisibility(),
]"""
LOOKS = [("en-US", "light"), ("en-US", "dark"), ("zh-CN", "light"), ("zh-CN", "dark")]


@pytest.mark.parametrize(("locale", "look"), LOOKS)
@pytest.mark.parametrize(
    ("email", "names"),
    [("", ["/login"]), (seed.OPERATOR, OPERATOR_PAGES), (seed.BUYER, BUYER_PAGES)],
    ids=["door", "operator", "buyer"],
)
def test_every_page_is_whole_and_accessible(chromium, still_site, axe, email, names, locale, look):
    with opened(chromium, still_site, email, locale=locale, color_scheme=look) as page:
        for name in names:
            visit(page, still_site, name)
            page.wait_for_load_state("load")
            assert page.locator("html").get_attribute("lang") == ("zh-CN" if locale == "zh-CN" else "en")
            assert page.locator("h1").count() == 1, name
            assert faults(page, axe) == [], name
            for details in page.locator("details").all():
                details.evaluate("one => one.open = true")
            charts = page.locator("[data-chart]").count()
            assert page.locator("[data-chart] canvas").count() == charts, name
            overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert overflow <= 0, name


def test_nothing_is_wider_than_a_telephone(chromium, still_site):
    empty = {seed.OPERATOR: ["/runs", "/datasets", "/feedback", "/fleet"], seed.BUYER: ["/files", "/jobs"]}
    for email, names in ((seed.OPERATOR, OPERATOR_PAGES), (seed.BUYER, BUYER_PAGES)):
        with opened(chromium, still_site, email) as page:
            page.set_viewport_size({"width": 390, "height": 844})
            for name in names + empty[email]:
                visit(page, still_site, name)
                assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
                here = page.locator(".main-nav [aria-current]")  # in sight, though the navigation is wider
                seen = [here.evaluate("one => one.getBoundingClientRect().toJSON()")] if here.count() else []
                assert all(box["left"] >= 0 and box["right"] <= 391 for box in seen), name
                assert page.locator(".side").evaluate("one => one.offsetHeight") < 200, name  # no empty field above the page


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_no_table_of_money_is_cut_off_on_a_small_laptop(chromium, still_site, locale):
    with opened(chromium, still_site, seed.OPERATOR, locale=locale) as page:
        for name in ("/economics?range=30d", "/usage?by=org", "/plans/starter"):
            visit(page, still_site, name)
            cut = page.evaluate(
                "[...document.querySelectorAll('.scroll, .card')].filter(e => e.scrollWidth > e.clientWidth)"
            )
            assert len(cut) == 0, name


def test_the_first_tab_skips_to_the_content_and_focus_is_seen(chromium, still_site):
    with opened(chromium, still_site, seed.OPERATOR) as page:
        page.goto(f"{still_site.url}/console/usage")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        seen = set()
        for _ in range(14):
            page.keyboard.press("Tab")
            focus = page.evaluate(FOCUS)
            assert focus[1] != "none" or not focus[2], focus
            seen.add(focus[0])
        assert {"INPUTfrom", "SELECTmodel", "BUTTON"} <= seen


def test_a_key_is_made_copied_and_revoked_by_keyboard_alone(chromium, site):
    with opened(chromium, site, seed.BUYER, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto(f"{site.url}/console/keys")
        page.focus("[name=name]")
        page.keyboard.type("by keyboard")
        page.keyboard.press("Enter")
        page.wait_for_selector("#new-key")
        secret = page.inner_text("#new-key")
        page.focus("[data-copy='#new-key']")
        page.keyboard.press("Enter")
        page.wait_for_selector("[data-copy='#new-key']:has-text('Copied')")
        assert page.evaluate("navigator.clipboard.readText()") == secret
        page.focus("tr:has-text('by keyboard') a.danger-text")
        page.keyboard.press("Enter")
        page.wait_for_url("**/revoke")
        page.focus("button.danger")
        page.keyboard.press("Enter")
        page.wait_for_url("**/keys?done=key_revoked")
        assert "Revoked" in page.inner_text("tr:has-text('by keyboard')")


def test_the_playground_streams_stops_and_says_what_failed(chromium, site):
    with opened(chromium, site, seed.BUYER, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto(f"{site.url}/console/playground")
        page.fill("#prompt", "good morning " * 60)
        page.keyboard.press("Enter")
        page.wait_for_selector(".message.assistant:has-text('You said: good')")
        assert page.evaluate(WRITES) == [False, True], "while it writes"
        page.wait_for_selector("#send:visible")
        assert page.inner_text(".message.assistant .text").strip().endswith("and on")
        page.fill("#prompt", "stop me " * 600)
        page.keyboard.press("Enter")
        page.wait_for_selector(".message.assistant.busy:has-text('stop me')")
        page.click("#stop")
        page.wait_for_selector(".message.note:has-text('Stopped')")
        page.click("#as-curl")
        page.wait_for_selector("#as-curl:has-text('Copied')")
        assert "/v1/chat/completions" in page.evaluate("navigator.clipboard.readText()")
        page.fill("#prompt", "refuse this")
        page.click("#send")
        page.wait_for_selector(".message.failed:has-text('The wallet is empty.')")
        for _ in range(600):
            if any("402" in one for one in page.complaints):
                break
            page.wait_for_timeout(50)
        page.complaints[:] = [
            one for one in page.complaints if "402" not in one
        ]  # the browser's own note of the refusal


def test_the_quick_start_turns_green_when_the_first_call_arrives(chromium, site):
    from tollway.sell import accounts, catalog
    from tollway.sell import tables as sell

    shop = site.shop
    with shop.db.write() as conn:
        org = accounts.create_organization(conn, seed.NOW_MS, "Newcomer")
        subscription = catalog.subscribe(conn, seed.NOW_MS, org.id, catalog.get_plan(conn, "starter").id)
        accounts.create_member(conn, seed.NOW_MS, "new@x.test", seed.PASSWORD, "owner", org.id)
    with opened(chromium, site, "new@x.test") as page:
        page.click("text=Create key and fill it in")
        secret = page.inner_text("#new-key")
        assert secret in page.inner_text("#code-1")
        page.check("text=Python")
        assert secret in page.inner_text("#code-2")
        assert page.is_visible("text=Waiting for your first request")
        with shop.db.write() as conn:
            template = dict(conn.execute(sell.usage_event.select().limit(1)).one()._mapping)
            mine = {"id": "evt_new", "request_id": "req_new", "org_id": org.id, "subscription_id": subscription.id}
            conn.execute(sell.usage_event.insert().values(template | mine))
        page.wait_for_selector("text=Your call arrived.")


def test_the_overview_lives_and_says_when_it_is_lost(chromium, site):
    with opened(chromium, site, seed.OPERATOR) as page:
        page.goto(f"{site.url}/console/overview?range=1h")
        page.click("#table-requests summary")
        before = page.inner_text("#kpi-1 .kpi-value")
        canvas = page.locator("#plot-requests canvas").element_handle()
        site.shop.clock.at_ms += 30 * 60_000
        expect(page.locator("#kpi-1 .kpi-value")).not_to_have_text(before)
        assert page.locator("#table-requests").get_attribute("open") is not None
        assert canvas.evaluate("one => one.isConnected")  # the chart moved on, it was not drawn anew
        site.stop()
        page.wait_for_selector("#toast:visible")
        assert "Connection lost" in page.inner_text("#toast")
        page.goto("about:blank")  # it asks no more
        page.complaints[:] = [
            one for one in page.complaints if "net::ERR_" not in one and not one.startswith("htmx:")
        ]


def test_pages_can_be_read_without_scripts(chromium, still_site):
    with opened(chromium, still_site, seed.OPERATOR, java_script_enabled=False) as page:
        page.goto(f"{still_site.url}/console/overview?range=7d")
        assert page.locator("#table-requests tbody tr").count() == 7
        page.click("[name=theme][value=dark]")
        assert page.get_attribute("html", "data-theme") == "dark"
        assert page.url.endswith("/console/overview?range=7d")
        page.click("text=简体中文")
        assert page.inner_text("h1") == "总览"


def test_a_plan_row_can_be_added(chromium, site):
    with opened(chromium, site, seed.OPERATOR) as page:
        page.goto(f"{site.url}/console/plans/starter/revise")
        rows = page.locator("#charges tr").count()
        page.click("[data-add-row]")
        assert page.locator("#charges tr").count() == rows + 1
        page.locator("#charges tr").last.locator("[name=charge_model]").fill(seed.EMBEDDING)
        page.locator("#charges tr").last.locator("[name=charge_price]").fill("1.5")
        page.click("text=Preview changes")
        page.wait_for_selector("text=This becomes version 3")
