"""`tollway up`, as a newcomer meets it: a real process, the real model, the printed line pasted into a shell."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest

from tests.ports import free_port

pytestmark = pytest.mark.engine


@contextmanager
def running(home, port, *flags, ready=r"Ready in|ready_s"):
    """The gateway as a process; gives (process, everything it said on stdout until it was ready)."""
    command = [sys.executable, "-m", "tollway", "up", "--home", str(home), "--port", str(port), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = ""
    try:
        while not re.search(ready, said):
            line = process.stdout.readline()
            assert line, f"it ended: {process.stderr.read()}"
            said += line
        yield process, said
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)


def command(home, *words):
    run = subprocess.run(
        [sys.executable, "-m", "tollway", *words, "--home", str(home), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    return run.returncode, json.loads(run.stdout)


def test_a_newcomer_pastes_the_line_and_sees_money_arrive(tmp_path):
    home, port = tmp_path / "home", free_port()
    with running(home, port) as (process, said):
        for secret in (r"operator@localhost +(\S+)", r"demo@localhost +(\S+)", r"(tw_live_\w{38})"):
            assert re.search(secret, said)
        line = re.search(r"^curl .*$", said, re.MULTILINE).group(0)
        answer = json.loads(subprocess.run(line, shell=True, capture_output=True, text=True, timeout=300).stdout)
        assert answer["usage"]["completion_tokens"] > 0 and answer["choices"][0]["message"]["content"]

        code, wallet = command(home, "wallet", "show", "demo")
        assert code == 0 and wallet["balance_micros"] < 10_000_000
        code, events = command(home, "usage", "demo", "--by", "event")
        assert [event["output_tokens"] for event in events] == [answer["usage"]["completion_tokens"]]
        code, status = command(home, "status")
        assert status["running"] and status["ready"] and status["url"].endswith(str(port))
        within = time.monotonic() + 180  # what a call cost is not something to wait for
        while not command(home, "economics", "books")[1]["attributed_micros"]:
            assert time.monotonic() < within
        assert command(home, "doctor")[1]["ok"]

        second = subprocess.run(
            [sys.executable, "-m", "tollway", "up", "--home", str(home), "--port", str(free_port())],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert second.returncode == 7 and "Another gateway" in second.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == 0
    code, books = command(home, "economics", "books")
    assert books["attributed_micros"] > 0 and books["idle_micros"] > 0
    assert books["attributed_micros"] + books["idle_micros"] + books["failed_micros"] == books["hardware_micros"]
    assert command(home, "audit") == (0, {"ok": True, "problems": []})

    started = time.monotonic()
    with running(home, port, "--json") as (_, said):
        took = time.monotonic() - started
        again = json.loads(said)
        assert not again["first"] and "tw_live_" not in said and not again["operator_password"]
        made = command(home, "key", "create", "demo")[1]["key"]
        assert models_of(port, made) == [
            "all-minilm-l6-v2",
            "smollm2-135m-instruct",
        ]  # at once: the key works when it is shown
    assert took < 300  # the promise of 3 s is a bench's figure; this one only catches a second import


def test_no_starter_means_an_empty_shop_with_an_operator(tmp_path):
    home, port = tmp_path / "home", free_port()
    with running(home, port, "--no-starter", "--json") as (_, said):
        first = json.loads(said)
        assert first["first"] and first["operator_password"] and not first["key"] and first["models"] == []
        assert command(home, "org", "list")[1] == []
        assert command(home, "model", "list")[1] == []


def test_ctrl_c_ends_it_in_order(tmp_path):
    with running(tmp_path / "home", free_port(), "--no-starter") as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == 0
        assert "Traceback" not in process.stderr.read()


def models_of(port, key):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models", headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return sorted(model["id"] for model in json.load(answer)["data"])


def test_a_place_for_replicas_that_is_none_is_named_with_those_there_are(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tollway", "up", "--home", str(tmp_path / "home"), "--port", str(free_port()), "--no-starter"],
        env=os.environ | {"TOLLWAY_RUNTIME": "kubernetes"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "The setting runtime is 'kubernetes'" in done.stderr
    assert "Do this: Leave it empty for this machine, or say ray://local or ray://HOST:PORT" in done.stderr
