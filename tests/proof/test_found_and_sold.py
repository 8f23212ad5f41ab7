"""Objects in pictures, the whole road: real data -> recipe -> package -> deploy -> paid `/v1/detect`, and what is refused.

A tiny detector on mosaics of handwritten digits, trained for seconds; then a real gateway and real money.
"""

import base64
import io
import json
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from tests.proof.house import GatewayProcess, make_customer, start_gateway
from tollway.flows import build, release, sample_calls
from tollway.forge import data
from tollway.forge import recipe as recipes
from tollway.forge.data import samples
from tollway.forge.evaluate import detection
from tollway.kit.clock import SystemClock
from tollway.kit.settings import Settings
from tollway.sell import catalog, ledger, usage
from tollway.shop import Shop

pytestmark = pytest.mark.slow

RECIPE = """
[recipe]
name = "digit-finder"
task = "object-detection"
[data]
dataset = "digit-mosaics"
rows_max = 480
split = {validation = 0.05}
[model]
architecture = "centernet"
options = {filters = 8}
[train]
epochs = 7
learning_rate = 0.008
schedule = "one-cycle"
batch_rows = 16
precision = "fp32"
threads = 1
[convert]
formats = ["onnx"]
[evaluate]
bootstrap = 50
noise = []
rows_max = 60
require = {"map@50" = ">=0.2", "vs.usual-boxes.low" = ">0"}
"""
PRICE_MICROS = 1_000
TERMS = catalog.Terms(
    overage="wallet", charges=(catalog.Charge(meter="images", price_micros=PRICE_MICROS * 1_000_000),)
)


@pytest.fixture(scope="module")
def rows(gateway: GatewayProcess) -> list[dict[str, Any]]:
    """Pictures that training has not seen, with what is in them."""
    shelf = data.Shelf(gateway.home / "datasets", SystemClock())
    table = shelf.get("digit-mosaics").read("test").slice(0, 12).to_pylist()
    return [{"image": row["image"], "boxes": json.loads(row["boxes"])} for row in table]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    home = tmp_path_factory.mktemp("home")
    with Shop.open(Settings(home, environment={})) as shop:
        samples.load("digit-mosaics", data.Shelf(home / "datasets", shop.clock))
        (home / "detect.toml").write_text(RECIPE)
        run = build.run_recipe(shop, recipes.load(home / "detect.toml"), RECIPE)
        assert run.record.package == "digit-finder@1" and run.record.metrics["passed"]
        manifest = shop.store.get("digit-finder").manifest
        assert (manifest.kind, manifest.input, len(manifest.labels)) == ("object-detection", "image", 10)
        assert manifest.parity["onnx.agreement"] >= 0.999
        model = release.deploy(shop, "digit-finder")
        call = sample_calls.of(shop.store, shop.settings, model)[0]
        assert call.path == "/v1/detect" and call.body["input"]["image"].startswith("data:image/")
    made = start_gateway(home, starter=False)
    yield made
    made.stop()


class Buyer:
    def __init__(self, gateway: GatewayProcess, name: str) -> None:
        self.gateway = gateway
        made = make_customer(gateway.home, TERMS, 1_000_000, name=name)
        self.org_id, self.key = made.org_id, made.key
        self.http = httpx.Client(
            base_url=gateway.url, headers={"authorization": f"Bearer {self.key}"}, timeout=300, trust_env=False
        )
        while self.http.get("/v1/key").status_code == 401:
            time.sleep(0.02)

    def ask(self, **body: Any) -> tuple[int, Any]:
        reply = self.http.post("/v1/detect", json={"model": "digit-finder", **body})
        return reply.status_code, reply.json()

    def money(self) -> tuple[int, usage.Totals]:
        with Shop.open(Settings(self.gateway.home, environment={})) as shop, shop.db.read() as conn:
            return ledger.wallet_micros(conn, self.org_id, "USD"), usage.totals(conn, self.org_id, 0)


@pytest.fixture
def buyer(gateway: GatewayProcess, request: pytest.FixtureRequest) -> Iterator[Buyer]:
    one = Buyer(gateway, f"b{abs(hash(request.node.name)):x}"[:20])
    yield one
    one.http.close()


def url(picture: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode()


def test_objects_are_found_where_they_are_and_paid_by_the_picture(buyer: Buyer, rows: list[dict[str, Any]]) -> None:
    status, answer = buyer.ask(input=[{"image": url(row["image"])} for row in rows])
    assert status == 200, answer
    assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0, "images": len(rows)}
    assert [(one["object"], one["index"], one["width"], one["height"]) for one in answer["data"]] == [
        ("detection", place, 64, 64) for place in range(len(rows))
    ]
    found = [one["detections"] for one in answer["data"]]
    assert all(box["score"] >= 0.05 and 0 <= box["box"][0] < box["box"][2] <= 64 for one in found for box in one)
    figures = {one.name: one.value(len(rows)) for one in detection.measures([row["boxes"] for row in rows], found)}
    assert figures["f1"] > 0.3, figures  # a model of a few seconds, but no accident
    wallet, totals = buyer.money()
    assert wallet == 1_000_000 - len(rows) * PRICE_MICROS
    assert (totals.images, totals.requests) == (len(rows), 1)


def test_boxes_are_in_pixels_of_the_picture_that_was_sent(buyer: Buyer, rows: list[dict[str, Any]]) -> None:
    large = io.BytesIO()
    Image.open(io.BytesIO(rows[0]["image"])).resize((320, 320), Image.Resampling.BILINEAR).save(large, "PNG")
    (_, small_answer), (_, large_answer) = (
        buyer.ask(input=url(one), threshold=0.05) for one in (rows[0]["image"], large.getvalue())
    )
    small, big = small_answer["data"][0], large_answer["data"][0]
    assert (big["width"], big["height"]) == (320, 320) and small["detections"]
    assert big["detections"][0]["box"] == pytest.approx([5 * side for side in small["detections"][0]["box"]], abs=25)


def test_the_caller_may_set_the_threshold_and_how_many(buyer: Buyer, rows: list[dict[str, Any]]) -> None:
    counts = [
        len(buyer.ask(input=url(rows[0]["image"]), threshold=least)[1]["data"][0]["detections"])
        for least in (0.0, 0.3, 1.0)
    ]
    assert counts[0] > counts[1] >= counts[2] == 0
    scores = [
        one["score"] for one in buyer.ask(input=url(rows[0]["image"]), threshold=0, top_k=3)[1]["data"][0]["detections"]
    ]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)


def test_the_openai_client_reaches_the_door_and_the_model_says_what_it_can(
    buyer: Buyer, rows: list[dict[str, Any]]
) -> None:
    client = openai.OpenAI(base_url=f"{buyer.gateway.url}/v1", api_key=buyer.key, max_retries=0)
    made: Any = client.post("/detect", body={"model": "digit-finder", "input": url(rows[0]["image"])}, cast_to=object)
    assert made["data"][0]["object"] == "detection"
    shown = buyer.http.get("/v1/models/digit-finder").json()
    assert (shown["kind"], shown["input"], shown["capabilities"]) == ("object-detection", "image", ["detect"])
    client.close()


def bomb(width: int, height: int) -> bytes:
    """A few bytes that say they are an enormous picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


PLAIN = url(bomb(2, 2))
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "no picture": ({"input": url(b"GIF, but not really")}, "image"),
    "a bomb": ({"input": url(bomb(40_000, 40_000))}, "image"),
    "a long strip": ({"input": url(bomb(2_000_000_000, 1))}, "image"),
    "broken off": ({"input": url(bomb(500, 500))}, "image"),
    "no base64": ({"input": "data:image/png;base64,@@@"}, "image"),
    "an address": ({"input": "https://example.com/a.png"}, "image"),
    "a script": ({"input": url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg+xml")}, "image"),
    "a number": ({"input": {"image": 7}}, "image"),
    "another field": ({"input": {"picture": PLAIN}}, "picture"),
    "nothing": ({"input": []}, "input"),
    "too many": ({"input": [PLAIN] * 257}, "input"),
    "a threshold above one": ({"input": PLAIN, "threshold": 1.5}, "threshold"),
    "none at all": ({"input": PLAIN, "top_k": 0}, "top_k"),
    "an unknown parameter": ({"input": PLAIN, "iou": 0.5}, "iou"),
}


def test_what_is_wrong_is_said_and_costs_nothing(buyer: Buyer) -> None:
    for name, (body, param) in HOSTILE.items():
        status, answer = buyer.ask(**body)
        assert (status, answer["error"]["param"]) == (400, param), f"{name}: {answer}"
        assert len(answer["error"]["message"]) < 300
    reply = buyer.http.post("/v1/classify", json={"model": "digit-finder", "input": PLAIN})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "model")
    assert buyer.money()[0] == 1_000_000 and buyer.money()[1].requests == 0
    status, answer = buyer.ask(input=url(bomb(16, 16)))
    assert status in (200, 400), answer  # and the replica lives
