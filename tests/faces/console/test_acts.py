"""What forms do: asked first where it cannot be taken back, done once, said in words."""

import json
import re
from urllib.parse import unquote

import msgspec
import pytest

from tests.faces.console import seed
from tollway.guard import keys
from tollway.kit.clock import day_of
from tollway.sell import accounts, api_keys, billing, catalog, ledger
from tollway.sell import tables as sell
from tollway.sell.unpriced import Refused


def organization(shop, name: str):
    with shop.db.read() as conn:
        return next(one for one in accounts.list_organizations(conn) if one.name.startswith(name))


def hidden(page: str) -> dict[str, str]:
    """The hidden fields of the confirmation on a page."""
    form = page.split('<form method="post"')[-1]
    return {name: unquote(value) for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form)}


def test_a_top_up_shows_its_effect_and_is_booked_once(operator, shop):
    org = organization(shop, "Tidepool")
    path = f"/console/organizations/{org.id}/money"
    with shop.db.read() as conn:
        before = ledger.wallet_micros(conn, org.id, "USD")
    question = operator.post_form(path, kind="top_up", amount="1,250.50")
    assert "$1,250.50" in question.text
    answer = hidden(question.text)
    assert answer["confirmed"] == "yes"
    for _ in range(2):
        assert operator.post_form(path, **answer).headers["location"].endswith("done=top_up_booked")
    with shop.db.read() as conn:
        assert ledger.wallet_micros(conn, org.id, "USD") == before + 1_250_500_000
        assert ledger.audit(conn) == []


def test_impossible_amounts_are_refused_in_words(operator, shop):
    path = f"/console/organizations/{organization(shop, 'Tidepool').id}/money"
    for amount in ("", "abc", "-5", "0", "0.001", "1e400", "NaN", "99999999999"):
        answer = operator.post_form(path, kind="top_up", amount=amount)
        assert answer.status_code == 400, amount
        assert "Nothing was changed" in answer.text, amount
    assert operator.post_form(path, kind="steal", amount="5").status_code == 400


def test_an_organization_is_made_put_on_a_plan_and_given_a_person(operator, new_client, shop):
    answer = operator.post_form("/console/organizations", name="Fern & <Co>", billing_email="fern@x.test")
    path = answer.headers["location"].split("?")[0]
    assert "Fern &amp; &lt;Co&gt;" in operator.get(path).text
    assert operator.post_form("/console/organizations", name="Fern & <Co>").status_code == 409
    with shop.db.read() as conn:
        plan = catalog.get_plan(conn, "team")
    assert (
        operator.post_form(f"{path}/subscription", plan_version_id=plan.id)
        .headers["location"]
        .endswith("done=subscribed")
    )
    page = operator.post_form(f"{path}/members", email="fern@x.test", role="owner").text
    password = re.search(r'id="first-password">([^<]+)<', page).group(1)
    assert password not in operator.get(path).text
    assert "Team" in new_client().sign_in("fern@x.test", password).get("/console/plan").text
    assert operator.post_form(f"{path}/members", email="boss@x.test", role="operator").status_code == 400
    assert operator.post_form(f"{path}/subscription", plan_version_id="").headers["location"].endswith("done=cancelled")
    assert operator.post_form(f"{path}/subscription", plan_version_id="").status_code == 409


def test_suspending_asks_first_and_can_be_undone(operator, shop):
    org = organization(shop, "Quarry")
    path = f"/console/organizations/{org.id}"
    assert "within a second" in operator.get(f"{path}/suspend").text
    assert organization(shop, "Quarry").suspended_ms is None
    operator.post_form(f"{path}/suspend", confirmed="yes")
    assert organization(shop, "Quarry").suspended_ms == seed.NOW_MS
    operator.post_form(f"{path}/resume")
    assert organization(shop, "Quarry").suspended_ms is None


def test_a_key_is_shown_once_and_works(buyer, shop):
    page = buyer.post_form(
        "/console/keys", name="batch", scope="inference", rpm="20", model=seed.CHAT, expires="30"
    ).text
    secret = re.search(r'id="new-key">([^<]+)<', page).group(1)
    assert keys.well_formed(secret)
    assert secret not in buyer.get("/console/keys").text
    with shop.db.read() as conn:
        made = next(one for one in api_keys.list_keys(conn) if one.name == "batch")
    assert (made.scopes, made.models, made.rpm, made.tpm) == (("inference",), (seed.CHAT,), 20, None)
    assert made.expires_ms == seed.NOW_MS + 30 * seed.DAY_MS
    assert made.hint == keys.hint(secret)


def test_a_buyer_cannot_hand_out_the_operator_s_scope(buyer, shop):
    answer = buyer.post("/console/keys", data={"csrf": buyer.token(), "name": "x", "scope": ["admin", "inference"]})
    assert answer.status_code == 200
    with shop.db.read() as conn:
        assert next(one for one in api_keys.list_keys(conn) if one.name == "x").scopes == ("inference",)
    assert buyer.post_form("/console/keys", name="y", scope="admin").status_code == 400


def test_wrong_key_forms_keep_what_was_typed(buyer):
    for fields in (
        {"name": ""},
        {"name": "mine", "rpm": "0"},
        {"name": "mine", "tpm": "many"},
        {"name": "mine", "expires": "31"},
    ):
        answer = buyer.post_form("/console/keys", scope="inference", **fields)
        assert answer.status_code == 400
        if "expires" not in fields and fields["name"]:
            assert 'value="mine"' in answer.text


def test_revoking_shows_the_calls_at_stake(buyer, shop):
    org = organization(shop, "Northwind")
    with shop.db.read() as conn:
        key = next(one for one in api_keys.list_keys(conn, org.id) if one.name == "production")
    page = buyer.get(f"/console/keys/{key.id}/revoke").text
    assert "Calls in the last 7 days" in page
    assert int(re.search(r"Calls in the last 7 days</dt><dd>([\d,]+)", page).group(1).replace(",", "")) > 0
    buyer.post_form(f"/console/keys/{key.id}/revoke", confirmed="yes")
    with shop.db.read() as conn:
        assert next(one for one in api_keys.list_keys(conn, org.id) if one.id == key.id).revoked_ms == seed.NOW_MS


def test_the_quick_start_fills_the_new_key_into_the_code(buyer):
    page = buyer.post_form("/console/start").text
    secret = re.search(r'id="new-key">([^<]+)<', page).group(1)
    assert page.count(secret) == 4
    assert f"/start?model={seed.EMBEDDING}" in str(buyer.get(f"/console/start?model={seed.EMBEDDING}").url)
    assert "embeddings.create" in buyer.get(f"/console/start?model={seed.EMBEDDING}").text


TERMS = {
    "flat_fee": "0", "overage": "wallet", "aborted": "bill", "models": "*", "rpm": "60", "tpm": "60000",
    "concurrency": "4", "monthly_tokens": "",
    "charge_meter": ["input_tokens", "output_tokens", "requests"], "charge_model": ["*", "*", "*"],
    "charge_price": ["20", "60.5", ""], "charge_included": ["20000", "", ""],
}  # fmt: skip


def test_a_plan_is_revised_by_looking_at_the_difference_first(operator, shop):
    path = "/console/plans/starter/revise"
    base = {**TERMS, "base_version": "2"}
    preview = operator.post_form(path, step="preview", **base).text
    assert "<del>$54.00 per 1M (5,000 free a month)</del>" in preview
    assert "<ins>$60.50 per 1M</ins>" in preview
    assert "Cached input tokens" in preview
    with shop.db.read() as conn:
        assert catalog.get_plan(conn, "starter").version == 2
    assert (
        operator.post_form(path, step="publish", **base).headers["location"]
        == "/console/plans/starter?done=plan_published"
    )
    with shop.db.read() as conn:
        newest = catalog.get_plan(conn, "starter")
    assert newest.version == 3
    assert newest.terms.charges == (
        catalog.Charge(meter="input_tokens", price_micros=20_000_000, included=20_000),
        catalog.Charge(meter="output_tokens", price_micros=60_500_000),
    )
    stale = operator.post_form(path, step="publish", **(base | {"flat_fee": "7"}))
    assert stale.status_code == 400
    assert "version 3 in the meantime" in stale.text


def test_every_problem_of_a_plan_is_named_at_once(operator):
    wrong = TERMS | {"flat_fee": "free", "rpm": "lots", "charge_price": ["-1", "x", ""]}
    answer = operator.post_form("/console/plans/starter/revise", step="preview", base_version="2", **wrong)
    assert answer.status_code == 400
    assert len(re.findall(r"<li>[^<]+</li>", answer.text)) >= 4
    same = operator.get("/console/plans/starter/revise").text
    assert 'value="54"' in same


def test_a_new_plan_is_previewed_then_created(operator, shop):
    fields = TERMS | {"name": "research", "title": "Research", "currency": "EUR"}
    assert "€60.50 per 1M" in operator.post_form("/console/plans/new", step="preview", **fields).text
    assert (
        operator.post_form("/console/plans/new", step="publish", **fields)
        .headers["location"]
        .startswith("/console/plans/research")
    )
    with shop.db.read() as conn:
        assert catalog.get_plan(conn, "research").terms.currency == "EUR"
    assert operator.post_form("/console/plans/new", step="publish", **fields).status_code == 400
    operator.post_form("/console/plans/research/archive", confirmed="yes")
    with shop.db.read() as conn:
        assert "research" not in {one.plan_name for one in catalog.list_plans(conn)}


def test_an_invoice_goes_from_draft_to_paid_with_questions_between(new_client, shop):
    shop.clock.at_ms += 15 * seed.DAY_MS  # December: November can be closed
    operator = new_client().sign_in(seed.OPERATOR)
    answer = operator.post_form("/console/invoices", period="2026-11")
    assert answer.headers["location"] == "/console/invoices?done=drafted&status=draft"
    with shop.db.read() as conn:
        draft = next(
            one for one in billing.list_invoices(conn, status="draft") if one.due_micros and one.period == "2026-11"
        )
    path = f"/console/invoices/{draft.id}"
    assert "never changes again" in operator.get(f"{path}/finalise").text
    assert operator.post_form(f"{path}/finalise", confirmed="yes").status_code == 303
    question = operator.get(f"{path}/pay").text
    kept = hidden(question)
    for _ in range(2):
        operator.post_form(f"{path}/pay", **kept)
    with shop.db.read() as conn:
        paid = billing.get_invoice(conn, draft.id)
        assert (paid.status, ledger.audit(conn)) == ("paid", [])
    assert operator.get(f"{path}/pdf").content.startswith(b"%PDF")
    assert operator.post_form(f"{path}/void", confirmed="yes").status_code == 409


def test_the_pdf_speaks_the_reader_s_language(buyer):
    import io

    from pypdf import PdfReader

    path = re.search(r'href="(/console/invoices/inv[^"/]*)"', buyer.get("/console/invoices").text).group(1)
    english = PdfReader(io.BytesIO(buyer.get(f"{path}/pdf?lang=en").content)).pages[0].extract_text()
    chinese = PdfReader(io.BytesIO(buyer.get(f"{path}/pdf?lang=zh").content)).pages[0].extract_text()
    assert "Northwind Analytics" in english
    assert english != chinese


def test_playground_calls_are_checked_and_streamed(buyer):
    headers = {"x-csrf-token": buyer.token()}
    good = {"model": seed.CHAT, "messages": [{"role": "user", "content": "hello"}], "temperature": 9, "max_tokens": 5}
    answer = buyer.post("/console/playground/chat", json=good, headers=headers)
    assert "data: [DONE]" in answer.text
    assert "2.0)" in answer.text  # held to the range
    for bad in (
        {},
        [],
        {"model": "m", "messages": []},
        good | {"messages": [{"role": "tool", "content": "x"}]},
        good | {"max_tokens": "x"},
    ):
        refused = buyer.post("/console/playground/chat", json=bad, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request"), bad
    for text, temperature in ((b"x", b"NaN"), (b"x", b"1e999"), (b"\\ud800", b"1"), (b"\xff", b"1")):
        body = b'{"model":"m","messages":[{"role":"user","content":"%b"}],"temperature":%b}' % (text, temperature)
        refused = buyer.post("/console/playground/chat", content=body, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request"), body
    broke = buyer.post(
        "/console/playground/chat", json=good | {"messages": [{"role": "user", "content": "refuse"}]}, headers=headers
    )
    assert (broke.status_code, broke.json()["error"]["code"]) == (402, "insufficient_funds")


def test_a_call_is_shown_in_the_currency_it_was_priced_in(operator, shop):
    with shop.db.write() as conn:
        terms = catalog.Terms(
            currency="EUR", charges=(catalog.Charge(meter="requests", price_micros=2_500_000_000_000),)
        )
        plan = catalog.create_plan(conn, seed.NOW_MS, "euro", "Euro", terms)
        row = dict(conn.execute(sell.usage_event.select().limit(1)).one()._mapping)
        dear = {"id": "evt_euro", "plan_version_id": plan.id, "price_picos": 2_500_000 * 10**6, "at_ms": seed.NOW_MS}
        conn.execute(sell.usage_event.insert().values(row | dear))
    for path in ("/console/usage/events", "/console/overview", "/console/usage/events/evt_euro"):
        assert "€2.50" in operator.get(path).text, path


@pytest.mark.parametrize(("lang", "told"), [("en", "The engine was lost"), ("zh", "引擎中断，这次调用没有完成，不收费。请重试。")])
def test_an_error_in_a_stream_that_has_begun_is_told_in_the_language_of_the_page(buyer, lang, told):
    buyer.get(f"/console/account?lang={lang}")
    headers = {"x-csrf-token": buyer.token()}
    good = {"model": seed.CHAT, "messages": [{"role": "user", "content": "please break off"}]}
    answer = buyer.post(f"/console/playground/chat?lang={lang}", json=good, headers=headers)
    last = answer.text.strip().split("\n\n")[-1].removeprefix("data: ")
    assert answer.status_code == 200 and answer.text.count("data:") == 2
    assert told in json.loads(last)["error"]["message"] and json.loads(last)["error"]["code"] == "engine_lost"


def test_the_overview_names_models_that_were_called_without_a_price(operator, shop, monkeypatch):
    with shop.db.read() as conn:
        plans = {one.plan_name: one for one in catalog.list_plans(conn)}
    refused = [
        Refused(plans["team"].id, "voice", 3, seed.NOW_MS - 60_000),
        Refused(plans["scale"].id, "yesterday", 1, seed.NOW_MS - 2 * seed.DAY_MS),
        Refused("pln_gone", "voice", 1, seed.NOW_MS),
    ]
    live = shop.live()
    monkeypatch.setattr(shop, "live", lambda: live | {"unpriced": refused}, raising=False)
    page = operator.get("/console/overview").text
    assert "voice was refused 3 times on Team, version 1" in page and "Give it a price" in page
    assert "yesterday was refused" not in page and "/console/plans/team?version=1" in page
    assert "voice 在套餐 Team（第 1 版）上被拒绝 3 次" in operator.get("/console/overview?lang=zh").text


def test_a_plan_names_what_it_has_no_price_for(operator, shop):
    page = operator.get("/console/plans/scale").text
    assert "Training tokens" in page and f"tollway price set scale training_tokens PRICE --model {seed.CHAT}" in page
    row = {"charge_meter": "requests", "charge_model": "*", "charge_price": "2", "charge_included": ""}
    asked = {"name": "by-call", "overage": "invoice", "aborted": "bill", "models": "*", "step": "preview", **row}
    covered = operator.post_form("/console/plans/new", **asked, currency="USD")
    assert covered.status_code == 200 and "tollway price set" not in covered.text
    asked |= {"name": "by-token", "charge_meter": "output_tokens"}
    preview = operator.post_form("/console/plans/new", **asked, currency="USD").text
    assert f"tollway price set by-token training_tokens PRICE --model {seed.CHAT}" in preview and "refused" in preview
    chinese = operator.get("/console/plans/scale?lang=zh").text
    assert "有些在售模型没有价格" in chinese and "训练 Token" in chinese


def test_every_meter_that_was_used_is_shown_with_its_unit(operator, buyer, shop):
    org = organization(shop, "Northwind")
    with shop.db.write() as conn:
        before = sell.usage_event.c
        mine = conn.execute(sell.usage_event.select().where(before.org_id == org.id).limit(1)).one()._mapping
        heard = {"input_tokens": 0, "cached_tokens": 0, "output_tokens": 0, "meter": "audio_seconds", "units": 4321}
        row = {
            **mine,
            "id": "evt_heard",
            "request_id": "req_heard",
            "model": "whisper",
            "at_ms": seed.NOW_MS - 1,
        } | heard
        conn.execute(sell.usage_event.insert().values(row))
        day = conn.execute(sell.usage_daily.select().where(sell.usage_daily.c.org_id == org.id).limit(1)).one()._mapping
        daily = {**day, "day": day_of(seed.NOW_MS), "model": "whisper", "requests": 1} | heard
        conn.execute(sell.usage_daily.insert().values(daily))
        terms = catalog.get_plan_version(conn, day["plan_version_id"]).terms
        free = msgspec.structs.replace(
            terms, charges=(catalog.Charge(meter="audio_seconds", price_micros=1, included=10_000),)
        )
        catalog.subscribe(conn, seed.NOW_MS, org.id, catalog.create_plan(conn, 0, "ears", "Ears", free).id)
    for client, asked in ((operator, f"&org={org.id}"), (buyer, "")):
        page = client.get(f"/console/usage?by=model&model=whisper{asked}").text
        assert "Seconds of audio" in page and "4,321</td>" in page and "Output tokens" not in page
        assert "音频秒数" in client.get(f"/console/usage?by=model&model=whisper&lang=zh{asked}").text
        sheet = client.get(f"/console/usage/table.csv?by=model&model=whisper{asked}")
        assert sheet.headers["content-type"].startswith("text/csv")
        head, line = sheet.content.decode("utf-8-sig").splitlines()
        assert head == "model,name,requests,audio_seconds,price_picos" and line.startswith("whisper,whisper,1,4321,")
        for path in ("/console/usage/events?model=whisper", "/console/usage/events/evt_heard"):
            assert "4,321" in client.get(path + asked.replace("&", "&" if "?" in path else "?")).text
    assert "4,321" in buyer.get("/console/plan").text, "what a free allowance of seconds has left"
    assert "4,321" in operator.get(f"/console/organizations/{org.id}").text
