"""Selling by command: organizations, plans, subscriptions, wallets, keys, invoices; on a real home."""

import csv
import io

import pytest

from tests.serve import tiny_versions
from tollway.guard import keys
from tollway.kit.settings import Settings
from tollway.sell import catalog
from tollway.shop import Shop


def test_an_organization_is_opened_listed_suspended_and_resumed(ask):
    made = ask("org", "create", "acme", "--email", "billing@acme.example")
    assert made["name"] == "acme" and made["id"].startswith("org_")
    assert [(one["name"], one["plan"], one["wallet_micros"]) for one in ask("org", "list")] == [("acme", None, 0)]
    ask("org", "suspend", "acme", "--yes")
    assert ask("org", "show", "acme")["suspended_ms"] is not None
    ask("org", "resume", made["id"])
    assert ask("org", "show", "acme")["suspended_ms"] is None


def test_a_plan_is_made_of_options_and_revised_by_what_changes(ask):
    made = ask("plan", "create", "pro", "--title", "Pro", "--flat-fee", "9.50", "--price", "output_tokens=2",
               "--price", "output_tokens@tiny=0.25", "--included", "output_tokens=1_000", "--rpm", "60",
               "--overage", "invoice", "--model", "tiny", "--model", "big")  # fmt: skip
    terms = made["terms"]
    assert (made["version"], terms["flat_fee_micros"], terms["overage"]) == (1, 9_500_000, "invoice")
    assert terms["models"] == ["tiny", "big"] and terms["limits"]["rpm"] == 60
    assert terms["charges"] == [
        {"meter": "output_tokens", "model": "*", "price_micros": 2_000_000, "included": 1000},
        {"meter": "output_tokens", "model": "tiny", "price_micros": 250_000, "included": 0},
    ]
    revised = ask("plan", "revise", "pro", "--price", "output_tokens=3", "--tpm", "500")
    assert revised["version"] == 2
    assert revised["terms"]["charges"][0] == {
        "meter": "output_tokens",
        "model": "*",
        "price_micros": 3_000_000,
        "included": 1000,
    }
    assert revised["terms"]["limits"] == terms["limits"] | {"tpm": 500}
    assert ask("plan", "show", "pro", "--version", "1")["terms"] == terms


def test_who_loses_models_with_a_plan_is_named_with_the_way_back(tollway, ask, shop):
    ask("model", "add", "far", "--upstream", "http://127.0.0.1:9/v1")
    ask("plan", "create", "narrow", "--price", "output_tokens=2", "--model", "other")
    told = tollway("subscription", "start", "acme", "narrow").err
    assert "calls of acme to far are refused from now on" in told
    assert "tollway subscription start acme pro --version 1" in told
    assert "refused" not in tollway("subscription", "start", "acme", "pro").err


def test_a_plan_travels_as_json(ask, tmp_path):
    ask("plan", "create", "pro", "--price", "output_tokens=2", "--rpm", "60")
    file = tmp_path / "terms.json"
    file.write_text(__import__("json").dumps(ask("plan", "show", "pro")))
    assert ask("plan", "create", "copy", "--file", str(file))["terms"] == ask("plan", "show", "pro")["terms"]


def test_what_has_no_price_is_named_with_what_to_type(ask, tollway):
    ask("plan", "create", "pro", "--price", "output_tokens=2", "--price", "training_tokens=3")
    ran = tollway("model", "add", "pictures", "--upstream", "http://127.0.0.1:9/v1", "--kind", "image-generation")
    assert "pro: pictures: images: no price, refused" in ran.err
    assert "tollway price set pro images PRICE --model pictures" in ran.err
    ask("plan", "create", "open", "--price", "output_tokens=2", "--price", "input_tokens=2", "--unpriced", "free")
    ran = tollway("plan", "show", "open")
    assert "open: pictures: images: no price, FREE" in ran.err
    assert ask("plan", "show", "pro")["unpriced"] == [{"model": "pictures", "meter": "images", "outcome": "refused"}]
    priced = tollway("price", "set", "pro", "images", "0", "--model", "pictures")
    assert "no price" not in priced.err, "a price of 0 is a price"
    assert ask("plan", "show", "pro")["unpriced"] == []
    assert "prices nothing" in tollway("plan", "create", "flat", "--flat-fee", "9").err


def test_one_price_is_set_and_listed(ask):
    ask("plan", "create", "pro", "--price", "output_tokens=2")
    ask("price", "set", "pro", "input_tokens", "0.5", "--model", "tiny", "--included", "1000")
    assert ask("price", "list", "pro") == [
        {
            "plan": "pro",
            "currency": "USD",
            "meter": "output_tokens",
            "model": "*",
            "price_micros": 2_000_000,
            "included": 0,
        },
        {
            "plan": "pro",
            "currency": "USD",
            "meter": "input_tokens",
            "model": "tiny",
            "price_micros": 500_000,
            "included": 1000,
        },
    ]


def test_a_subscription_starts_moves_and_ends(ask, shop):
    ask("plan", "create", "big", "--flat-fee", "99")
    assert ask("subscription", "show", "acme")["plan"] == "pro"
    ask("subscription", "start", "acme", "big")
    assert [one["plan"] for one in ask("subscription", "list")] == ["big"]
    ask("subscription", "cancel", "acme", "--yes")
    assert ask("subscription", "list") == []


def test_money_moves_once_per_reference_and_the_books_balance(ask, shop):
    again = ask("wallet", "top-up", "acme", "10", "--reference", "first")
    assert (again["moved"], again["balance_micros"]) == (False, 10_000_000)
    assert ask("wallet", "grant", "acme", "2.5")["balance_micros"] == 12_500_000
    assert [entry["kind"] for entry in ask("wallet", "entries", "acme")] == ["grant", "top_up"]
    assert ask("audit") == {"ok": True, "problems": []}


def test_a_key_is_shown_once_limited_and_revoked(ask, tollway, shop):
    made = ask("key", "create", "acme", "--name", "batch", "--rpm", "5", "--model", "tiny", "--expires-days", "1")
    assert keys.well_formed(made["key"]) and made["hint"] == keys.hint(made["key"])
    listed = ask("key", "list", "acme")
    assert [(one["name"], one["rpm"], one["models"]) for one in listed] == [("batch", 5, ["tiny"]), ("web", None, None)]
    assert made["key"] not in tollway("key", "list").out
    ask("key", "revoke", made["id"], "--yes")
    assert ask("key", "list", "acme")[0]["revoked_ms"] is not None


def test_a_month_is_drafted_finalised_printed_and_paid(ask, shop, tmp_path):
    drafts = ask("invoice", "draft")
    assert [(one["status"], one["number"]) for one in drafts] == [("draft", None)]
    assert ask("invoice", "draft", "acme", "--period", drafts[0]["period"])[0]["id"] == drafts[0]["id"]
    assert ask("invoice", "list", "--status", "draft")[0]["lines"][0]["price_micros"] == 9_000_000
    file = tmp_path / "invoice.pdf"
    ask("invoice", "pdf", drafts[0]["id"], "--out", str(file), "--locale", "zh")
    assert file.read_bytes().startswith(b"%PDF-")


def test_people_get_a_generated_password_once(ask, tollway, shop):
    made = ask("member", "create", "ann@acme.example", "--org", "acme", "--role", "owner")
    assert len(made["password"]) == 23
    new = ask("member", "password", "ann@acme.example")["password"]
    assert new != made["password"]
    assert new not in tollway("member", "list").out
    assert ask("org", "show", "acme")["members"] == ["ann@acme.example"]


def test_login_makes_and_resets_the_operator(ask):
    assert ask("login")["email"] is None
    first = ask("login", "--reset", "--yes")
    second = ask("login", "--reset", "--yes")
    assert first["email"] == second["email"] == "operator@localhost"
    assert first["password"] != second["password"]


def test_usage_and_economics_of_a_shop_without_calls(ask, shop):
    days = ask("usage", "acme")
    assert len(days) == 30 and sum(day["requests"] for day in days) == 0
    books = ask("economics", "books")
    assert books["attributed_micros"] + books["idle_micros"] + books["failed_micros"] == books["hardware_micros"] == 0
    assert ask("economics")["rows"] == []
    assert ask("economics", "report", "--from", "2026-01-01", "--to", "2026-01-31")["from_ms"] == 1767225600000


def test_every_meter_that_was_used_has_a_column(ask, tollway, shop, home, record_use):
    with Shop.open(Settings(home, environment={})) as opened, opened.db.write() as conn:
        sub = catalog.running_subscription(conn, shop["org"]["id"])
        now = opened.clock.now_ms()
        record_use(conn, sub, model="ears", at_ms=now, meter="audio_seconds", units=4321, operation="transcription")
        record_use(conn, sub, model="words", at_ms=now + 1, output_tokens=7)
    by_model = tollway("usage", "--by", "model").out
    assert "audio seconds" in by_model and "4,321" in by_model and "output" in by_model and "images" not in by_model
    calls = tollway("usage", "--by", "event").out
    assert "audio seconds" in calls and "4,321" in calls
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(tollway("usage", "--by", "model", "--csv").out))}
    assert (rows["ears"]["audio_seconds"], rows["words"]["output_tokens"]) == ("4321", "7")
    assert {row["model"]: row["audio_seconds"] for row in ask("usage", "--by", "model")} == {"ears": 4321, "words": 0}


@pytest.mark.parametrize("by", ["model", "event"])
def test_a_spreadsheet_finds_no_formula(tollway, shop, home, record_use, by):
    with Shop.open(Settings(home, environment={})) as opened, opened.db.write() as conn:
        sub = catalog.running_subscription(conn, shop["org"]["id"])
        record_use(conn, sub, model="=HYPERLINK(A1)", at_ms=opened.clock.now_ms(), output_tokens=7)
    rows = list(csv.DictReader(io.StringIO(tollway("usage", "--by", by, "--csv").out)))
    assert [row["model"] for row in rows] == ["'=HYPERLINK(A1)"]


@pytest.mark.parametrize("by", ["day", "model", "key", "org", "event"])
def test_usage_is_grouped_every_way(ask, shop, by):
    assert isinstance(ask("usage", "--by", by), list)


def test_an_upstream_is_offered_shown_and_retired(ask, tollway, monkeypatch):
    made = ask(
        "model",
        "add",
        "big",
        "--upstream",
        "http://127.0.0.1:9/v1/",
        "--upstream-model",
        "llama",
        "--upstream-key-env",
        "K",
    )
    assert made["upstream"] == {
        "url": "http://127.0.0.1:9/v1",
        "model": "llama",
        "key_env": "K",
        "more": [],
        "costs": [],
    }
    assert ask("model", "show", "big")["state"] == "on offer"
    words = ("model", "add", "big", "--upstream", "http://127.0.0.1:9/v1", "--upstream-key-env", "FAR_KEY")
    assert "Note: FAR_KEY is not set here." in tollway(*words).err
    monkeypatch.setenv("FAR_KEY", "k")
    assert "FAR_KEY" not in tollway(*words).err
    ask("model", "retire", "big", "--yes")
    assert ask("model", "list") == []
    assert ask("model", "list", "--all")[0]["state"] == "retired"


def test_a_gguf_file_becomes_a_signed_package_on_offer(ask, tollway, tmp_path, home):
    file = tiny_gguf(tmp_path / "tiny.gguf")
    made = ask("model", "import", str(file), "--name", "tiny")
    assert (made["version"], made["offered"]) == ("1", True)
    assert (
        ask("model", "import", str(file), "--name", "tiny")["version"] == "1"
    )  # the same weights are the same version
    assert [verdict["ok"] for verdict in ask("model", "verify", "tiny")] == [True]
    assert ask("deploy", "tiny", "--version", "1")["version"] == "1"
    weights = next((home / "packages" / "tiny" / "1").glob("*.gguf"))
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    damaged = tollway("model", "verify", "--json")
    assert damaged.code == 1 and not damaged.data[0]["ok"]
    assert tollway("deploy", "tiny").code == 7


def test_a_step_says_who_answers_and_the_way_back(ask, tollway, tmp_path, home):
    ask("plan", "create", "pro", "--price", "input_tokens=2")
    with Shop.open(Settings(home)) as opened:
        for number in ("1", "2"):
            tiny_versions.shelve(opened.store, tmp_path / number, "equal")
    ask("deploy", "mood@1")
    copies = tollway("deploy", "mood@2", "--shadow", "5%")
    assert "5 % of the calls are copied to mood@2; 1 answers all of them." in copies.out
    assert "Next: tollway deploy stop mood" in copies.err and "deploy mood@2 --canary 10%" in copies.err
    share = tollway("deploy", "mood@2", "--canary", "5%")
    assert "5 % of the calls are answered by mood@2, the rest by 1." in share.out
    assert "Next: tollway deploy back mood" in share.err


def test_the_same_commands_work_on_postgres(ask, tollway, monkeypatch, postgres_url):
    monkeypatch.setenv("TOLLWAY_DATABASE_URL", postgres_url)
    ask("plan", "create", "pro", "--flat-fee", "9", "--price", "output_tokens=2")
    ask("org", "create", "acme")
    ask("subscription", "start", "acme", "pro")
    assert ask("wallet", "top-up", "acme", "10", "--reference", "one")["balance_micros"] == 10_000_000
    assert not ask("wallet", "top-up", "acme", "10", "--reference", "one")["moved"]
    made = ask("key", "create", "acme")
    ask("key", "revoke", made["id"], "--yes")
    assert [one["status"] for one in ask("invoice", "draft")] == ["draft"]
    assert ask("status")["database"].startswith("PostgreSQL")
    for words in (("usage",), ("usage", "--by", "org"), ("economics",), ("audit",), ("org", "list"), ("model", "list")):
        assert tollway(*words, "--json").code == 0


def tiny_gguf(path):
    import gguf
    import numpy

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_file_type(0)
    writer.add_tensor("token_embd.weight", numpy.zeros((16, 8), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
