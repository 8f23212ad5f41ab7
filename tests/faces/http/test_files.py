"""A file is sent as it lies on the disk, a piece at a time, whole."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.sell.test_access import Shop as Customer
from tests.sell.test_access import terms
from tollway.faces.http import files as door
from tollway.flows import uploads
from tollway.flows.gateway import Gateway
from tollway.kit.clock import ManualClock
from tollway.kit.errors import NotFound
from tollway.kit.settings import Settings
from tollway.sell import files
from tollway.shop import Shop


class House:
    """A gateway with one organization, whose files may be put there and asked for."""

    def __init__(self, gateway: Gateway, customer: Customer) -> None:
        self.gateway, self.customer = gateway, customer
        self.doors = door.Files(gateway)

    def put(self, data: bytes) -> files.StoredFile:
        root = uploads.root_of(self.gateway.shop)
        aside = root / "made.jsonl"
        aside.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(data)
        org_id, key_id = self.customer.org.id, self.customer.key.id
        with self.gateway.shop.db.write() as conn:
            files.keep_made(conn, root, 0, "file_made", org_id, key_id, "m.jsonl", 1, aside)
            return files.get(conn, org_id, "file_made")

    async def ask(self, file_id: str) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("nothing is read")

        scope: Any = {"path": f"/v1/files/{file_id}/content", "query_string": b""}
        caller = self.gateway.service.access.identify(self.customer.key.secret)
        await self.doors.content(scope, receive, send, caller, "call", [])
        return sent


@pytest.fixture
async def house(tmp_path: Path, clock: ManualClock) -> AsyncIterator[House]:
    shop = Shop.open(Settings(tmp_path, environment={}), clock)
    customer = Customer(shop.db, clock, shop.secrets.pepper, terms())
    gateway = Gateway(shop)
    await gateway.open()
    yield House(gateway, customer)
    await gateway.close()


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 950])
async def test_a_download_is_whole_and_no_piece_is_large(
    house: House, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(door, "_PIECE", 100)
    data = bytes(number % 251 for number in range(size))
    head, *body = await house.ask(house.put(data).id)
    assert dict(head["headers"])[b"content-length"] == b"%d" % size
    assert b"".join(one["body"] for one in body) == data
    assert max(len(one["body"]) for one in body) <= 100
    assert [one.get("more_body", False) for one in body] == [True] * (len(body) - 1) + [False]


async def test_a_file_whose_bytes_are_gone_is_not_found(house: House) -> None:
    found = house.put(b"x")
    files.path_of(uploads.root_of(house.gateway.shop), found).unlink()
    with pytest.raises(NotFound):
        await house.ask(found.id)
