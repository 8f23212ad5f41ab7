"""A call of many inputs to an engine that reads them one after the other: others get their turn in between; it is one
answer and one bill."""

import asyncio
import time
from typing import Any

import httpx
import msgspec
import pytest

from tests.clients.open_shop import EMBED, FREE, OpenShop, alone, open_shop, turn
from tollway.kit.errors import Unavailable
from tollway.kit.settings import Settings
from tollway.sell import usage
from tollway.serve import fold
from tollway.serve.engines import Caps
from tollway.serve.requests import EmbeddingRequest, RerankRequest
from tollway.shop import Shop

__all__ = ["alone", "open_shop", "turn"]
WORDS = ["a", "toll", "road", "for", "models", "is", "where", "each", "one", "pays", "what", "it", "uses"]
MANY = [" ".join(WORDS[number % len(WORDS) :] + WORDS * 2 + [str(number)]) for number in range(256)]


def client(shop: OpenShop, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=shop.url, headers={"authorization": f"Bearer {key}"}, timeout=300, trust_env=False
    )


async def embed(http: httpx.AsyncClient, texts: Any, path: str = "/v1/embeddings", **more: Any) -> dict[str, Any]:
    reply = await http.post(path, json={"model": EMBED, **({"input": texts} if texts else {}), **more})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


@pytest.mark.engine
async def test_a_quiet_organization_is_answered_while_somebody_elses_many_inputs_are_read(
    open_shop: OpenShop, alone: None
) -> None:
    flooding, quiet = open_shop.customer(FREE), open_shop.customer(FREE)
    async with client(open_shop, flooding.key) as flood, client(open_shop, quiet.key) as one:
        await embed(one, "warm")
        floods = 0
        while floods < 3:  # once, it may be us who were kept waiting
            floods += 1
            began = time.monotonic()
            flooded = asyncio.ensure_future(embed(flood, MANY))
            waits = []
            while not flooded.done():
                asked = time.monotonic()
                await embed(one, "short")
                waits.append(time.monotonic() - asked)
            took = time.monotonic() - began
            if max(waits) < took / 2:
                break
        # one after the other: unless each had its turn in between, one of them would have waited for nearly all inputs
        assert max(waits) < took / 2, f"{max(waits):.2f} of {took:.2f} s"

        whole = await flooded
        assert [place["index"] for place in whole["data"]] == list(range(len(MANY)))
        assert whole["object"] == "list" and whole["model"] == EMBED
        for number in (0, 15, 16, 100, 255):
            alone = (await embed(one, MANY[number]))["data"][0]["embedding"]
            assert whole["data"][number]["embedding"] == pytest.approx(alone, abs=1e-4)

    with Shop.open(Settings(open_shop.home, environment={})) as shop, shop.db.read() as conn:
        totals = usage.totals(conn, flooding.org_id, 0)
    assert (totals.requests, totals.input_tokens) == (floods, floods * whole["usage"]["prompt_tokens"])
    assert whole["usage"]["prompt_tokens"] > 30 * len(MANY)


@pytest.mark.engine
async def test_documents_are_ranked_over_all_parts(open_shop: OpenShop) -> None:
    buyer = open_shop.customer(FREE)
    async with client(open_shop, buyer.key) as http:
        documents = [f"stone number {number}" for number in range(40)] + ["a road where you pay a toll"]
        found = await embed(http, None, "/v1/rerank", query="toll road", documents=documents, top_n=1)
    assert found["results"][0]["index"] == 40
    assert found["usage"]["prompt_tokens"] > 41


def test_only_engines_that_read_one_by_one_get_a_few_at_a_time() -> None:
    asked = EmbeddingRequest(model="m", input=[str(number) for number in range(40)], encoding_format="base64")
    ranked = RerankRequest(model="m", query="q", documents=[str(number) for number in range(20)])
    for request, count in ((asked, 40), (ranked, 21)):
        for one_by_one, parts in ((True, -(-count // 16)), (False, 1)):
            calls = request.engine_calls(
                "own", Caps(embeddings=True, one_by_one=one_by_one), 0, stream=False, defaults={}
            )
            bodies = [msgspec.json.decode(one.body) for one in calls]
            assert len(bodies) == parts and sum(len(one["input"]) for one in bodies) == count
            assert {(one["model"], one["encoding_format"]) for one in bodies} == {("own", "base64")}


def test_a_part_that_is_no_answer_ends_the_call() -> None:
    with pytest.raises(Unavailable):
        fold.joined([b'{"data":[{"index":0,"embedding":[1]}]}', b'{"error":{}}'], {})
