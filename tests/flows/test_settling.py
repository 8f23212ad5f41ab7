"""What is held for a job: billed once, and given back when the books cannot be looked at."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.sell.test_access import Shop, terms
from tollway.flows.settling import settle_once
from tollway.kit.clock import ManualClock
from tollway.kit.db import Database
from tollway.kit.errors import Unavailable
from tollway.sell.demand import Demand
from tollway.sell.metering import Recorder, UsageEvent


def event_of(shop: Shop, clock: ManualClock) -> UsageEvent:
    caller = shop.caller()
    return UsageEvent(
        "evt_job", "job", shop.org.id, caller.key.id, caller.account.subscription_id, shop.plan.id, "m", "1",
        "fine-tuning", "ok", clock.now_ms(), 10, 0, 20, 0, 0, 0, None, 0, False,
    )  # fmt: skip


async def test_what_is_held_comes_back_when_the_books_are_away(db: Database, clock: ManualClock, pepper: bytes) -> None:
    shop = Shop(db, clock, pepper, terms(), wallet_micros=10_000)
    recorder = Recorder(db, clock, lambda _: None)
    service: Any = SimpleNamespace(access=shop.access, recorder=recorder)
    grant = shop.access.admit(shop.caller(), Demand("m", 1_000, 1_000))
    spending = grant.spending
    await recorder.close()
    with pytest.raises(Unavailable):
        await settle_once(service, grant, event_of(shop, clock))
    assert not spending.busy and spending.tokens == 0


async def test_what_is_in_the_books_is_not_billed_again(db: Database, clock: ManualClock, pepper: bytes) -> None:
    shop = Shop(db, clock, pepper, terms(), wallet_micros=10_000)
    recorder = Recorder(db, clock, lambda _: None)
    service: Any = SimpleNamespace(access=shop.access, recorder=recorder)
    try:
        for _ in range(2):
            grant = shop.access.admit(shop.caller(), Demand("m", 1_000, 1_000))
            await settle_once(service, grant, event_of(shop, clock))
        assert recorder.events == 1
        assert grant.spending.tokens == 30 and not grant.spending.busy
    finally:
        await recorder.close()
