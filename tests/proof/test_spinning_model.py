"""A package that computes for ever once it meets a certain word: its calls end when their time is over, other models go on, and
its process is ended and begun again. Nothing of a model tells beforehand that it will not end.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from tests.proof.house import GatewayProcess, make_customer, shop_of, start_gateway
from tests.serve import tiny_versions
from tollway.flows import release
from tollway.sell import catalog, tables

TERMS = catalog.Terms(overage="wallet", charges=(catalog.Charge(meter="requests", price_micros=2_000_000),))


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    with shop_of(tmp_path) as shop:
        tiny_versions.shelve(shop.store, tmp_path / "mood", "equal")
        tiny_versions.shelve(shop.store, tmp_path / "trap", "snare", "trap")
        release.deploy(shop, "mood")
        release.deploy(shop, "trap")
    started = start_gateway(tmp_path, starter=False)
    yield started
    started.kill()


async def test_a_model_that_spins_is_ended_and_nobody_else_notices(gateway: GatewayProcess) -> None:
    customer = make_customer(gateway.home, TERMS, 1_000_000_000, scopes=("inference", "usage", "admin"))
    with shop_of(gateway.home) as shop:
        word = tiny_versions.last_word(shop.store.get("trap"))
    beside: list[int] = []
    over = asyncio.Event()
    bearer = {"authorization": f"Bearer {customer.key}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=bearer, timeout=120) as client:

        async def ask(model: str, text: str, patience_s: int = 60) -> httpx.Response:
            headers = {"x-tollway-timeout-ms": str(patience_s * 1000)}
            return await client.post("/v1/classify", json={"model": model, "input": text}, headers=headers)

        async def others() -> None:
            while not over.is_set():
                beside.append((await ask("mood", "a lovely film")).status_code)
                await asyncio.sleep(0.1)

        async def process() -> int:
            found = {one["name"]: one["replicas"][0]["pid"] for one in (await client.get("/admin/models")).json()}
            return int(found["trap"])

        async with asyncio.timeout(60):
            while (await ask("trap", "a lovely film")).status_code != 200:  # its key is not known yet
                await asyncio.sleep(0.05)
        spinning = await process()
        busy = asyncio.create_task(others())
        caught = await ask("trap", word, patience_s=4)
        assert (caught.status_code, caught.json()["error"]["code"]) == (503, "timeout")
        async with asyncio.timeout(240):
            while Path(f"/proc/{spinning}").exists():  # another lane of it may answer meanwhile
                await asyncio.sleep(0.5)
            while (await ask("trap", "a lovely film", patience_s=20)).status_code != 200:
                await asyncio.sleep(0.5)
        over.set()
        await busy
        assert await process() != spinning
    assert len(beside) > 10 and set(beside) == {200}
    with shop_of(gateway.home) as shop, shop.db.read() as conn:
        event = tables.usage_event.c
        sold = [row.request_id for row in conn.execute(sa.select(event.request_id))]
    assert caught.headers["x-request-id"] not in sold
