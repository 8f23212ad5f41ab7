"""What an answer's headers say of the call: how long it waited and took, and what it cost, to the last digit."""

import asyncio
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.clients.open_shop import CHAT, OpenShop
from tollway.kit.settings import Settings
from tollway.sell import usage
from tollway.shop import Shop

pytestmark = pytest.mark.engine


def asking(tokens: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Count slowly."}]
    return {"model": CHAT, "messages": messages, "max_tokens": tokens, "temperature": 0, **more}


def test_the_price_in_the_header_is_the_one_that_is_billed(open_shop: OpenShop) -> None:
    buyer = open_shop.customer(wallet_micros=1_000_000)
    with open_shop.http(buyer.key) as http:
        replies = [http.post("/v1/chat/completions", json=asking(tokens)) for tokens in (1, 9)]
        told = http.post("/v1/responses", json={"model": CHAT, "input": "Hi", "max_output_tokens": 16})
        streamed = http.post("/v1/chat/completions", json=asking(4, stream=True))
    prices = []
    for reply in (*replies, told):
        price, currency = reply.headers["x-tollway-price"].split()
        assert currency == buyer.currency and "E" not in price
        prices.append(Decimal(price))
        assert 0 <= int(reply.headers["x-tollway-queue-ms"]) <= int(reply.headers["openai-processing-ms"])
        assert reply.headers["x-tollway-model-version"] == "1"
    assert 0 < prices[0] < prices[1]
    assert "x-tollway-price" not in streamed.headers and int(streamed.headers["x-tollway-queue-ms"]) >= 0
    with Shop.open(Settings(open_shop.home, environment={})) as shop, shop.db.read() as conn:
        billed = usage.totals(conn, buyer.org_id, 0).price_picos
        event = usage.find_event(conn, streamed.headers["x-request-id"], buyer.org_id)
    assert sum(prices) == Decimal(billed - event.price_picos) / 10**12


async def test_who_waits_in_line_is_told_how_long(open_shop: OpenShop, alone: None) -> None:
    buyer = open_shop.customer(wallet_micros=1_000_000)
    headers = {"authorization": f"Bearer {buyer.key}"}
    limits = httpx.Limits(max_connections=40)
    async with httpx.AsyncClient(
        base_url=open_shop.url, headers=headers, timeout=120, trust_env=False, limits=limits
    ) as http:
        replies = await asyncio.gather(*(http.post("/v1/chat/completions", json=asking(12)) for _ in range(24)))
    assert {one.status_code for one in replies} == {200}
    waited = sorted(int(one.headers["x-tollway-queue-ms"]) for one in replies)
    took = sorted(int(one.headers["openai-processing-ms"]) for one in replies)
    # eight have a seat at once, the others wait for one of theirs
    assert waited[0] < took[0] / 2
    assert waited[-1] >= took[0] / 2
