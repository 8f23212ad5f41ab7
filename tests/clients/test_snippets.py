"""The code of the console's quick start, pasted: curl, Python and JavaScript, with a key filled in."""

import json
import os
import subprocess
import sys

import pytest

from tests.clients.open_shop import CHAT, EMBED, OpenShop
from tollway.faces.console import snippets
from tollway.flows import sample_calls
from tollway.kit.settings import Settings
from tollway.serve import models
from tollway.shop import Shop

PASTED = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def code(open_shop: OpenShop, model: str) -> dict[str, dict[str, str]]:
    """By call and language."""
    with Shop.open(Settings(open_shop.home, environment={})) as shop, shop.db.read() as conn:
        calls = sample_calls.of(shop.store, shop.settings, models.get_model(conn, model))
    return {one.call: dict(snippets.samples(open_shop.url, open_shop.key, one)) for one in calls}


@pytest.mark.parametrize(("model", "calls"), [(CHAT, ["chat", "completions"]), (EMBED, ["embeddings", "rerank"])])
def test_each_curl_is_answered(open_shop: OpenShop, model: str, calls: list[str]) -> None:
    shown = code(open_shop, model)
    assert list(shown) == calls
    for name, samples in shown.items():
        done = subprocess.run(["bash", "-c", samples["curl"]], env=PASTED, capture_output=True, text=True, timeout=300)
        answer = json.loads(done.stdout)
        assert "error" not in answer and (answer.get("choices") or answer.get("data") or answer.get("results")), name


def test_the_python_streams_an_answer(open_shop: OpenShop) -> None:
    python = code(open_shop, CHAT)["chat"]["Python"]
    done = subprocess.run([sys.executable, "-c", python], env=PASTED, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
