"""What a call costs the gateway, in steps of Python that can be counted: a feature that every call pays for is seen.

A timing on a shared machine says little; how many functions run between a request's first byte and its answer's last is
the same on every machine. The bounds are what it takes today and a little more: raise one in the commit that needs it.
"""

import asyncio
import http.client
import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from tests.proof.house import chat, make_customer, offer_upstream
from tests.proof.upstream import Upstream, prompt
from tollway.faces.http.app import build
from tollway.faces.http.guard import guarded
from tollway.flows.gateway import Gateway
from tollway.kit.clock import SystemClock
from tollway.kit.settings import Settings
from tollway.sell.catalog import Charge, Terms, UsageLimits
from tollway.shop import Shop

TERMS = Terms(
    overage="wallet",
    charges=(Charge(meter="input_tokens", price_micros=700_000), Charge(meter="output_tokens", price_micros=2_300_000)),
    limits=UsageLimits(rpm=1_000_000, tpm=1_000_000_000, concurrency=100, monthly_tokens=1_000_000_000),
)
CALLS = 40
LOOK = 2
JSON_STEPS_MAX = 515  # functions of Python and C that one call begins on the loop of the gateway; 510 today
STREAM_STEPS_MAX = 680  # three pieces; 630 today


class Steps:
    """Counts the functions that begin on this thread."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, _frame: FrameType, event: str, _: Any) -> None:
        if event in ("call", "c_call"):
            self.count += 1

    def __enter__(self) -> "Steps":
        sys.setprofile(self.note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


@pytest.mark.parametrize(("stream", "most"), [(False, JSON_STEPS_MAX), (True, STREAM_STEPS_MAX)])
def test_a_call_takes_no_more_steps_than_we_agreed_to_pay(tmp_path: Path, stream: bool, most: int) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the loop of `tollway up`
        found = runner.run(_steps_of_calls(tmp_path, stream))
    assert most * 0.6 < min(found) <= most, f"{min(found):.0f} steps a call"


async def _steps_of_calls(tmp_path: Path, stream: bool) -> list[float]:
    """Steps a call, in a few looks at a gateway in this process, over HTTP."""
    with Upstream() as upstream:
        offer_upstream(tmp_path, "mill", upstream.url)
        customer = make_customer(tmp_path, TERMS, 1_000_000_000)
        gateway = Gateway(Shop.open(Settings(tmp_path, environment={}), SystemClock()))
        await gateway.open()
        await gateway.service.fleet.wait_ready()
        config = uvicorn.Config(build(gateway), interface="asgi3", proxy_headers=False, timeout_keep_alive=75)
        config.load()
        state, protocol = ServerState(), guarded(10, 10, 100)
        server = await asyncio.get_running_loop().create_server(lambda: protocol(config, state, {}), "127.0.0.1")
        port = server.sockets[0].getsockname()[1]
        body = json.dumps(chat(prompt("x", 3), "mill", stream=stream, max_tokens=16))
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

        def call(times: int) -> None:
            for _ in range(times):
                client.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {customer.key}"})
                answer = client.getresponse()
                assert (answer.status, bool(answer.read())) == (200, True)

        try:
            await asyncio.to_thread(call, CALLS)  # connections, memos and caches are there then
            found = []
            for _ in range(100):  # what runs beside the calls, a few times a second, does not fall into each of these
                with Steps() as steps:
                    await asyncio.to_thread(call, LOOK)
                found.append(steps.count / LOOK)
        finally:
            await asyncio.to_thread(client.close)
            server.close()
            await gateway.close()
    return found
