"""Deny by default: every route of the console against every kind of visitor, and every form without its token."""

import re

import pytest

from tests.faces.console import seed
from tollway.faces.console import PAGES

GUARDED = [page for page in PAGES if page.policy != "public"]
UNSAFE = [page for page in PAGES if "POST" in page.methods]


def address(page) -> str:
    return re.sub(r"\{[^}]+\}", "x", page.path)


def name(page) -> str:
    return f"{'+'.join(page.methods)} {page.path}"


def test_every_page_has_a_policy_that_means_something():
    assert {page.policy for page in PAGES} <= {"public", "signed_in", "operator", "member"}
    assert [page.path for page in PAGES if page.policy == "public"] == [
        "/console/static/{name:path}",
        "/console/login",
        "/console/login",
        "/console/preferences",
    ]


def test_strangers_see_nothing_but_the_door(anyone):
    for page in GUARDED:
        for method in page.methods:
            answer = anyone.request(method, address(page))
            assert answer.status_code == 303, name(page)
            assert answer.headers["location"].startswith("/console/login"), name(page)


def test_buyers_do_not_enter_the_sellers_rooms(buyer):
    token = buyer.token()
    for page in GUARDED:
        for method in page.methods:
            answer = buyer.request(method, address(page), headers={"x-csrf-token": token})
            if page.policy == "operator":
                assert answer.status_code == 403, name(page)
            elif page.path not in ("/console/logout", "/console/view-as"):
                assert answer.status_code != 403, name(page)
            buyer.cookies.clear()
            buyer.sign_in(seed.BUYER)
            token = buyer.token()


def test_operators_have_no_buyers_pages_of_their_own(operator):
    for page in GUARDED:
        if page.policy == "member":
            answer = operator.request(page.methods[0], address(page), headers={"x-csrf-token": operator.token()})
            assert answer.status_code == 403, name(page)


def test_no_form_works_without_its_token(operator, buyer):
    for page in UNSAFE:
        if page.policy == "public":
            continue
        client = buyer if page.policy == "member" else operator
        for headers in ({}, {"x-csrf-token": "wrong"}):
            answer = client.post(address(page), data={"csrf": "also wrong", "confirmed": "yes"}, headers=headers)
            assert answer.status_code == 403, name(page)
            assert "expired" in answer.text, name(page)


def test_another_session_s_token_is_no_token(operator, buyer):
    answer = buyer.post("/console/keys", data={"csrf": operator.token(), "name": "x", "scope": "inference"})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
def test_no_form_works_from_another_site(operator, headers):
    for page in UNSAFE:
        answer = operator.post(address(page), data={"csrf": operator.token()}, headers=headers)
        assert answer.status_code == 403, name(page)


def test_a_foreign_name_for_this_machine_is_refused(anyone):
    for path in ("/console/login", "/console", "/console/static/console.css"):
        assert anyone.get(path, headers={"host": "rebound.example"}).status_code == 403
        two = [("host", "127.0.0.1"), ("host", "rebound.example")]
        assert anyone.get(path, headers=two).status_code == 403


def test_every_answer_carries_the_headers(anyone, operator):
    answers = [
        anyone.get("/console/login"),
        anyone.get("/console/keys"),
        operator.get("/console/overview"),
        operator.get("/console/nowhere"),
    ]
    for answer in answers:
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"


def test_templates_have_no_inline_script_or_style(operator):
    for path in ("/console/overview", "/console/economics", "/console/plans/new", "/console/usage"):
        page = operator.get(path).text
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style|javascript:", page), path


def test_bad_requests_get_a_page_and_no_traceback(operator):
    token = operator.token()
    tries = [
        operator.get("/console/usage?from=2026-99-99&to=x&by=nonsense&model=%00&key='"),
        operator.get("/console/overview?range=forever"),
        operator.get("/console/usage/events?before=%ff&day=2026-02-31&request=%F0%9F%92%A9"),
        operator.get("/console/models/%2e%2e/%00"),
        operator.get("/console/organizations/' or 1=1"),
        operator.get("/console/plans/starter?version=-1"),
        operator.post(
            "/console/organizations",
            content=b"\xff\xfe=1",
            headers={"content-type": "application/x-www-form-urlencoded", "x-csrf-token": token},
        ),
        operator.post(
            "/console/organizations",
            content=b"x" * 300_000,
            headers={"content-type": "application/x-www-form-urlencoded", "x-csrf-token": token},
        ),
        operator.post("/console/organizations", data={"csrf": token, "name": "a\x00b"}),
        operator.post("/console/organizations", data={"csrf": token, "name": ""}),
        operator.post("/console/invoices", data={"csrf": token, "period": "next month"}),
    ]
    assert [answer.status_code for answer in tries if answer.status_code >= 500] == []
    assert not [answer for answer in tries if "Traceback" in answer.text]
