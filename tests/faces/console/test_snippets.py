"""The code a buyer copies: it is code, in each language, for each kind of call. Real gateways run the curl: tests/clients."""

import json
import subprocess

import pytest

from tollway.faces.console import snippets, words
from tollway.flows import sample_calls
from tollway.flows.sample_calls import SampleCall

ODD = {"note": "it's a \"quote\" {body} `x` $HOME\n", "ok": True, "none": None, "list": [1.5, "汉字"]}
PATHS = {name: path for name, (path, _) in sample_calls._CALLS.items()}


def call(name):
    return SampleCall(call=name, path=PATHS[name], body={"model": "m", "input": ODD})


@pytest.mark.parametrize("name", PATHS)
def test_python_compiles_and_holds_the_very_body(name):
    code = dict(snippets.samples("http://h:1", "", call(name)))["Python"]
    compile(code, name, "exec")
    assert repr(ODD["list"]).replace("'", '"') in code and 'os.environ["TOLLWAY_KEY"]' in code
    assert "tw_live_x" in dict(snippets.samples("http://h:1", "tw_live_x", call(name)))["Python"]


def test_javascript_is_read_by_node(tmp_path):
    """All of them as modules, which Node parses without running."""
    for name in PATHS:
        code = dict(snippets.samples("http://h:1", "", call(name)))["JavaScript"]
        (tmp_path / f"{name}.mjs").write_text(code)
        done = subprocess.run(["node", "--check", str(tmp_path / f"{name}.mjs")], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_the_shell_hands_curl_the_very_body(tmp_path):
    """A curl that only writes down what it was given."""
    fake = tmp_path / "curl"
    fake.write_text('#!/bin/sh\nfor one in "$@"; do printf "%s\\0" "$one"; done\n')
    fake.chmod(0o755)
    code = snippets.curl("http://h:1", call("classify"), "tw_live_x")
    given = subprocess.run(["sh", "-c", code], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, timeout=60)
    words_ = given.stdout.decode().split("\0")
    assert words_[0] == "http://h:1/v1/classify" and "Authorization: Bearer tw_live_x" in words_
    assert json.loads(words_[words_.index("-d") + 1]) == {"model": "m", "input": ODD}


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_call_has_a_name_in_both_languages(lang):
    assert {f"start.calls.{name}" for name in PATHS} <= words.dictionary(lang).keys()


def test_the_quick_start_shows_the_call_that_was_chosen(buyer):
    page = buyer.get("/console/start").text
    assert "client.chat.completions.create(" in page
    assert "404" not in str(buyer.get("/console/start?model=no-such&call=no-such").status_code)


def test_the_recording_can_be_fetched_by_anyone(anyone):
    answer = anyone.get(f"/console/static/{snippets.RECORDING}")
    assert answer.headers["content-type"] == "audio/wav" and answer.content[:4] == b"RIFF"
