"""One of three upstreams fails in every way a network can: callers hardly notice, and pay for nothing they did not get."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from tests.proof import books
from tests.proof.faults import FAULTS, FaultProxy
from tests.proof.house import GatewayProcess, make_customer, shop_of, start_gateway
from tests.proof.load import MODEL, Crowd
from tests.proof.upstream import Upstream
from tollway.sell.catalog import Charge, Terms
from tollway.serve import models

TERMS = Terms(
    charges=(Charge(meter="output_tokens", price_micros=2_300_000), Charge(meter="input_tokens", price_micros=700_000))
)
CLIENTS = 3
WARM_S = 1.0
FAULT_S = 0.5
MET_LEAST = 2
WELL_S = 1.5


def gateway_with(home: Path, proxies: list[FaultProxy]) -> GatewayProcess:
    """A gateway whose one model has three addresses."""
    urls = [proxy.url for proxy in proxies]
    upstream = models.Upstream(urls[0], MODEL, more=tuple(urls[1:]))
    with shop_of(home) as shop, shop.db.write() as conn:
        models.offer_upstream(conn, shop.clock.now_ms(), MODEL, "chat", upstream)
    return start_gateway(home, starter=False, wait=False, env={"TOLLWAY_CALL_TIMEOUT_S": "30"})


async def until(found: Callable[[], bool], within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not found():
            await asyncio.sleep(0.02)


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
            await asyncio.sleep(WARM_S)
            met = {}
            for fault in FAULTS:
                before = (crowd.noted.refused, sum(crowd.noted.unanswered.values()), proxies[0].broken)
                proxies[0].fault = fault
                await until(lambda before=before: proxies[0].broken >= before[2] + MET_LEAST, 60)
                await asyncio.sleep(FAULT_S)
                proxies[0].fault = ""
                healed = proxies[0].seen
                await until(lambda healed=healed: proxies[0].seen >= healed + 20, 60)
                await asyncio.sleep(WELL_S)
                after = (crowd.noted.refused, sum(crowd.noted.unanswered.values()), proxies[0].broken)
                met[fault] = tuple(new - old for new, old in zip(after, before, strict=True))
            crowd.stopping = True
            await pressing
        finally:
            await asyncio.to_thread(gateway.stop)
        noted = crowd.noted
        failed = noted.refused + sum(noted.unanswered.values())
        calls = len(noted.answered) + len(noted.left) + failed
        seen = sum(proxy.seen for proxy in proxies)
        print(f"{calls} calls, {failed} failed, {seen - calls} extra, by fault (failed, unanswered, met): {met}")
        assert failed <= calls * 0.01, f"{failed} of {calls} calls failed"
        assert seen - calls <= calls * 0.10, f"{seen - calls} extra calls for {calls}"
        assert crowd.problems == []
        with shop_of(tmp_path) as shop:
            found, extra = noted.against(shop.db)
            assert found + books.problems(shop.db, [customer]) == []
        assert extra == 0
