"""One of three upstreams fails in every way a network can: callers hardly notice, and pay for nothing they did not get."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.proof import books
from tests.proof.faults import FAULTS, Fault, FaultProxy
from tests.proof.house import GatewayProcess, make_customer, shop_of, start_gateway
from tests.proof.load import MODEL, Crowd
from tests.proof.upstream import Upstream
from tollway.sell.catalog import Charge, Terms
from tollway.serve import models

TERMS = Terms(
    charges=(Charge(meter="output_tokens", price_micros=2_300_000), Charge(meter="input_tokens", price_micros=700_000))
)
CLIENTS = 3
WARM_CALLS = 100
FAULT_S = 0.5
MET_LEAST = 2
MEETS_WITHIN_S = 5.0
WELL_CALLS = 200
CALLS_LEAST = 1500
WITHIN_S = 120.0


def gateway_with(home: Path, proxies: list[FaultProxy]) -> GatewayProcess:
    """A gateway whose one model has three addresses."""
    urls = [proxy.url for proxy in proxies]
    upstream = models.Upstream(urls[0], MODEL, more=tuple(urls[1:]))
    with shop_of(home) as shop, shop.db.write() as conn:
        models.offer_upstream(conn, shop.clock.now_ms(), MODEL, "chat", upstream)
    return start_gateway(home, starter=False, wait=False, env={"TOLLWAY_CALL_TIMEOUT_S": "15"})


async def until(found: Callable[[], bool], within_s: float = WITHIN_S) -> None:
    async with asyncio.timeout(within_s):
        while not found():
            await asyncio.sleep(0.02)


async def meet(proxy: FaultProxy, fault: Fault) -> None:
    """Calls meet the fault, again and again until there were enough: whoever was sent away already when it began would
    never come back while it lasts."""
    wanted = proxy.broken + MET_LEAST
    while proxy.broken < wanted:
        proxy.fault = fault
        with contextlib.suppress(TimeoutError):
            await until(lambda: proxy.broken >= wanted, MEETS_WITHIN_S)
        await asyncio.sleep(FAULT_S)
        proxy.fault = ""
        healed = proxy.seen
        await until(lambda healed=healed: proxy.seen >= healed + 20)  # it has its place again


def failed(noted: books.Noted) -> int:
    """Calls whose caller did not get a whole answer though it waited for one."""
    return noted.refused + len(noted.late) + sum(noted.unanswered.values())


def made(noted: books.Noted) -> int:
    return len(noted.answered) + len(noted.left) + failed(noted)


@pytest.mark.timeout(900)
async def test_one_of_three_upstreams_fails_in_every_way(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        mills = [stack.enter_context(Upstream()) for _ in range(3)]
        proxies = [await stack.enter_async_context(FaultProxy(mill.port)) for mill in mills]
        customer = make_customer(tmp_path, TERMS, 1_000_000_000)
        gateway = gateway_with(tmp_path, proxies)
        try:
            await asyncio.to_thread(gateway.wait_ready)
            crowd = Crowd([customer], 1, leavers=0.03, failing=0)
            pressing = asyncio.create_task(crowd.press(gateway, CLIENTS))
            noted, met = crowd.noted, {}
            await until(lambda: made(noted) >= WARM_CALLS)
            for fault in FAULTS:
                before = (failed(noted), proxies[0].broken)
                await meet(proxies[0], fault)
                well = made(noted) + WELL_CALLS
                await until(lambda well=well: made(noted) >= well)
                met[fault] = (failed(noted) - before[0], proxies[0].broken - before[1])
            await until(lambda: made(noted) >= CALLS_LEAST)
            crowd.stopping = True
            await pressing
        finally:
            await asyncio.to_thread(gateway.stop)
        calls, seen = made(noted), sum(proxy.seen for proxy in proxies)
        print(f"{calls} calls, {failed(noted)} failed, {seen - calls} extra, by fault (failed, met): {met}")
        assert failed(noted) <= calls * 0.01, f"{failed(noted)} of {calls} calls failed: {noted.told}"
        assert seen - calls <= calls * 0.10, f"{seen - calls} extra calls for {calls}"
        assert crowd.problems == []
        produced = Counter[str]()
        for mill in mills:
            produced.update({name: call["tokens"] for name, call in mill.calls().items()})
        with shop_of(tmp_path) as shop:
            found, extra = noted.against(shop.db)
            found += noted.of_streams_cut_short(shop.db, produced)
            assert found + books.problems(shop.db, [customer]) == []
        assert extra == 0
