"""A gateway killed with kill -9 while it works on batches: every line is answered once and billed once, at the batch's price.

What may be lost is work, never an answer or money: a line whose answer was not durable yet is asked again, and only the
answer that is kept is billed.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from tests.proof import books
from tests.proof.house import Customer, GatewayProcess, make_customer, offer_upstream, start_gateway
from tests.proof.upstream import Upstream, prompt
from tollway.kit.db import Database
from tollway.kit.settings import Settings
from tollway.sell import catalog, tables

MODEL = "mill"
LINES = 120
KILLS_MOST = 8
TERMS = catalog.Terms(
    overage="wallet",
    charges=(
        catalog.Charge(meter="input_tokens", price_micros=700_000, included=50),
        catalog.Charge(meter="cached_tokens", price_micros=70_001),
        catalog.Charge(meter="output_tokens", price_micros=2_300_000),
        catalog.Charge(meter="requests", price_micros=1_100_000),
    ),
    batch_percent=40,
)


@pytest.fixture
def mill() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def calls(name: str, count: int, pause_ms: int) -> bytes:
    rows = []
    for number in range(count):
        text = prompt(f"{name}-{number}", 1 + number % 4, input_=7 + number, cached=number % 5, pause_ms=pause_ms)
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 9}
        rows.append({"custom_id": f"{name}-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})
    return b"\n".join(json.dumps(row).encode() for row in rows)


class Buyer:
    def __init__(self, customer: Customer) -> None:
        self.customer = customer
        self.batch = ""

    def http(self, gateway: GatewayProcess) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.customer.key}"}
        return httpx.Client(base_url=gateway.url, headers=headers, timeout=300, trust_env=False)

    def begin(self, gateway: GatewayProcess, pause_ms: int) -> None:
        with self.http(gateway) as http:
            file = calls(self.customer.name, LINES, pause_ms)
            sent = http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("calls.jsonl", file)}).json()
            asked = {"input_file_id": sent["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            made = http.post("/v1/batches", json=asked)
            assert made.status_code == 200, made.text
            self.batch = made.json()["id"]

    def look(self, gateway: GatewayProcess) -> dict[str, object]:
        with self.http(gateway) as http:
            return dict(http.get(f"/v1/batches/{self.batch}").json())

    def done(self, gateway: GatewayProcess) -> int:
        return int(self.look(gateway)["request_counts"]["completed"])  # type: ignore[index]

    def output(self, gateway: GatewayProcess) -> list[dict[str, object]]:
        with self.http(gateway) as http:
            content = http.get(f"/v1/files/{self.look(gateway)['output_file_id']}/content").content
        return [json.loads(line) for line in content.splitlines()]


async def further(gateway: GatewayProcess, buyers: list[Buyer]) -> None:
    """Until more of each batch is done than now."""
    before = [buyer.done(gateway) for buyer in buyers]
    async with asyncio.timeout(300):
        while any(buyer.done(gateway) <= least < LINES for buyer, least in zip(buyers, before, strict=True)):
            await asyncio.sleep(0.02)


@pytest.mark.timeout(600)
async def test_killed_at_any_moment_every_line_is_answered_and_billed_once(tmp_path: Path, mill: Upstream) -> None:
    home, chance = tmp_path / "home", random.Random(11)
    offer_upstream(home, MODEL, mill.url)
    buyers = [Buyer(make_customer(home, TERMS, 900_000, name=name)) for name in ("first", "second")]
    gateway, kills = start_gateway(home, starter=False), 0
    for buyer in buyers:
        buyer.begin(gateway, pause_ms=120)  # some of it is left, however long the kills take
    for life in range(KILLS_MOST):
        if (
            life % 4 == 3
        ):  # work that gets no further in five lives is taken for what kills the gateway, and is broken off
            await further(gateway, buyers)
        await asyncio.sleep(chance.uniform(0.02, 0.6))
        if all(buyer.look(gateway)["status"] == "completed" for buyer in buyers):
            break
        gateway.kill()
        kills += 1
        gateway = start_gateway(home, starter=False)
    assert kills >= 3
    async with asyncio.timeout(300):  # the last one is left alone, however little those before it got done
        while any(buyer.look(gateway)["status"] != "completed" for buyer in buyers):
            await asyncio.sleep(0.1)
    for buyer in buyers:
        seen = buyer.look(gateway)
        assert seen["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
        assert seen["error_file_id"] is None
        rows = buyer.output(gateway)
        assert sorted(str(row["custom_id"]) for row in rows) == sorted(
            f"{buyer.customer.name}-{number}" for number in range(LINES)
        )
    gateway.stop()
    db = Database(Settings(home, environment={}).url_of_database)
    assert books.problems(db, [buyer.customer for buyer in buyers]) == []
    with db.read() as conn:
        events = conn.execute(sa.select(tables.usage_event)).all()
    db.close()
    assert Counter(row.org_id for row in events) == {buyer.customer.org_id: LINES for buyer in buyers}
    assert {row.tier for row in events} == {"batch"}
    one = sum(row.input_tokens for row in events if row.org_id == buyers[0].customer.org_id)
    paid = sum(row.price_picos for row in events if row.org_id == buyers[0].customer.org_id)
    assert one > 0 and paid == sum(_price(row) for row in events if row.org_id == buyers[0].customer.org_id)
    assert not list((home / "batches").iterdir()), "nothing is left behind"


def _price(row: sa.Row[tuple[object, ...]]) -> int:
    """40 % of each price, without free units."""
    used = row._mapping
    return (
        used["input_tokens"] * 280_000 + used["cached_tokens"] * 28_000 + used["output_tokens"] * 920_000 + 1 * 440_000
    )
