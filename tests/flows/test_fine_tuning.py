"""Fine-tuning jobs that ended while the books were away: billed once they are back, without a new start."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.sell.test_access import Shop as Customer
from tests.sell.test_access import terms
from tollway.flows import fine_tuned, fine_tuning_bills, release
from tollway.flows.fine_tuning_worker import Worker, keep, require_trainer
from tollway.flows.gateway import Gateway
from tollway.kit import crew, jobs
from tollway.kit.clock import ManualClock
from tollway.kit.errors import BadRequest, Forbidden, NotFound
from tollway.kit.jobs import Job
from tollway.kit.settings import Settings
from tollway.sell import accounts, fine_tuning, usage
from tollway.serve import models
from tollway.shop import Shop


def ended(shop: Shop, customer: Customer, name: str, ago_s: int) -> Job:
    """A job that has trained, ended, and was not billed."""
    now_ms = shop.clock.now_ms() - ago_s * 1000
    order = fine_tuning.Order(
        key_id=customer.key.id, base="m", base_version="1", training_file="file_1", validation_file=None, suffix="",
        hyperparameters={}, seed=1, metadata={}, tokens_max=900, subscription_id="sub", plan_version_id=customer.plan.id,
    )  # fmt: skip
    job = Job(
        id=name,
        kind=fine_tuning.KIND,
        org_id=customer.org.id,
        asked=msgspec.to_builtins(order),
        created_ms=now_ms,
    )
    with shop.db.write() as conn:
        jobs.create(conn, job, 10)
        return jobs.end(conn, now_ms, name, "succeeded", "Done.", settled=False, trained_tokens=700)


def test_a_shop_without_the_trainer_says_so_before_it_takes_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    require_trainer()
    monkeypatch.setattr(sys, "path", [one for one in sys.path if "site-packages" not in one])
    for name in ("torch", "transformers", "peft"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(BadRequest) as told:
        require_trainer()
    assert (told.value.code, told.value.param) == ("factory_not_installed", "model")
    assert "make setup-factory" in str(told.value)


def test_a_model_is_deleted_by_its_owner_alone(tmp_path: Path, clock: ManualClock) -> None:
    with Shop.open(Settings(tmp_path, environment={}), clock) as shop:
        with shop.db.write() as conn:
            mine, other = (accounts.create_organization(conn, 0, name).id for name in ("acme", "lotus"))
            models.offer_package(conn, 0, "m", "chat", "1")
            models.offer_adapter(conn, 0, "ft:m:mine::1", "m", "ftjob-1", "1", mine)

        def offered() -> list[str]:
            with shop.db.read() as conn:
                return [one.name for one in models.list_models(conn)]

        for org_id, name, refusal in (
            (other, "ft:m:mine::1", NotFound), (other, "ft:m:none::1", NotFound), (mine, "m", Forbidden), (other, "m", Forbidden),
        ):  # fmt: skip
            with pytest.raises(refusal) as told:
                fine_tuned.delete(shop, org_id, name)
            assert mine not in str(told.value)
        assert offered() == ["ft:m:mine::1", "m"]
        fine_tuned.delete(shop, mine, "ft:m:mine::1")
        assert offered() == ["m"]
        with pytest.raises(NotFound):
            fine_tuned.delete(shop, mine, "ft:m:mine::1")
        again = release.offer_adapter_again(shop, "ft:m:mine::1")
        assert again is not None and (again.org_id, again.base, again.package) == (mine, "m", "ftjob-1")
        assert offered() == ["ft:m:mine::1", "m"], "the operator can put it back"
        assert release.offer_adapter_again(shop, "ft:m:mine::1") is None and release.offer_adapter_again(shop, "m") is None
        release.retire(shop, "ft:m:mine::1")
        release.retire(shop, "m")
        with pytest.raises(NotFound):
            release.offer_adapter_again(shop, "ft:m:mine::1")


def test_time_that_could_not_be_written_is_told_again_once() -> None:
    worker = Worker()
    worker.put_back("ftjob_a", 5)
    worker.put_back("ftjob_a", 6)
    assert [worker.busy_us(name) for name in ("ftjob_b", "ftjob_a", "ftjob_a")] == [0, 11, 0]


async def test_a_bill_that_could_not_be_written_is_written_while_the_gateway_runs(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning_bills, "_LOOK_S", 0.02)
    shop = Shop.open(Settings(tmp_path, environment={}), clock)
    customer = Customer(shop.db, clock, shop.secrets.pepper, terms(), wallet_micros=10_000_000)
    left = ended(shop, customer, "ftjob_left", 1)
    gateway = Gateway(shop)
    await gateway.open()

    def units(job: Job) -> int:
        with shop.db.read() as conn:
            try:
                return usage.find_event(conn, fine_tuning.event_of(job.id)).units
            except NotFound:
                return 0

    def settled(job: Job) -> bool:
        with shop.db.read() as conn:
            return jobs.get(conn, fine_tuning.KIND, job.id).settled

    async def until_settled(job: Job) -> None:
        async with asyncio.timeout(60):
            while not settled(job):
                await asyncio.sleep(0.02)

    try:
        await until_settled(left)  # what an earlier gateway left is billed at once
        late, fresh = ended(shop, customer, "ftjob_late", 31), ended(shop, customer, "ftjob_fresh", 1)
        await until_settled(late)
        assert units(late) == 700
        assert not settled(fresh) and not units(fresh), "whoever ended it may be writing its bill"
        clock.advance(seconds=30)
        await until_settled(fresh)
        assert units(fresh) == 700
    finally:
        await gateway.close()


async def test_a_trained_model_that_never_comes_up_is_waited_for_and_costs_nothing(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its base is gone. What was trained stays on the shelf; nobody pays, and nobody finds it on offer later."""
    monkeypatch.setattr(fine_tuned, "_LOADED_WITHIN_S", 0.05)
    monkeypatch.setattr(crew, "LOOK_S", 0.02)
    shop = Shop.open(Settings(tmp_path, environment={"TOLLWAY_JOB_WAIT_S": "3600"}), clock)
    customer = Customer(shop.db, clock, shop.secrets.pepper, terms(), wallet_micros=10_000_000)
    done = ended(shop, customer, "ftjob_done", 0)
    name = "ft:m:acme:model:1"
    with shop.db.write() as conn:
        jobs.change(conn, done.id, settled=True)
        job = Job(
            id="ftjob_waits", kind=fine_tuning.KIND, org_id=customer.org.id, asked=done.asked,
            made={"model": name, "trained_tokens": 900}, created_ms=clock.now_ms(),
        )  # fmt: skip
        jobs.create(conn, job, 10)
        models.offer_adapter(conn, clock.now_ms(), name, "m", "ftjob-waits", "1", customer.org.id)
    adapter = tmp_path / "adapter.gguf"
    adapter.touch()
    folder = tmp_path / "fine_tuning" / job.id
    folder.mkdir(parents=True)
    keep(folder, {"adapter": str(adapter)})
    gateway = Gateway(shop)
    await gateway.open()

    def found() -> Job:
        with shop.db.read() as conn:
            return jobs.get(conn, fine_tuning.KIND, job.id)

    async def until(true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.02)

    try:
        await until(lambda: bool(jobs.waits_for(found())))
        assert found().open and "could not be loaded" in jobs.waits_for(found())
        clock.advance(seconds=3601)
        await until(lambda: not found().open)
        error = found().error or {}
        assert (found().status, error.get("code")) == ("failed", "job_gave_up")
        assert "could not be loaded" in error["message"] and found().settled
        with shop.db.read() as conn, pytest.raises(NotFound):
            usage.find_event(conn, fine_tuning.event_of(job.id))
        with shop.db.read() as conn, pytest.raises(NotFound):
            models.get_model(conn, name)
        assert not gateway.service.access.account(customer.org.id).spending.busy, "what was held is given back"
        assert keep_is_there(folder), "what was trained is not thrown away"
    finally:
        await gateway.close()


def keep_is_there(folder: Path) -> bool:
    return (folder / "made.json").is_file()
