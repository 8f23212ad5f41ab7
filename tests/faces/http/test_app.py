"""What anybody may ask costs the gateway little, however often they ask."""

import asyncio
import re
from types import SimpleNamespace
from typing import Any

import pytest

from tests.clients.open_shop import OpenShop
from tollway.faces.http.app import Scrapes


class Measured:
    """A gateway that counts how often it is measured, and what it was when it was."""

    def __init__(self) -> None:
        self.calls, self.times, self.at_once, self.most = 0, 0, 0, 0
        self.service = SimpleNamespace(metrics=self)

    async def measure(self) -> None:
        self.times += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0.02)
        self.at_once -= 1

    def exposition(self) -> bytes:
        return b"calls %d" % self.calls


async def test_many_who_ask_for_metrics_share_a_few_measurements_and_hear_nothing_old() -> None:
    gateway: Any = Measured()
    scrapes = Scrapes(gateway)
    asked: list[tuple[int, asyncio.Task[bytes]]] = []
    for _ in range(60):
        gateway.calls += 1
        asked += [(gateway.calls, asyncio.create_task(scrapes.next())) for _ in range(10)]
        await asyncio.sleep(0.005)
    for number, task in asked:
        assert int((await task).split()[1]) >= number, "told what was before it was asked"
    assert gateway.most == 1 and gateway.times < 120, "of 600 that asked"


async def test_a_measurement_that_fails_fails_for_those_who_waited_for_it_only() -> None:
    gateway: Any = Measured()
    scrapes, measure = Scrapes(gateway), gateway.measure

    async def broken() -> None:
        raise OSError("away")

    gateway.measure = broken
    with pytest.raises(OSError, match="away"):
        await scrapes.next()
    gateway.measure = measure
    assert await scrapes.next() == b"calls 0"


@pytest.mark.engine
def test_the_description_of_the_api_is_the_same_each_time(open_shop: OpenShop) -> None:
    with open_shop.http("") as client:
        for path in ("/openapi.json", "/docs"):
            first, second = client.get(path), client.get(path)
            assert first.status_code == 200 and first.content == second.content and len(first.content) > 10_000


@pytest.mark.engine
def test_the_page_of_the_api_names_every_parameter_of_the_description(open_shop: OpenShop) -> None:
    with open_shop.http("") as client:
        told, page = client.get("/openapi.json").json(), client.get("/docs").text
    parts = re.split(r'<h2 id="[^"]*">', page)
    sections = {re.sub(r"<[^>]+>", "", part.partition("</h2>")[0]): part for part in parts}
    missing, named = [], 0
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            names = [one["name"] for one in operation.get("parameters", ())]
            for content in operation.get("requestBody", {}).get("content", {}).values():
                schema = content["schema"]
                fields = told["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
                names += fields.get("properties", {})
            section = sections[f"{method.upper()} {path}"]
            named += len(names)
            missing += [f"{method} {path}: {name}" for name in names if f"<td><code>{name}</code></td>" not in section]
    assert missing == [] and named > 150
    links = set(re.findall(r'href="#([^"]+)"', page))
    assert links and links <= set(re.findall(r'<h2 id="([^"]+)"', page)), "every shape that is named is shown"
    assert 'Message</a>' in sections["POST /v1/chat/completions"] and '"user"' in sections["Message"].replace("&quot;", '"')
