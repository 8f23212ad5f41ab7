"""From a package to money: deploy with a price, a paid call, the wallet, the usage, the lineage; for text, pictures, tables.

A real gateway with small real models (see tests/serve/tiny_models.py), one for all tests here.
"""

import base64
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.proof.house import GatewayProcess, make_customer, start_gateway
from tests.serve import tiny_models
from tollway.faces.console import snippets
from tollway.flows import sample_calls
from tollway.kit.settings import Settings
from tollway.sell import catalog, ledger, usage
from tollway.serve import models
from tollway.shop import Shop

TERMS = catalog.Terms(overage="wallet", charges=(catalog.Charge(meter="input_tokens", price_micros=1_000_000),))
PRICES = {
    "mood": ["input_tokens=2", "explanations=5000"],
    "words": ["input_tokens=0.5"],
    "digits": ["images=1000", "explanations=5000"],
    "rent": ["rows=200", "explanations=5000"],
}

PASTED = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def cli(home: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tollway", *words, "--home", str(home), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    home = tmp_path_factory.mktemp("home")
    with Shop.open(Settings(home, environment={})) as shop:
        for name in tiny_models.MAKERS:
            maker = mood_with_its_graph if name == "mood" else None
            tiny_models.shelve(shop.store, name, tmp_path_factory.mktemp(name), maker)
    for name, prices in PRICES.items():
        words = [word for price in prices for word in ("--price", price)]
        said = cli(home, "deploy", name, "--plan", "factory", *words)
        assert said["version"] == "1" and said["plan"]["plan_name"] == "factory"
        assert "curl" in said["curl"] and said["path"] in said["curl"]
    gateway = start_gateway(home, starter=False)
    yield gateway
    gateway.stop()


def mood_with_its_graph(folder: Path) -> Any:
    """Served as ONNX, and looked into by its `.pt2`."""
    about = tiny_models.text_classifier(folder)
    tiny_models.in_torch(folder)
    return about


class Buyer:
    def __init__(self, gateway: GatewayProcess, wallet_micros: int = 1_000_000) -> None:
        self.gateway = gateway
        self.name = f"b-{uuid.uuid4().hex[:10]}"
        made = make_customer(gateway.home, TERMS, wallet_micros, name=self.name)
        self.org_id, self.key = made.org_id, made.key
        cli(gateway.home, "subscription", "start", self.name, "factory")
        self.http = httpx.Client(
            base_url=gateway.url, headers={"authorization": f"Bearer {self.key}"}, timeout=300, trust_env=False
        )
        end = time.monotonic() + 120
        while self.http.get("/v1/key").json().get("plan", {}).get("name") != "factory":
            assert time.monotonic() < end, "the gateway did not notice the new plan"
            time.sleep(0.02)

    def ask(self, path: str, **body: Any) -> tuple[int, Any, httpx.Headers]:
        reply = self.http.post(path, json=body)
        return reply.status_code, reply.json(), reply.headers

    def wallet(self) -> int:
        with Shop.open(Settings(self.gateway.home, environment={})) as shop, shop.db.read() as conn:
            return ledger.wallet_micros(conn, self.org_id, "USD")

    def totals(self) -> usage.Totals:
        with Shop.open(Settings(self.gateway.home, environment={})) as shop, shop.db.read() as conn:
            return usage.totals(conn, self.org_id, 0)


@pytest.fixture
def buyer(gateway: GatewayProcess) -> Iterator[Buyer]:
    one = Buyer(gateway)
    yield one
    one.http.close()


def picture(number: int) -> str:
    return "data:image/png;base64," + base64.b64encode(tiny_models.digits(number + 1)[0][number]).decode()


def test_a_text_is_classified_paid_and_traced_to_its_data(buyer: Buyer) -> None:
    status, answer, headers = buyer.ask("/v1/classify", model="mood", input=["a lovely film", "a boring film"], top_k=1)
    assert status == 200, answer
    assert [one["label"] for one in answer["data"]] == ["good", "bad"]
    assert (answer["model"], answer["usage"]["prompt_tokens"]) == ("mood", 6)
    assert headers["x-tollway-model-version"] == "1"
    assert buyer.wallet() == 1_000_000 - 6 * 2
    shown = buyer.http.get("/v1/models/mood").json()
    assert (shown["kind"], shown["version"], shown["input"]) == ("classification", "1", "text")
    walked = cli(buyer.gateway.home, "model", "lineage", f"mood@{headers['x-tollway-model-version']}")
    assert walked["steps"][0]["digest"] == shown["digest"]
    assert walked["steps"][0]["datasets"] == {"movies@1": "sha256:" + "2" * 64}
    assert walked["steps"][0]["run"] == "run_test"
    assert cli(buyer.gateway.home, "model", "lineage", headers["x-request-id"])["steps"] == walked["steps"]


def test_pictures_and_rows_are_paid_by_the_piece(buyer: Buyer) -> None:
    status, answer, _ = buyer.ask("/v1/classify", model="digits", input=[{"image": picture(n)} for n in range(3)])
    assert (status, [one["label"] for one in answer["data"]]) == (200, ["0", "1", "2"])
    assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0, "images": 3}
    assert buyer.wallet() == 1_000_000 - 3 * 1000
    status, answer, _ = buyer.ask("/v1/classify", model="rent", input={"size": 50, "rooms": 2})
    assert (status, round(answer["data"][0]["value"])) == (200, 780)
    assert buyer.wallet() == 1_000_000 - 3 * 1000 - 200
    assert (buyer.totals().images, buyer.totals().rows, buyer.totals().requests) == (3, 1, 2)


def test_embeddings_of_an_encoder_through_the_openai_client(buyer: Buyer) -> None:
    client = openai.OpenAI(base_url=f"{buyer.gateway.url}/v1", api_key=buyer.key)
    made = client.embeddings.create(model="words", input=["a lovely film", "a lovely film", "难看 的 电影"])
    assert made.data[0].embedding == pytest.approx(made.data[1].embedding)
    assert len(made.data[2].embedding) == 16
    assert made.usage.prompt_tokens == 11


@pytest.mark.parametrize("method", ["shap", "lime", "occlusion", "permutation", "integrated-gradients"])
def test_an_answer_is_explained_and_explanations_are_paid(method: str, buyer: Buyer) -> None:
    status, answer, _ = buyer.ask("/v1/explain", model="mood", input="a lovely boring film", method=method, samples=64)
    assert status == 200, answer
    weights = {unit["text"].strip(): unit["weight"] for unit in answer["data"][0]["units"]}
    sign = 1 if answer["data"][0]["target"] == "good" else -1
    assert sign * weights["lovely"] > 0 > sign * weights["boring"]
    assert answer["usage"]["explanations"] == 1
    assert buyer.wallet() == 1_000_000 - 5000
    assert buyer.totals().explanations == 1
    assert answer["data"][0]["faithfulness"]["gain"] > 0


def test_a_model_says_whether_it_can_be_looked_into(buyer: Buyer) -> None:
    able = {name: buyer.http.get(f"/v1/models/{name}").json()["capabilities"] for name in PRICES}
    assert [name for name in PRICES if "explain_inside" in able[name]] == ["mood"]
    assert "explain" in able["digits"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/classify", {"model": "mood", "input": []}, 400, "input"),
        ("/v1/classify", {"model": "mood", "input": ["x"] * 257}, 400, "input"),
        ("/v1/classify", {"model": "mood", "input": {"txet": "x"}}, 400, "txet"),
        ("/v1/classify", {"model": "mood", "input": 7}, 400, "input"),
        ("/v1/classify", {"model": "mood", "input": "x", "top_k": 0}, 400, "top_k"),
        ("/v1/classify", {"model": "mood", "input": "x", "lora": []}, 400, "lora"),
        ("/v1/classify", {"model": "words", "input": "x"}, 400, "model"),
        ("/v1/classify", {"model": "nothing", "input": "x"}, 404, "model"),
        ("/v1/chat/completions", {"model": "mood", "messages": [{"role": "user", "content": "x"}]}, 400, "model"),
        ("/v1/embeddings", {"model": "mood", "input": "x"}, 400, "model"),
        ("/v1/classify", {"model": "digits", "input": {"image": "data:image/png;base64,AAAA"}}, 400, "image"),
        ("/v1/classify", {"model": "rent", "input": {"size": "wide"}}, 400, "size"),
        ("/v1/explain", {"model": "mood", "input": ["x"] * 9}, 400, "input"),
        ("/v1/explain", {"model": "mood", "input": "x", "method": "magic"}, 400, "method"),
        ("/v1/explain", {"model": "mood", "input": "a film", "target": "ugly"}, 400, "target"),
        ("/v1/explain", {"model": "words", "input": "x"}, 400, "model"),
        ("/v1/explain", {"model": "mood", "input": "a film", "method": "attention"}, 400, "method"),
        ("/v1/explain", {"model": "rent", "input": {"size": 50}, "method": "integrated-gradients"}, 400, "method"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_costs_nothing(
    path: str, body: dict[str, Any], status: int, param: str, buyer: Buyer
) -> None:
    got, answer, _ = buyer.ask(path, **body)
    assert (got, answer["error"]["param"]) == (status, param), answer
    assert buyer.wallet() == 1_000_000
    assert buyer.totals().requests == 0


def test_an_empty_wallet_is_refused_before_the_work(gateway: GatewayProcess) -> None:
    poor = Buyer(gateway, wallet_micros=2500)
    status, answer, _ = poor.ask("/v1/classify", model="digits", input=[{"image": picture(n)} for n in range(3)])
    assert (status, answer["error"]["code"]) == (402, "insufficient_funds")
    status, _, _ = poor.ask("/v1/classify", model="digits", input=[{"image": picture(n)} for n in range(2)])
    assert (status, poor.wallet()) == (200, 500)
    poor.http.close()


@pytest.mark.parametrize("name", PRICES)
def test_the_calls_that_the_console_shows_are_answered_when_they_are_pasted(buyer: Buyer, name: str) -> None:
    with Shop.open(Settings(buyer.gateway.home, environment={})) as shop, shop.db.read() as conn:
        calls = sample_calls.of(shop.store, shop.settings, models.get_model(conn, name))
    assert calls
    for call in calls:
        code = snippets.curl(buyer.gateway.url, call, buyer.key)
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=300, env=PASTED)
        answer = json.loads(done.stdout)
        assert "error" not in answer and (answer.get("data") or answer.get("results")), (call.call, answer)
