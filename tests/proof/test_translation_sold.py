"""A translation model made here is sold by what it reads and by what it writes."""

import sqlite3
from pathlib import Path
from types import SimpleNamespace

import httpx

from tests.forge.made import desk
from tests.forge.models import worlds
from tests.proof.house import make_customer, start_gateway
from tollway.artifacts import store
from tollway.flows import release
from tollway.forge import models
from tollway.forge.convert import exporting
from tollway.forge.recipe import Convert
from tollway.kit.settings import Settings
from tollway.sell import catalog
from tollway.shop import Shop

TERMS = catalog.Terms(
    overage="wallet",
    charges=(
        catalog.Charge(meter="input_tokens", price_micros=1_000_000),
        catalog.Charge(meter="output_tokens", price_micros=2_000_000),
    ),
)


def test_what_a_translation_writes_is_billed(tmp_path: Path) -> None:
    table = worlds.TABLES["translation"]
    part = worlds.Part("seq2seq", options={"width": 32, "layers": 1, "heads": 2})
    net = models.create(part, "translation", models.fit_features(part, "translation", table), 0).eval()
    models.save(net, tmp_path / "model")
    place = desk(tmp_path / "desk")
    prepared = SimpleNamespace(task="translation", splits=("train", "test"), read=lambda split, columns=None: table)
    exporting.export(Convert(formats=["onnx"]), tmp_path / "model", prepared, place)
    home = tmp_path / "home"
    with Shop.open(Settings(home, environment={})) as shop:
        shop.store.add_package("en-es", place.out, store.About(kind="translation", task="translation", input="text"))
        release.deploy(shop, "en-es")
    buyer = make_customer(home, TERMS, 1_000_000, name="reader")
    gateway = start_gateway(home, starter=False)
    try:
        key = {"authorization": f"Bearer {buyer.key}"}
        with httpx.Client(base_url=gateway.url, headers=key, timeout=300, trust_env=False) as http:
            answer = http.post("/v1/classify", json={"model": "en-es", "input": ["the dog", "a cat"]})
    finally:
        gateway.stop()
    assert answer.status_code == 200, answer.text
    told = answer.json()
    written = sum(one["tokens"] for one in told["data"])
    assert told["usage"]["completion_tokens"] == written >= 2
    with sqlite3.connect(home / "tollway.db") as books:
        (event,) = books.execute("select input_tokens, output_tokens, price_picos from usage_event").fetchall()
    read = told["usage"]["prompt_tokens"]
    assert event == (read, written, (read + 2 * written) * 1_000_000)
