"""When a device's use is billed: in the month it was made, as long as that month's invoice is not final."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tollway.edge import chain
from tollway.flows.edge_usage import EdgeUsage, event_id
from tollway.flows.gateway import Gateway
from tollway.kit.clock import ManualClock, to_ms
from tollway.kit.errors import PaymentRequired
from tollway.kit.settings import Settings
from tollway.sell import accounts, api_keys, billing, catalog, edge_devices, ledger, tables
from tollway.sell.access import Caller
from tollway.sell.demand import Demand
from tollway.sell.edge_devices import EdgeDevice
from tollway.shop import Shop

MARCH, APRIL = "2026-03", "2026-04"
TERMS = catalog.Terms(
    overage="wallet", charges=(catalog.Charge(meter="input_tokens", price_micros=1_000_000, included=100),)
)
DEARER = catalog.Terms(overage="wallet", charges=(catalog.Charge(meter="input_tokens", price_micros=5_000_000),))


class World:
    """A gateway without models, an organization with a device, a clock that is moved by hand."""

    def __init__(self, gateway: Gateway, clock: ManualClock) -> None:
        self.gateway, self.clock, self.db = gateway, clock, gateway.shop.db
        self.usage = EdgeUsage(gateway.shop, gateway.service)
        with self.db.write() as conn:
            now_ms = clock.now_ms()
            self.org = accounts.create_organization(conn, now_ms, "acme", "a@example.com")
            plan = catalog.create_plan(conn, now_ms, "p", "P", TERMS)
            catalog.subscribe(conn, now_ms, self.org.id, plan.id)
            ledger.top_up(conn, now_ms, self.org.id, "USD", 1_000_000, "t")
            self.key = api_keys.issue_key(conn, now_ms, gateway.shop.secrets.pepper, self.org.id, "k").secret
            self.secret = chain.key_of(gateway.shop.secrets.pepper, "dev_1")
            self.before = chain.beginning(self.secret, "dev_1", "sha256:0")
            edge_devices.register(
                conn,
                EdgeDevice(
                    id="dev_1", org_id=self.org.id, name="d", model="mood", model_version="1", digest="sha256:0",
                    input="text", created_ms=now_ms, revoked_ms=None, head_n=0, head_seal=self.before,
                    last_at_ms=now_ms, synced_ms=None,
                ),
            )  # fmt: skip
        self.number = 0

    def made(self, *units: int) -> list[dict[str, Any]]:
        """Entries that the device makes now."""
        found = []
        for one in units:
            self.number += 1
            entry: dict[str, Any] = {
                "n": self.number, "at_ms": self.clock.now_ms(), "operation": "classification", "meter": "input_tokens",
                "units": one,
            }  # fmt: skip
            entry["seal"] = self.before = chain.sealed(self.secret, self.before, entry)
            found.append(entry)
        return found

    async def caller(self) -> Caller:
        await self.gateway.refresh()
        return self.gateway.service.access.identify(self.key)

    async def send(self, entries: list[dict[str, Any]]) -> Any:
        return await self.usage.take(await self.caller(), "dev_1", self.clock.now_ms(), entries)

    def to(self, *moment: int) -> None:
        self.clock.advance(seconds=(to_ms(datetime(*moment, tzinfo=UTC)) - self.clock.now_ms()) / 1000)  # type: ignore[arg-type,misc]

    def booked(self) -> list[tuple[str, int, int]]:
        """(month, tokens, price in micros) of each event, in the order of the log."""
        columns = tables.usage_event.c
        with self.db.read() as conn:
            rows = {row.id: row for row in conn.execute(sa.select(tables.usage_event).order_by(columns.at_ms))}
        found = [rows[event_id("dev_1", number + 1)] for number in range(len(rows))]
        months = [datetime.fromtimestamp(row.at_ms / 1000, tz=UTC).strftime("%Y-%m") for row in found]
        return [(month, row.input_tokens, row.price_picos // 10**6) for month, row in zip(months, found, strict=True)]

    def invoice(self, period: str, *, final: bool) -> billing.Invoice:
        with self.db.write() as conn:
            subscription = catalog.list_subscriptions(conn, self.org.id)[0]
            made = billing.draft(conn, self.clock.now_ms(), subscription.id, period)
            return billing.finalise(conn, self.clock.now_ms(), made.id) if final else made


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = ManualClock(datetime(2026, 3, 10, tzinfo=UTC))
    gateway = Gateway(Shop.open(Settings(tmp_path, environment={}), clock))
    await gateway.open()
    yield World(gateway, clock)
    await gateway.close()


async def test_use_of_last_month_is_billed_in_last_month_while_its_invoice_is_a_draft(world: World) -> None:
    world.to(2026, 3, 30)
    entries = world.made(60, 60)  # 100 are free a month
    world.to(2026, 4, 2)
    entries += world.made(30)
    world.invoice(MARCH, final=False)
    taken = await world.send(entries)
    assert (taken.accepted, taken.moved) == (3, 0)
    assert world.booked() == [(MARCH, 60, 0), (MARCH, 60, 20), (APRIL, 30, 0)]
    final = world.invoice(MARCH, final=True)
    assert [line.quantity for line in final.lines if line.meter == "input_tokens"] == [120]


async def test_a_final_invoice_does_not_change_and_what_comes_late_is_billed_now(world: World) -> None:
    world.to(2026, 3, 30)
    late = world.made(70)
    world.to(2026, 4, 2)
    final = world.invoice(MARCH, final=True)
    taken = await world.send(late + world.made(40))
    assert (taken.accepted, taken.moved) == (2, 1)
    assert world.booked() == [(APRIL, 70, 0), (APRIL, 40, 10)]  # together beyond the free ones of April
    with world.db.read() as conn:
        assert billing.get_invoice(conn, final.id) == final
        assert billing.audit(conn) == []


async def test_each_entry_costs_what_the_plan_of_its_time_says(world: World) -> None:
    world.to(2026, 3, 12)
    entries = world.made(150)
    world.to(2026, 3, 15)
    with world.db.write() as conn:
        dearer = catalog.create_plan(conn, world.clock.now_ms(), "q", "Q", DEARER)
        catalog.subscribe(conn, world.clock.now_ms(), world.org.id, dearer.id)
    world.to(2026, 3, 16)
    entries += world.made(10)
    await world.send(entries)
    assert world.booked() == [(MARCH, 150, 50), (MARCH, 10, 50)]
    with world.db.read() as conn:
        assert ledger.wallet_micros(conn, world.org.id, "USD") == 1_000_000 - 100


async def test_a_wallet_that_is_too_small_goes_below_zero_and_the_next_call_is_refused(world: World) -> None:
    world.to(2026, 3, 12)
    await world.send(world.made(1_500_000))
    with world.db.read() as conn:
        assert ledger.wallet_micros(conn, world.org.id, "USD") == 1_000_000 - 1_499_900
    caller = await world.caller()
    with pytest.raises(PaymentRequired):
        world.gateway.service.access.admit(caller, Demand("mood", 10, 0))


async def test_with_several_gateways_what_a_device_used_leaves_the_slices(postgres_url: str, tmp_path: Path) -> None:
    """Else the free units that it took would be free once more as soon as a gateway gives its slices back."""
    clock = ManualClock(datetime(2026, 3, 10, tzinfo=UTC))
    environment = {"TOLLWAY_DATABASE_URL": postgres_url, "TOLLWAY_GATEWAYS": "many"}
    settings = Settings(tmp_path, environment=environment)
    gateway = Gateway(Shop.open(settings, clock))
    await gateway.open()
    try:
        world = World(gateway, clock)
        caller = await world.caller()
        access = gateway.service.access
        access.release(await gateway.service.admit(caller, Demand("mood", 50, 0)))  # its gateway has slices now
        last_month = world.made(40)
        world.to(2026, 4, 2)
        caller = await world.caller()
        access.release(await gateway.service.admit(caller, Demand("mood", 50, 0)))
        await world.send(last_month + world.made(70, 50))
        assert world.booked() == [(MARCH, 40, 0), (APRIL, 70, 0), (APRIL, 50, 20)]
        with world.db.read() as conn:
            lease = tables.lease.c
            april = lease.scope.contains(f":{APRIL}:")
            free = conn.execute(sa.select(sa.func.sum(lease.amount)).where(lease.kind == "units", april)).scalar()
            money = conn.execute(sa.select(sa.func.sum(lease.amount)).where(lease.kind == "wallet")).scalar() or 0
            left = ledger.wallet_micros(conn, world.org.id, "USD")
        assert free == 0
        assert money <= left * 1_000_000
    finally:
        await gateway.close()
