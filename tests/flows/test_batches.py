"""A batch that cannot be worked on any more: what was answered is billed and kept; a full disk is waited for."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.sell.test_access import Shop as Customer
from tests.sell.test_access import terms
from tollway.flows import batch_run
from tollway.flows.batch_journal import Journal
from tollway.flows.gateway import Gateway
from tollway.kit import jobs
from tollway.kit.clock import ManualClock
from tollway.kit.errors import Conflict, Unavailable
from tollway.kit.jobs import Job
from tollway.kit.settings import Settings
from tollway.sell import batches, files, usage
from tollway.sell.metering import UsageEvent
from tollway.serve import models
from tollway.shop import Shop


class House:
    """A gateway, and a customer whose batch has one answer, one error, and a line without either."""

    def __init__(self, gateway: Gateway, customer: Customer) -> None:
        self.gateway, self.shop, self.customer = gateway, gateway.shop, customer
        self.home = Path(gateway.shop.settings.home)
        order = batches.Order(
            key_id=customer.key.id, endpoint="/v1/embeddings", input_file_id="file_gone", metadata={}, lines=3, expires_ms=0
        )  # fmt: skip
        asked = msgspec.to_builtins(order)
        self.job = Job(id="batch_1", kind="not_taken_up", org_id=customer.org.id, asked=asked, created_ms=0)
        with self.shop.db.write() as conn:
            jobs.create(conn, self.job, 10)
        self.event = UsageEvent(
            f"evt_{batches.code_of('batch_1', '0')}", "req", customer.org.id, customer.key.id, "sub", customer.plan.id, "m",
            "1", "embeddings", "ok", self.shop.clock.now_ms(), 300, 0, 0, 0, 0, 0, None, 0, False, tier="batch",
        )  # fmt: skip

    async def answer(self) -> None:
        journal = Journal(self.home / "batches" / "batch_1")
        journal.open()
        await journal.keep(0, True, {"custom_id": "a"}, self.event)
        await journal.keep(1, False, {"custom_id": "b"}, None)
        await journal.close()

    def found(self) -> Job:
        with self.shop.db.read() as conn:
            return jobs.get(conn, self.job.kind, self.job.id)

    def content(self, file_id: Any) -> bytes:
        with self.shop.db.read() as conn:
            return files.path_of(files.root_in(self.home), files.get(conn, self.job.org_id, file_id)).read_bytes()


@pytest.fixture
async def house(tmp_path: Path, clock: ManualClock) -> AsyncIterator[House]:
    shop = Shop.open(Settings(tmp_path, environment={}), clock)
    customer = Customer(shop.db, clock, shop.secrets.pepper, terms(), wallet_micros=10_000_000)
    gateway = Gateway(shop)
    await gateway.open()
    yield House(gateway, customer)
    await gateway.close()


async def test_what_was_answered_before_a_batch_failed_is_billed_and_kept(house: House) -> None:
    await house.answer()
    await house.gateway.batches.fail(house.job, Conflict("The key of this batch is gone.", code="key_gone"))
    found = house.found()
    made = batches.made_of(found)
    assert (found.status, found.error and found.error["code"]) == ("failed", "key_gone")
    assert (made.completed, made.failed) == (1, 1)
    assert house.content(made.output_file_id) == b'{"custom_id":"a"}\n'
    assert house.content(made.error_file_id) == b'{"custom_id":"b"}\n'
    with house.shop.db.read() as conn:
        assert usage.find_event(conn, house.event.id).price_picos == made.price_picos
    assert made.price_picos and not (house.home / "batches" / "batch_1").exists()


async def test_a_batch_that_never_began_fails_without_files(house: House) -> None:
    await house.gateway.batches.fail(house.job, Conflict("No."))
    made = batches.made_of(house.found())
    assert house.found().status == "failed"
    assert (made.output_file_id, made.error_file_id, made.price_picos) == (None, None, 0)


async def test_a_full_disk_ends_no_batch(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.answer()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(Unavailable):
            await house.gateway.batches.fail(house.job, Conflict("No."))
    assert house.found().open
    await house.gateway.batches.fail(house.job, Conflict("No."))
    assert house.content(batches.made_of(house.found()).output_file_id) == b'{"custom_id":"a"}\n'


async def test_a_batch_whose_model_never_comes_up_expires_and_says_what_it_waited_for(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("_NOTE_EVERY_S", 0.02), ("_WAITS_AFTER_S", 0.05), ("_PAUSE_MOST_S", 0.05)):
        monkeypatch.setattr(batch_run, name, seconds)
    shop = Shop.open(Settings(tmp_path, environment={"TOLLWAY_QUEUE_TIMEOUT_S": "0.2"}), clock)
    customer = Customer(shop.db, clock, shop.secrets.pepper, terms(), wallet_micros=10_000_000)
    with shop.db.write() as conn:
        models.offer_upstream(conn, 0, "m", "embedding", models.Upstream("http://127.0.0.1:9/v1", "m"))
        calls = tmp_path / "calls.jsonl"
        body = {"model": "m", "input": "a toll road"}
        row = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body}
        calls.write_bytes(msgspec.json.encode(row) + b"\n")
        root = files.root_in(tmp_path)
        root.mkdir(parents=True, exist_ok=True)
        made, aside = files.take_in(root, 0, customer.org.id, customer.key.id, "c.jsonl", "batch", calls.read_bytes())
        files.keep(conn, root, made, aside, 10**6)
    gateway = Gateway(shop)
    await gateway.open()

    def found() -> Job:
        with shop.db.read() as conn:
            return jobs.get(conn, batches.KIND, job.id)

    async def until(true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.02)

    try:
        caller = gateway.service.access.identify(customer.key.secret)
        job = await gateway.batches.create(caller, made.id, "/v1/embeddings", {})
        await until(lambda: bool(jobs.waits_for(found())))
        why = jobs.waits_for(found())
        assert found().status == "running" and why
        clock.advance(hours=25)
        await until(lambda: not found().open)
        assert found().status == "expired"
        with shop.db.read() as conn:
            told = [event.message for event in jobs.events(conn, job.id, 9)]
            errors = files.get(conn, customer.org.id, str(batches.made_of(found()).error_file_id))
            assert usage.totals(conn, customer.org.id, 0).requests == 0
        assert any("it waited: " in one for one in told)
        line = msgspec.json.decode(files.path_of(root, errors).read_bytes())
        assert line["custom_id"] == "a" and line["error"]["code"] == "batch_expired"
        assert line["error"]["message"].startswith("This request could not be executed before the batch expired. ")
        assert len(line["error"]["message"]) > 75, "and why"
    finally:
        await gateway.close()
