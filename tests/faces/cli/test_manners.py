"""How every command behaves: data apart from talk, one JSON document, clear errors, no traceback, a next step."""

import json
import os
import subprocess
import sys

import pytest

from tollway.faces.cli import reference
from tollway.faces.cli.root import COMMANDS
from tollway.kit.clock import SystemClock, month_of

READING = [("org", "list"), ("plan", "list"), ("price", "list"), ("key", "list"), ("member", "list"), ("subscription", "list"),
           ("model", "list"), ("invoice", "list"), ("usage",), ("economics",), ("audit",), ("status",), ("config", "show"),
           ("login",), ("version",), ("model", "verify"), ("economics", "books")]  # fmt: skip


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_an_empty_shop_is_no_error_and_says_what_to_do_next(tollway, words):
    ran = tollway(*words)
    assert ran.code == 0 and ran.out.strip()
    assert ran.err.strip().splitlines()[-1].startswith("Next: ")


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_json_is_one_document_and_nothing_else(tollway, words):
    json.loads(tollway(*words, "--json").out)


WRONG = [
    ("org", "show", "nobody"), ("org", "create", ""), ("org", "create", "a\nb"), ("org", "create", "x", "--email", "no"),
    ("key", "create", "nobody"), ("key", "revoke", "key_x", "--yes"), ("plan", "show", "none"), ("plan", "create", "Not A Slug"),
    ("plan", "create", "p", "--price", "tokens"), ("plan", "create", "p", "--price", "bananas=1"),
    ("plan", "create", "p", "--price", "output_tokens=lots"), ("plan", "create", "p", "--price", "output_tokens=NaN"),
    ("plan", "create", "p", "--price", "output_tokens=-1"), ("plan", "create", "p", "--price", "output_tokens=0.0000001"),
    ("plan", "create", "p", "--included", "output_tokens=-5"), ("plan", "create", "p", "--rpm", "0"),
    ("plan", "create", "p", "--currency", "XYZ"), ("plan", "create", "p", "--overage", "maybe"),
    ("plan", "create", "p", "--file", "/nonexistent"), ("plan", "revise", "none", "--rpm", "5"),
    ("price", "set", "none", "output_tokens", "1"), ("subscription", "start", "nobody", "none"), ("subscription", "show", "nobody"),
    ("wallet", "show", "nobody"), ("wallet", "top-up", "nobody", "5"), ("member", "create", "not-an-address", "--org", "nobody"),
    ("member", "create", "a@b", "--role", "king"), ("member", "create", "a@b", "--role", "operator", "--org", "x"),
    ("member", "password", "a@b"), ("invoice", "show", "inv_x"), ("invoice", "draft", "nobody"), ("invoice", "draft", "--period", "May"),
    ("usage", "--by", "colour"), ("usage", "--from", "yesterday"), ("usage", "--from", "2026-02-01", "--to", "2026-01-01"),
    ("usage", "--request", "req_x"), ("economics", "report", "--from", "never"), ("model", "show", "none"), ("model", "verify", "none"),
    ("model", "retire", "none", "--yes"), ("model", "add", "m", "--upstream", "ftp://x"), ("model", "add", "m", "--upstream", "http://x",
     "--kind", "poem"), ("model", "import", "/nonexistent.gguf", "--name", "m"), ("model", "import", "/etc/passwd", "--name", "m"),
    ("model", "import", "/etc/passwd", "--name", "../m"), ("deploy", "none"), ("completion", "tcsh"),
]  # fmt: skip


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_a_mistake_gets_a_word_and_a_code_never_a_traceback(tollway, words):
    ran = tollway(*words)
    assert ran.code in range(2, 10) and ran.out == ""
    assert ran.err.startswith("Error: ") and "Traceback" not in ran.err


@pytest.mark.parametrize(
    "words", [("org", "show", "nobody"), ("deploy", "none"), ("usage", "--by", "colour")], ids=" ".join
)
def test_a_mistake_is_one_json_document_too(tollway, words):
    ran = tollway(*words, "--json")
    assert set(ran.data["error"]) == {"code", "message", "hint"} and ran.code > 1


@pytest.mark.parametrize(
    ("words", "said", "see"),
    [
        (("org", "shwo"), "Did you mean 'show'?", "tollway org -h"),
        (("org", "show"), "Missing argument 'ORG'.", "tollway org show -h"),
        (("org", "show", "a", "--nope"), "No such option: --nope", "tollway org show -h"),
        (("wallet", "top-up", "demo", "5", "6", "7"), "unexpected extra argument", "tollway wallet top-up -h"),
        (("usage", "--limit", "many"), "Invalid value for '--limit'", "tollway usage -h"),
        (("nope",), "No such command 'nope'.", "tollway -h"),
        (("--nope", "org"), "No such option: --nope", "tollway -h"),
    ],
    ids=str,
)
def test_a_command_line_that_cannot_be_read_is_one_json_document_too(tollway, words, said, see):
    ran = tollway(*words, "--json")
    assert ran.code == 2 and ran.data["error"]["code"] == "invalid_request"
    assert said in ran.data["error"]["message"] and ran.data["error"]["hint"] == f"See `{see}`."
    plain = tollway(*words)
    assert (plain.code, plain.out, plain.err) == (2, "", ran.err)


def test_a_name_is_shown_as_it_is_written(tollway):
    name = "ft:base:secret:1"
    assert name in tollway("org", "create", name).out
    assert name in tollway("org", "list").out


def test_a_mistyped_command_gets_a_suggestion(tollway):
    ran = tollway("subscripton")
    assert ran.code == 2 and "subscription" in ran.err
    assert "top-up" in tollway("wallet", "topup").err


def test_a_mistyped_name_gets_a_suggestion(ask, tollway):
    ask("org", "create", "globex")
    ask("plan", "create", "starter")
    assert "Did you mean `globex`?" in tollway("org", "show", "globx").err
    assert "Did you mean `starter`?" in tollway("plan", "show", "startr").err


DESTRUCTIVE = [
    ("org", "suspend", "acme"),
    ("subscription", "cancel", "acme"),
    ("plan", "archive", "pro"),
    ("key", "revoke", "KEY"),
]


@pytest.mark.parametrize("words", DESTRUCTIVE, ids=" ".join)
def test_what_cannot_be_undone_needs_a_yes(tollway, ask, shop, words):
    words = [shop["key"]["id"] if word == "KEY" else word for word in words]
    refused = tollway(*words)
    assert refused.code == 7 and "--yes" in refused.err
    assert tollway(*words, "--yes").code == 0


def test_a_home_that_is_not_there_is_not_made_by_looking(tollway, home):
    ran = tollway("org", "list", "--home", str(home / "typo"))
    assert ran.code == 6 and "tollway up --home" in ran.err
    assert not (home / "typo").exists()


def test_a_bad_setting_is_named_with_its_source(tollway, home):
    (home / "tollway.toml").write_text('port = "eighty"\nprot = 1\n')
    ran = tollway("config", "show")
    assert ran.code == 2 and "port" in ran.err and "'prot'" in ran.err and "Traceback" not in ran.err


def test_config_says_where_each_value_came_from(ask, home, monkeypatch):
    (home / "tollway.toml").write_text("port = 9001\n")
    monkeypatch.setenv("TOLLWAY_LOG_LEVEL", "debug")
    monkeypatch.setenv("TOLLWAY_DATABASE_URL", "postgresql://user:secret@nowhere/db")
    rows = {row["name"]: row for row in ask("config", "show")["settings"]}
    assert (rows["port"]["value"], rows["port"]["source"]) == (9001, "tollway.toml")
    assert rows["log_level"]["source"] == "TOLLWAY_LOG_LEVEL"
    assert rows["host"]["source"] == "default"
    assert "secret" not in str(rows)


def test_a_database_that_is_away_is_a_sentence(tollway, monkeypatch):
    monkeypatch.setenv("TOLLWAY_DATABASE_URL", "postgresql://user:secret@127.0.0.1:9/db")
    ran = tollway("org", "list")
    assert ran.code == 9 and "Traceback" not in ran.err and "secret" not in ran.err


def test_a_file_that_is_no_database_is_a_sentence(tollway, home):
    (home / "tollway.db").write_bytes(b"this is not a database, whatever its name says" * 100)
    ran = tollway("org", "list")
    assert ran.code > 0 and "Traceback" not in ran.err and ran.err.startswith("Error: ")


def test_a_taken_port_is_said_before_anything_is_made(tollway, home):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = tollway("up", "--port", str(port))
    assert ran.code == 9 and f"--port {port + 1}" in ran.err
    assert list(home.iterdir()) == []


def test_a_reader_who_leaves_is_no_error(home):
    command = f"{sys.executable} -m tollway config show --home {home} | head -1"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(tollway, shell):
    assert "_TOLLWAY_COMPLETE" in tollway("completion", shell).out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("tollway su", {"subscription"}), ("tollway wallet t", {"top-up"}), ("tollway plan create --fl", {"--flat-fee"})],
)
def test_the_shell_completes_commands_and_options(typed, offered):
    asking = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1), "_TOLLWAY_COMPLETE": "complete_bash"}
    run = subprocess.run(
        [sys.executable, "-c", "from tollway.faces.cli import main; main()"], env=os.environ | asking,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert set(run.stdout.split()) == offered


def test_every_command_is_in_the_reference_with_help_for_everything():
    page = reference.cli()
    for name in COMMANDS:
        assert f"### tollway {name}\n" in page
    assert ": None" not in page and "`: \n" not in page


def test_the_version_has_the_usual_flag(tollway):
    assert tollway("--version").out == tollway("version").out


@pytest.mark.parametrize(
    "words", [("--json", "org", "list"), ("--home", "/x", "status"), ("--home=/x", "status")], ids=" ".join
)
def test_an_option_before_the_command_is_told_where_it_belongs(tollway, words):
    ran = tollway(*words)
    assert (
        ran.code == 2
        and "stands behind the command" in ran.err
        and "Do this: For example: tollway status --" in ran.err
    )


def test_a_narrow_terminal_shows_cards_and_cuts_no_id(ask, tollway, monkeypatch, shop):
    draft = ask("invoice", "draft", "acme")[0]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for columns in ("50", "70", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        assert draft["id"] in tollway("invoice", "list").out, columns
        assert shop["key"]["id"] in tollway("key", "list").out, columns


def test_what_comes_next_is_named_so_that_it_can_be_pasted(ask, tollway, shop):
    ran = tollway("invoice", "draft", "acme")
    assert f"Next: tollway invoice show {ask('invoice', 'list')[0]['id']}" in ran.err
    assert f"Next: tollway invoice show {ask('invoice', 'list')[0]['id']}" in tollway("invoice", "list").err


def test_a_key_that_is_not_there_is_said_before_a_yes_is_asked_for(tollway, ask, shop):
    assert tollway("key", "revoke", "key_x").code == 6
    assert "(web)" in tollway("key", "revoke", shop["key"]["id"]).err


def test_an_unknown_meter_is_named_with_those_there_are(tollway):
    ran = tollway("plan", "create", "p", "--price", "ouput_tokens=1")
    assert "Did you mean `output_tokens`?" in ran.err and "cached_tokens" in ran.err


def test_a_wallet_is_read_from_its_owners_side(tollway, shop):
    assert (
        "$10.00" in tollway("wallet", "entries", "acme").out
        and "-$10.00" not in tollway("wallet", "entries", "acme").out
    )


def test_an_upstream_is_shown_in_words(tollway):
    tollway("model", "add", "big", "--upstream", "http://127.0.0.1:9/v1", "--upstream-key-env", "THE_KEY")
    shown = tollway("model", "show", "big").out
    assert "$THE_KEY" in shown and "created_ms" not in shown and "{" not in shown


def test_a_running_month_is_not_offered_for_closing(ask, tollway, shop):
    for _ in range(2):  # where it ends in this very moment, the next one runs
        draft = ask("invoice", "draft", "acme")[0]
        told = tollway("invoice", "show", draft["id"]).err
        if draft["period"] == month_of(SystemClock().now_ms()):
            break
    assert f"Next: tollway invoice pdf {draft['id']}" in told
