"""Many calls at once on a wallet that pays for few: never more are served than it pays for, and hardly fewer.

Over HTTP against the real process, on both databases. What the clients see (402, then served once others have settled)
and what the books say must agree; a refusal leaves no row.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.proof import books
from tests.proof.house import (
    Answer,
    Customer,
    GatewayProcess,
    chat,
    make_customer,
    offer_upstream,
    running_gateway,
    shop_of,
)
from tests.proof.upstream import Upstream, prompt
from tollway.sell import catalog, ledger, revision

CALLS, PAYS_FOR = 200, 60
TOKENS = 50
TERMS = catalog.Terms(
    charges=(
        catalog.Charge(meter="output_tokens", price_micros=2_000_000),
        catalog.Charge(meter="input_tokens", price_micros=100_000),
    )
)
PRICE_MICROS = TOKENS * 2 + 1  # 10 input tokens at a tenth of a micro
INVOICED = catalog.Terms(overage="invoice", charges=TERMS.charges)


@pytest.fixture
def mill() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


async def test_never_more_served_than_paid_for_and_hardly_fewer(
    tmp_path: Path, mill: Upstream, database_url: str
) -> None:
    offer_upstream(tmp_path, "mill", mill.url, database_url=database_url)
    buyer = make_customer(tmp_path, TERMS, PAYS_FOR * PRICE_MICROS, database_url=database_url)
    served: list[Answer] = []
    async with running_gateway(tmp_path, starter=False, database_url=database_url) as gateway:
        watch = asyncio.create_task(_lowest_wallet(gateway, buyer))
        began = time.monotonic()
        answers = await asyncio.gather(*(_insist(gateway, buyer, number, served) for number in range(CALLS)))
        took_s = time.monotonic() - began
        if not watch.cancel():
            watch.result()
        last = await gateway.ask(buyer.key, _body(CALLS))
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) <= {200, 402}, statuses
    assert last.status == 402
    assert 0.95 * PAYS_FOR <= len(served) <= PAYS_FOR
    with shop_of(tmp_path, database_url) as shop:
        assert books.problems(shop.db, [buyer]) == []
        known = books.events(shop.db)
        assert set(known) == {answer.request_id for answer in served}, "a refusal left a row, or a served call did not"
        with shop.db.read() as conn:
            left = ledger.wallet_micros(conn, buyer.org_id, buyer.currency)
    assert left == (PAYS_FOR - len(served)) * PRICE_MICROS
    assert sum(call["finished"] for name, call in mill.calls().items() if name != "probe") == len(served), (
        "an unpaid call ran"
    )
    print(f"{len(served)} of {PAYS_FOR} served among {CALLS} in {took_s:.1f} s, {statuses[402]} refused to the end")


async def test_money_paid_in_while_it_is_spent_is_spent_once(tmp_path: Path, mill: Upstream, database_url: str) -> None:
    """Every top-up makes the gateway read wallets anew while commits are under way; neither may hide the other."""
    offer_upstream(tmp_path, "mill", mill.url, database_url=database_url)
    buyer = make_customer(tmp_path, TERMS, 10 * PRICE_MICROS, database_url=database_url)
    other = make_customer(tmp_path, INVOICED, name="noise", database_url=database_url)
    env = {"TOLLWAY_REFRESH_S": "0.005"}
    async with running_gateway(tmp_path, starter=False, database_url=database_url, env=env) as gateway:
        stop = asyncio.Event()
        spend = [asyncio.create_task(_spend(gateway, buyer, stop, f"s{n}")) for n in range(24)]
        noise = [asyncio.create_task(_spend(gateway, other, stop, f"n{n}")) for n in range(8)]
        paid_in = buyer.wallet_micros + await asyncio.to_thread(_top_up, tmp_path, database_url, buyer, 60)
        await asyncio.to_thread(_until_spent, tmp_path, database_url, buyer)
        stop.set()
        answers = [answer for task in spend for answer in await task]
        await asyncio.gather(*noise)
        told = (await gateway.get("/v1/key", buyer.key)).json["wallet_micros"]
        with shop_of(tmp_path, database_url) as shop, shop.db.read() as conn:
            left = ledger.wallet_micros(conn, buyer.org_id, buyer.currency)
    served = sum(answer.answered for answer in answers)
    buyer = Customer(**(vars(buyer) | {"wallet_micros": paid_in}))
    with shop_of(tmp_path, database_url) as shop, shop.db.read() as conn:
        assert books.problems(shop.db, [buyer]) == []
    assert 0 <= left < 2 * PRICE_MICROS, f"{left} micros left of {paid_in} after {served} calls"
    assert told == left, "the gateway's picture of the wallet is not the ledger's"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_upstream_that_counts_more_than_was_held_overdraws_no_wallet(
    tmp_path: Path, mill: Upstream, stream: bool
) -> None:
    offer_upstream(tmp_path, "mill", mill.url)
    buyer = make_customer(tmp_path, TERMS, PRICE_MICROS + 20)
    async with running_gateway(tmp_path, starter=False) as gateway:
        greedy = chat(prompt("greedy", TOKENS, input_=10**9, cached=10**8), "mill", stream=stream, max_tokens=TOKENS)
        answer = await gateway.ask(buyer.key, greedy)
    assert answer.answered
    with shop_of(tmp_path) as shop:
        assert books.problems(shop.db, [buyer]) == []
        (row,) = books.events(shop.db).values()
        assert books.tokens_of(row) == books.tokens_stated(answer), "the answer says one thing, the bill another"


async def _insist(gateway: GatewayProcess, buyer: Customer, number: int, served: list[Answer]) -> Answer:
    """Call; when there is no money, try again: what others held may have come back. Whoever was answered is in `served`."""
    dice, attempt, end = random.Random(number), 0, time.monotonic() + 300
    while True:
        answer = await gateway.ask(buyer.key, _body(number))
        if answer.status != 402:
            served += [answer] if answer.answered else []
            return answer
        assert answer.error is not None and answer.error["code"], answer.body
        attempt += 1
        if attempt >= 12 and (len(served) >= 0.95 * PAYS_FOR or time.monotonic() > end):
            return answer
        await asyncio.sleep(0.05 + 0.1 * min(attempt, 12) * dice.random())


def _body(number: int, name: str = "c", pause_ms: int = 4) -> dict[str, Any]:
    return chat(prompt(f"{name}{number}", TOKENS, pause_ms=pause_ms), "mill", stream=number % 2 == 0, max_tokens=TOKENS)


async def _spend(gateway: GatewayProcess, who: Customer, stop: asyncio.Event, name: str) -> list[Answer]:
    answers = []
    while not stop.is_set():
        answers.append(await gateway.ask(who.key, _body(len(answers), name, pause_ms=0)))
        if answers[-1].status == 402:
            await asyncio.sleep(0.02)
    return answers


def _top_up(home: Path, database_url: str, buyer: Customer, times: int) -> int:
    with shop_of(home, database_url) as shop:
        for number in range(times):
            with shop.db.write() as conn:
                ledger.top_up(
                    conn, shop.clock.now_ms(), buyer.org_id, buyer.currency, 3 * PRICE_MICROS, f"more:{number}"
                )
                revision.touch(conn)
            time.sleep(0.03)
    return times * 3 * PRICE_MICROS


def _until_spent(home: Path, database_url: str, buyer: Customer) -> None:
    """Until the wallet pays for less than two calls, however long a busy machine takes for what was paid in."""
    end = time.monotonic() + 300
    with shop_of(home, database_url) as shop:
        while time.monotonic() < end:
            with shop.db.read() as conn:
                if ledger.wallet_micros(conn, buyer.org_id, buyer.currency) < 2 * PRICE_MICROS:
                    return
            time.sleep(0.05)


async def _lowest_wallet(gateway: GatewayProcess, buyer: Customer) -> None:
    while True:
        told = (await gateway.get("/v1/key", buyer.key)).json
        assert told["wallet_micros"] >= 0
        await asyncio.sleep(0.05)
