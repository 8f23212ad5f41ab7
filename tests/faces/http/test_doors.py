"""The doors beside chat: rerank, moderations, pictures, recommendations. A real gateway, small real models, real money."""

import base64
import io
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from tests.proof.house import GatewayProcess, make_customer, start_gateway
from tests.serve import tiny_doors, tiny_models
from tollway.flows import release
from tollway.kit.settings import Settings
from tollway.sell import catalog, usage
from tollway.serve import models
from tollway.shop import Shop

FAR: dict[str, models.Kind] = {"pairs": "rerank", "judge": "moderation", "painter": "image-generation"}
METERS = ("input_tokens", "images", "rows")
TERMS = catalog.Terms(
    overage="wallet", charges=tuple(catalog.Charge(meter=meter, price_micros=1_000_000) for meter in METERS)
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    home = tmp_path_factory.mktemp("home")
    with Shop.open(Settings(home, environment={})) as shop:
        for name, maker in {**tiny_doors.MAKERS, "words": tiny_models.text_encoder}.items():
            tiny_models.shelve(shop.store, name, tmp_path_factory.mktemp(name), maker)
            release.deploy(shop, name)
    own = make_customer(home, TERMS, 1_000_000, name="the-shop-itself")
    made = start_gateway(home, starter=False, env={"UPSTREAM_KEY": own.key})
    with Shop.open(Settings(home, environment={})) as shop:  # its own upstream: another shop, as far as it knows
        for name, kind in FAR.items():
            far = models.Upstream(f"{made.url}/v1", name, "UPSTREAM_KEY")
            release.add_upstream(shop, f"far-{name}", kind, far)
    yield made
    made.stop()


class Buyer:
    def __init__(self, gateway: GatewayProcess) -> None:
        self.home = gateway.home
        made = make_customer(gateway.home, TERMS, 1_000_000, name=f"b-{uuid.uuid4().hex[:8]}")
        self.org_id, key = made.org_id, made.key
        self.http = httpx.Client(
            base_url=gateway.url, headers={"authorization": f"Bearer {key}"}, timeout=300, trust_env=False
        )
        while self.http.get("/v1/key").status_code == 401:
            pass
        self.openai = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)

    def ask(self, path: str, **body: Any) -> Any:
        reply = self.http.post(path, json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def refused(self, path: str, **body: Any) -> str:
        reply = self.http.post(path, json=body)
        assert reply.status_code == 400, reply.text
        return str(reply.json()["error"]["param"])

    def totals(self) -> usage.Totals:
        with Shop.open(Settings(self.home, environment={})) as shop, shop.db.read() as conn:
            return usage.totals(conn, self.org_id, 0)


@pytest.fixture
def buyer(gateway: GatewayProcess) -> Iterator[Buyer]:
    one = Buyer(gateway)
    yield one
    one.http.close()
    one.openai.close()


DOCUMENTS = ["a dull film without a heart", "the best film of the year", "great fun for the whole family"]


def test_documents_are_ranked_by_the_cosines_of_their_embeddings(buyer: Buyer) -> None:
    vectors = [
        one["embedding"] for one in buyer.ask("/v1/embeddings", model="words", input=["best film", *DOCUMENTS])["data"]
    ]
    cosines = [sum(a * b for a, b in zip(vectors[0], one, strict=True)) for one in vectors[1:]]  # of length one each
    answer = buyer.ask("/v1/rerank", model="words", query="best film", documents=DOCUMENTS)
    assert answer["method"] == "cosine of embeddings"
    assert [one["index"] for one in answer["results"]] == sorted(range(3), key=lambda index: -cosines[index])
    for one in answer["results"]:
        assert one["relevance_score"] == pytest.approx(cosines[one["index"]], abs=1e-5)
    assert answer["usage"]["prompt_tokens"] == 2 + sum(len(text.split()) for text in DOCUMENTS)


def test_a_model_of_pairs_reads_query_and_document_together(buyer: Buyer) -> None:
    documents: list[Any] = [{"text": DOCUMENTS[0]}, *DOCUMENTS[1:]]
    answer = buyer.ask(
        "/v1/rerank", model="pairs", query="the best whole year", documents=documents, top_n=2, return_documents=True
    )
    assert answer["method"] == "cross-encoder"
    assert [one["index"] for one in answer["results"]] == [1, 2]
    assert answer["results"][0]["document"] == {"text": DOCUMENTS[1]}
    assert answer["results"][0]["relevance_score"] > answer["results"][1]["relevance_score"]
    assert buyer.totals().input_tokens == answer["usage"]["prompt_tokens"] > 0


def test_what_cannot_be_ranked_is_refused_by_name(buyer: Buyer) -> None:
    assert buyer.refused("/v1/rerank", model="judge", query="q", documents=["d"]) == "model"
    assert buyer.refused("/v1/rerank", model="words", query=" ", documents=["d"]) == "query"
    assert buyer.refused("/v1/rerank", model="words", query="q", documents=["d", ""]) == "documents[1]"
    assert buyer.refused("/v1/rerank", model="words", query="q", documents=[]) == "documents"
    assert buyer.refused("/v1/rerank", model="words", query="q", documents=["d"], colour="red") == "colour"
    assert buyer.refused("/v1/rerank", model="words", query="q", documents=["d"] * 256) == "documents"
    assert buyer.totals().requests == 0


def test_texts_are_judged_in_openais_shape(buyer: Buyer) -> None:
    made = buyer.openai.moderations.create(
        model="judge", input=["a lovely film", "a dull empty boring film", "a lovely film, write to me@example.com"]
    )
    raw = [one.to_dict() for one in made.results]
    assert set(raw[0]["category_scores"]) == {
        "good",
        "bad",
        "pii",
    }  # both of its labels accuse: neither says all is well
    assert (raw[0]["categories"]["bad"], raw[1]["categories"]["bad"]) == (False, True)
    assert [one["categories"]["pii"] for one in raw] == [False, False, True]
    assert all(one["flagged"] == any(one["categories"].values()) for one in raw)
    assert made.id.startswith("modr-") and made.model == "judge"
    parts = buyer.ask("/v1/moderations", model="judge", input=[{"type": "text", "text": "a dull empty boring film"}])
    assert parts["results"][0] == raw[1]
    assert buyer.totals().input_tokens > 0
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    assert buyer.refused("/v1/moderations", model="judge", input=[picture]) == "input[0]"
    assert buyer.refused("/v1/moderations", model="words", input="x") == "model"


def test_a_text_is_judged_as_far_as_it_is_read(buyer: Buyer) -> None:
    """Megabytes beyond that are not paid for, and must not keep the replica from its other calls."""
    beyond = "a dull film " * 150_000 + "write to me@example.com"
    judged = buyer.ask("/v1/moderations", model="judge", input=["write to me@example.com " + beyond, beyond])["results"]
    assert [one["categories"]["pii"] for one in judged] == [True, False]


def test_pictures_are_drawn_counted_and_the_same_for_the_same_seed(buyer: Buyer) -> None:
    made = buyer.openai.images.generate(model="painter", prompt="", n=3, extra_body={"seed": 4})
    drawn = [base64.b64decode(one.b64_json or "") for one in made.data or ()]
    assert len(set(drawn)) == 3
    assert [Image.open(io.BytesIO(one)).size for one in drawn] == [(8, 8)] * 3
    again = buyer.ask("/v1/images/generations", model="painter", seed=5, size="8x8")
    assert base64.b64decode(again["data"][0]["b64_json"]) == drawn[1]
    first, second = (buyer.ask("/v1/images/generations", model="painter")["data"] for _ in range(2))
    assert first != second  # without a seed each call draws anew
    assert buyer.totals().images == 6
    assert buyer.refused("/v1/images/generations", model="painter", prompt="a cat on the moon") == "prompt"
    assert buyer.refused("/v1/images/generations", model="painter", size="1024x1024") == "size"
    assert buyer.refused("/v1/images/generations", model="painter", n=11) == "n"
    assert buyer.refused("/v1/images/generations", model="painter", response_format="url") == "response_format"
    assert buyer.refused("/v1/images/generations", model="judge") == "model"


def test_a_user_gets_the_best_items_without_those_they_know(buyer: Buyer) -> None:
    answer = buyer.ask("/v1/recommendations", model="taste", user="u2", top_n=3)
    assert answer["data"][0]["item"] == "i06"
    assert {one["item"] for one in answer["data"]} == {"i05", "i06", "i07"}
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    new = buyer.ask("/v1/recommendations", model="taste", user="u2", top_n=2, exclude=["i06", "i05"])
    assert [one["item"] for one in new["data"]] == ["i07", "i04"]
    assert buyer.totals().rows == 2
    assert buyer.refused("/v1/recommendations", model="taste", top_n=3) == "user"
    assert buyer.refused("/v1/recommendations", model="taste", user="u2", top_n=0) == "top_n"
    assert buyer.refused("/v1/recommendations", model="judge", user="u2") == "model"


def test_models_say_what_they_can_be_asked(buyer: Buyer) -> None:
    said = {one["id"]: set(one["capabilities"]) for one in buyer.http.get("/v1/models").json()["data"]}
    assert said["words"] == {"embeddings", "rerank"}
    assert "rerank" in said["pairs"] and "moderations" not in said["pairs"]
    assert {"classify", "moderations"} <= said["judge"]
    assert "images" in said["painter"] and "recommendations" in said["taste"]


def test_an_upstreams_doors_are_answered_counted_and_paid_like_our_own(buyer: Buyer) -> None:
    ready: set[str] = set()
    while len(ready) < len(FAR):  # an upstream is offered once it has answered
        ready = {one["id"] for one in buyer.http.get("/v1/models").json()["data"] if one["id"].startswith("far-")}
    ask: dict[str, Any] = {"query": "the best whole year", "documents": DOCUMENTS}
    own, far = (buyer.ask("/v1/rerank", model=model, **ask) for model in ("pairs", "far-pairs"))
    assert far["results"] == own["results"] and far["usage"] == own["usage"] and far["model"] == "far-pairs"
    own, far = (buyer.ask("/v1/moderations", model=model, input="a dull film") for model in ("judge", "far-judge"))
    assert far["results"] == own["results"] and far["model"] == "far-judge"
    drawn = {"n": 2, "seed": 3}
    own, far = (buyer.ask("/v1/images/generations", model=model, **drawn) for model in ("painter", "far-painter"))
    assert [one["b64_json"] for one in far["data"]] == [one["b64_json"] for one in own["data"]]
    totals = buyer.totals()
    assert (totals.images, totals.requests) == (4, 6)
    assert buyer.refused("/v1/images/generations", model="far-painter", prompt="a cat") == "prompt"  # says the upstream
