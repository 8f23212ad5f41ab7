"""Signing in and out: cookies, rotation, the brake, and where one lands."""

import pytest
from starlette.applications import Starlette

from tests.faces.console import seed
from tests.faces.console.stage import Client, opened
from tollway.faces.console import routes


def test_the_front_page_asks_for_a_login_and_comes_back(anyone):
    answer = anyone.get("/console/economics")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/login?next=%2Fconsole%2Feconomics")
    page = anyone.get(answer.headers["location"]).text
    assert 'name="next" value="/console/economics"' in page
    answer = anyone.post(
        "/console/login", data={"email": seed.OPERATOR, "password": seed.PASSWORD, "next": "/console/economics"}
    )
    assert answer.headers["location"] == "/console/economics"


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "/v1/models", "/console/../x\\y", "/consolexyz"],
)
def test_it_never_leads_to_another_site(anyone, target):
    answer = anyone.post("/console/login", data={"email": seed.OPERATOR, "password": seed.PASSWORD, "next": target})
    assert answer.headers["location"] in (
        "/console",
        target if target.startswith("/console/") and "\\" not in target else "/console",
    )


def test_each_role_lands_on_its_own_first_page(operator, buyer):
    assert operator.get("/console").headers["location"] == "/console/overview"
    assert buyer.get("/console").headers["location"] == "/console/start"


def test_the_cookie_is_strict_and_out_of_reach_of_scripts(anyone):
    answer = anyone.post("/console/login", data={"email": seed.BUYER, "password": seed.PASSWORD})
    cookie = next(one for one in answer.headers.get_list("set-cookie") if one.startswith("tollway_session="))
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie
    assert "Secure" not in cookie


def test_behind_https_it_is_bound_to_the_host(seeded_home, tmp_path):
    for shop in opened(seeded_home, tmp_path / "home", public_url="https://api.example.com"):
        client = Client(Starlette(routes=routes(shop)), base_url="https://api.example.com", follow_redirects=False)
        answer = client.post("/console/login", data={"email": seed.BUYER, "password": seed.PASSWORD})
        cookie = next(one for one in answer.headers.get_list("set-cookie") if "session=" in one)
        assert cookie.startswith("__Host-tollway_session=")
        assert "Secure" in cookie
        assert "Domain" not in cookie


def test_signing_in_again_ends_the_session_before(buyer):
    old = buyer.cookies["tollway_session"]
    buyer.sign_in(seed.BUYER)
    assert buyer.cookies["tollway_session"] != old
    buyer.cookies.clear()
    buyer.cookies.set("tollway_session", old)
    assert buyer.get("/console/keys").status_code == 303


def test_a_planted_session_is_not_taken_over(anyone):
    planted = {"cookie": "tollway_session=planted-by-somebody-else"}
    answer = anyone.post("/console/login", data={"email": seed.BUYER, "password": seed.PASSWORD}, headers=planted)
    cookie = next(one for one in answer.headers.get_list("set-cookie") if one.startswith("tollway_session="))
    assert "planted" not in cookie
    assert anyone.get("/console/keys", headers=planted).status_code == 303


def test_signing_out_ends_the_session_everywhere(buyer):
    cookie = buyer.cookies["tollway_session"]
    assert buyer.post_form("/console/logout").headers["location"] == "/console/login"
    buyer.cookies.set("tollway_session", cookie)
    assert buyer.get("/console/keys").status_code == 303


def test_sessions_run_out(buyer, shop):
    assert buyer.get("/console/keys").status_code == 200
    shop.clock.at_ms += 12 * seed.HOUR_MS + 1
    assert buyer.get("/console/keys").status_code == 303


def test_a_wrong_password_and_an_unknown_name_look_the_same(anyone):
    pages = [
        anyone.post("/console/login", data={"email": email, "password": "wrong"})
        for email in (seed.BUYER, "nobody@x.test")
    ]
    assert {page.status_code for page in pages} == {401}
    assert pages[0].text.replace(seed.BUYER, "") == pages[1].text.replace("nobody@x.test", "")


def test_after_five_failures_even_the_right_password_waits_a_minute(anyone, shop):
    for _ in range(5):
        assert anyone.post("/console/login", data={"email": seed.BUYER, "password": "wrong"}).status_code == 401
    answer = anyone.post("/console/login", data={"email": seed.BUYER, "password": seed.PASSWORD})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    shop.clock.ticks += 61
    anyone.sign_in(seed.BUYER)


def test_the_password_is_changed_with_the_old_one_and_other_sessions_end(new_client):
    here, there = new_client().sign_in(seed.BUYER), new_client().sign_in(seed.BUYER)
    assert here.post_form("/console/account", old="wrong", new="another-good-one").status_code == 400
    assert here.post_form("/console/account", old=seed.PASSWORD, new="short").status_code == 400
    assert here.post_form("/console/account", old=seed.PASSWORD, new="another-good-one").status_code == 303
    assert here.get("/console/account").status_code == 200
    assert there.get("/console/account").status_code == 303
    new_client().sign_in(seed.BUYER, "another-good-one")


def test_the_language_stays_once_chosen(anyone):
    assert 'lang="zh-CN"' in anyone.get("/console/login", headers={"accept-language": "zh-CN"}).text
    assert 'lang="zh-CN"' in anyone.get("/console/login?lang=zh").text
    assert 'lang="zh-CN"' in anyone.get("/console/login").text
    assert '<html lang="en"' in anyone.get("/console/login?lang=en").text


def test_the_look_stays_once_chosen(anyone):
    assert 'data-theme="system"' in anyone.get("/console/login").text
    anyone.post("/console/preferences", data={"theme": "dark", "next": "/console/login"})
    assert 'data-theme="dark"' in anyone.get("/console/login").text
    assert anyone.post("/console/preferences", data={"theme": "pink"}).status_code == 400


def test_an_operator_looks_through_a_buyers_eyes_and_back(operator):
    org_id = operator.get("/console/organizations").text.split("/console/organizations/")[1].split('"')[0]
    assert operator.get("/console/keys").status_code == 403
    assert operator.post_form("/console/view-as", org_id=org_id).headers["location"] == "/console/start"
    assert operator.get("/console/keys").status_code == 200
    assert operator.get("/console/overview").status_code == 403
    assert operator.post_form("/console/view-as", org_id="").headers["location"] == f"/console/organizations/{org_id}"
    assert operator.get("/console/overview").status_code == 200


def test_a_buyer_cannot_look_through_anothers_eyes(buyer, operator):
    org_id = operator.get("/console/organizations").text.split("/console/organizations/")[2].split('"')[0]
    assert buyer.post_form("/console/view-as", org_id=org_id).status_code == 403
    buyer.cookies.set("tollway_view_as", org_id)
    assert "Northwind" in buyer.get("/console/plan").text or "Team" in buyer.get("/console/plan").text
    assert buyer.get("/console/overview").status_code == 403
